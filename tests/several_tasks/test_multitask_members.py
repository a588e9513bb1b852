"""Adapters of single runs, fused in one backbone on the mix of their tasks: what is frozen, what is learnt, what is saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.bottleneck.checkpoint import adapter_tensors
from adapters.fusion.fuse import active_fusion
from adapters.fusion.fusion import AdapterFusion, fusion_penalty
from loralib.files.file_tensors import file_tensors
from multitask.data.mixed_batches import collate, measure
from multitask.model.files import load_multitask
from multitask.runs.run import TRAINED, build_model, load_rows, run_multitask
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import Learner
from multitask.runs.trainer import MultitaskTrainer
from training import train_model

QUICK = {
    "tasks": "sentiment,nli",
    "steps": 4,
    "eval_every": 4,
    "eval_rows": 16,
    "train_rows": "32",
    "batch_size": 8,
    "threads": 1,
}
SINGLE = {"trackers": "", "samples": 0, "threads": 1, "eval_every": 10**6, "eval_rows": 16, "steps": 4}


@pytest.fixture(scope="module", params=["bottleneck", "lora"])
def members(request, tmp_path_factory) -> str:
    """Two trained adapters, of tasks of one model."""
    folder = tmp_path_factory.mktemp(request.param)
    for task in ("sentiment", "nli"):
        train_model(task, method=request.param, out=str(folder / task), **SINGLE)
    return ",".join(str(folder / task / "adapter") for task in ("sentiment", "nli"))


def test_the_members_are_in_the_backbone_bit_for_bit_and_only_the_fusion_and_heads_train(members):
    model, _, _ = build_model(MultitaskSettings(**QUICK, members=members))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".fusions." in name or name.startswith("heads.") for name in trained)
    assert active_fusion(model.backbone).names == ("sentiment", "nli")
    folder = Path(members.split(",")[1])
    if (folder / "adapter.safetensors").exists():
        saved, own, cut = load_file(folder / "adapter.safetensors"), adapter_tensors(model.backbone, "nli"), "bert."
    else:
        saved, own, cut = load_file(folder / "adapter_model.safetensors"), file_tensors(model.backbone, "nli"), "model.bert."
    body = {key.replace(cut, cut.removesuffix("bert."), 1): value for key, value in saved.items() if "encoder." in key}
    assert body.keys() == own.keys() and len(body) > 3
    assert all(torch.equal(own[key], value) for key, value in body.items())


def test_the_pull_to_the_identity_is_in_the_loss_once_a_step(members):
    settings = MultitaskSettings(**QUICK, members=members)
    model, tokenizer, _ = build_model(settings)
    for module in model.modules():
        if isinstance(module, AdapterFusion):
            module.value.weight.data.mul_(0.5)
    rows = load_rows(settings, tokenizer, 128)
    kinds = [spec.kind for spec in model.tasks.values()]
    features = [(k, feature) for k, part in enumerate(rows.values()) for feature in part.train[:4]]
    batches = [collate(features[i::2], kinds, tokenizer.pad_token_id) for i in range(2)]
    measure(batches, {0: 4, 1: 4}, {0: 4, 1: 4})
    learner = Learner(model.eval(), MultitaskTrainer(model, tokenizer, settings).balancing)
    pull = float(torch.as_tensor(fusion_penalty(model)).detach())
    assert pull > 0.1
    tasks = [sum(share * float(loss.detach()) for loss, _, share in learner.losses(batch).values()) for batch in batches]
    totals = [float(learner.total(batch).detach()) for batch in batches]
    assert totals == pytest.approx([tasks[0] + pull, tasks[1]], rel=1e-6)


def test_a_fusion_on_the_mix_is_loaded_again_bit_for_bit_without_the_folders_of_its_members(members, tmp_path):
    settings = MultitaskSettings(**QUICK, members=members, out=str(tmp_path / "run"))
    result = run_multitask(settings)
    first, tokenizer, _ = load_multitask(tmp_path / "run" / TRAINED)
    again, _, _ = load_multitask(tmp_path / "run" / TRAINED)
    weights = load_file(tmp_path / "run" / TRAINED / "weights.safetensors")
    assert all(".fusions." in name or name.startswith("heads.") for name in weights)
    assert result["file_bytes"] > (tmp_path / "run" / TRAINED / "weights.safetensors").stat().st_size
    inputs = tokenizer(["it was good .", "anna is in paris ."], return_tensors="pt", padding=True)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        for task in first.names:
            assert torch.equal(first(**inputs, task_name=task).logits, again(**inputs, task_name=task).logits)
    start, _, _ = build_model(settings)
    moved = [name for name, p in start.named_parameters() if p.requires_grad and not torch.equal(p, first.get_parameter(name))]
    assert len(moved) > 0.9 * len(weights)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": "one"}, "at least two"),
        ({"members": "a,b", "task_adapters": "lora"}, "give one of them"),
        ({"members": "a,b", "loss_weighting": "pcgrad"}, "a term of the loss"),
        ({"members": "a,b", "use_task_embeddings": True}, "the backbone is frozen"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        MultitaskSettings(**QUICK, **changes)


@pytest.mark.fault
def test_folders_that_are_no_members_are_refused(members, tmp_path):
    first = members.split(",")[0]
    with pytest.raises(ValueError, match="no adapter of a run"):
        build_model(MultitaskSettings(**QUICK, members=f"{first},{tmp_path}"))
    with pytest.raises(ValueError, match="one adapter for each task"):
        build_model(MultitaskSettings(**QUICK, members=f"{first},{first}"))
    with pytest.raises(ValueError, match="sentiment/adapter does not fit this backbone") as records:
        build_model(MultitaskSettings(**QUICK, members=members, model="decoder"))
    assert str(records.value).count("sentiment/adapter") >= 2  # no path of a copy that is gone
