"""Task embeddings, an adapter for each task, files and mixed batches of a multitask model."""

import copy

import multi
import pytest
import tiny
import torch

from adapters.bottleneck.bottleneck import BottleneckConfig
from loralib import LoraConfig
from multitask.balancing.balancing import Equal
from multitask.data.mixed_batches import collate, measure, split_by_task
from multitask.model.files import load_multitask, save_multitask
from multitask.model.multitask_model import MultitaskModel
from multitask.model.task_embeddings import TaskEmbeddings
from multitask.runs.steps import Learner
from training.data.tasks import find_task
from training.models.base_models import Source, load_backbone


@pytest.mark.parametrize("kind", ["input", "layer_norm"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama", "t5"])
def test_a_task_embedding_starts_as_nothing_and_parts_the_tasks(family, kind):
    plain, model, ids = multi.model(family), multi.model(family, task_embedding=kind), tiny.ids()
    for task in ("topic", "keys"):
        assert torch.equal(model(ids, task_name=task)["logits"], plain(ids, task_name=task)["logits"])
    states = lambda task: model.states(ids, torch.ones_like(ids), None, torch.full((3,), model.number(task)))  # noqa: E731
    states("topic").square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.embeddings.parameters())
    with torch.no_grad():
        for p in model.embeddings.parameters():
            p[0] += 0.1
    assert not torch.allclose(states("topic"), states("keys"))
    assert torch.equal(states("keys"), plain.states(ids, torch.ones_like(ids), None, torch.zeros(3, dtype=torch.long)))
    twin = copy.deepcopy(model)  # the copy's hooks belong to the copy
    with torch.no_grad():
        for p in model.embeddings.parameters():
            p[0] += 1.0
    assert not torch.allclose(twin(ids, task_name="topic")["logits"], model(ids, task_name="topic")["logits"])


def test_a_norm_that_depends_on_the_task_is_its_formula():
    """norm(h) ⊙ (1 + γ_k) + β_k, with the γ and β of each row's own task."""
    norm = torch.nn.LayerNorm(3)
    h = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    plain = norm(h)
    embeddings = TaskEmbeddings(torch.nn.Sequential(norm), 2, "layer_norm")
    with torch.no_grad():
        embeddings.scale[0].copy_(torch.tensor([[0.5, 0.0, -0.5], [1.0, 2.0, 3.0]]))
        embeddings.shift[0].copy_(torch.tensor([[0.0, 0.0, 0.0], [10.0, 20.0, 30.0]]))
    embeddings.choose(torch.tensor([1, 0]))
    first = plain[0] * torch.tensor([2.0, 3.0, 4.0]) + torch.tensor([10.0, 20.0, 30.0])
    second = plain[1] * torch.tensor([1.5, 1.0, 0.5])
    torch.testing.assert_close(norm(h), torch.stack([first, second]))


@pytest.mark.parametrize("config", [LoraConfig(r=2, target_modules="all-linear"), BottleneckConfig(reduction_factor=4)])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_adapters_of_a_task_act_on_its_rows_alone(family, config):
    model, plain = multi.model(family, task_adapters=config), multi.model(family)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not model.shared_parameters() and all("heads." in n or "task" in n for n in trained)
    for p in (p for n, p in model.named_parameters() if "task0-topic" in n):
        p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    batch = multi.manager().get_mixed_batch(20)
    mixed = model.forward_mixed(batch)
    reference = plain.forward_mixed(batch)
    for task in mixed:
        answer, rows = mixed[task]
        alone = model(rows["input_ids"], rows["attention_mask"], task_name=task)
        field = "start_logits" if task == "qa" else "logits"
        torch.testing.assert_close(answer[field], alone[field], atol=1e-5, rtol=1e-5)
        same = torch.allclose(answer[field], reference[task][0][field], atol=1e-5)
        assert same == (task != "topic"), task
    assert model.without_gradient({"topic"}) >= {n for n in trained if "task1-" in n}
    assert not any("task0-" in n for n in model.without_gradient({"topic"}))


LORA = LoraConfig(r=2, target_modules="all-linear")
KINDS = [{}, {"task_embedding": "layer_norm"}, {"task_adapters": LORA}, {"task_adapters": BottleneckConfig()}]


@pytest.mark.parametrize("options", KINDS)
def test_a_saved_model_comes_back_to_the_bit(options, tmp_path):
    source = Source("encoder", 3)
    backbone, tok = load_backbone(source, 1)
    specs = {"nli": find_task("nli"), "tagging": find_task("tagging"), "qa": find_task("qa")}
    model = MultitaskModel(backbone, specs, pooling="first", seed=5, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05)
    size = save_multitask(tmp_path / "m", model, tok, source, 1, 77)
    again, _, limit = load_multitask(tmp_path / "m")
    assert limit == 77 and size == (tmp_path / "m" / "weights.safetensors").stat().st_size
    ids = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    for task, field in (("nli", "logits"), ("tagging", "logits"), ("qa", "start_logits")):
        assert torch.equal(model(ids, task_name=task)[field], again(ids, task_name=task)[field])
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="no multitask model"):
        load_multitask(tmp_path / "m")


@pytest.mark.parametrize("family", ["t5", "llama", "distilbert"])
def test_other_backbones_come_back_too(family, tmp_path):
    _, tok = load_backbone(Source("encoder"))
    model = multi.model(family)
    save_multitask(tmp_path, model, tok, Source("nowhere"), None, 64)
    again, _, _ = load_multitask(tmp_path)
    for task in ("topic", "type"):
        assert torch.equal(model(tiny.ids(), task_name=task)["logits"], again(tiny.ids(), task_name=task)["logits"])


# ---------------------------------------------------------------- mixed batches


def test_defects_24_and_25_every_row_of_a_mixed_batch_is_answered_as_if_alone():
    model, manager = multi.model(dtype=torch.float64), multi.manager(batch_size=30)
    batch = manager.get_mixed_batch()
    result = model.forward_mixed(batch)
    assert sum(len(rows["input_ids"]) for _, rows in result.values()) == 30 == len(batch["input_ids"])
    for task, (answer, rows) in result.items():
        for i in range(len(rows["input_ids"])):
            n = int(rows["attention_mask"][i].sum())
            alone = model(rows["input_ids"][i : i + 1, :n], task_name=task)
            for field in ("logits", "start_logits"):
                if getattr(alone, field) is not None:
                    got = answer[field][i : i + 1]
                    got = got[:, :n] if task in ("type", "qa") else got
                    torch.testing.assert_close(got, alone[field])


def test_a_step_split_by_task_has_the_same_losses():
    model = multi.model(dtype=torch.float64)
    learner = Learner(model, Equal([s.kind for s in multi.TASKS.values()]))
    [batch] = next(multi.manager(batch_size=30))
    parts = split_by_task(batch)
    assert len(parts) == 5 and [int(p["leads"]) for p in parts] == [1, 0, 0, 0, 0]
    torch.testing.assert_close(sum(learner.total(part) for part in parts), learner.total(batch))


def test_a_batch_says_what_its_step_holds():
    rows = [(0, multi.features()["topic"][0]), (3, multi.features()["type"][0]), (0, multi.features()["topic"][1])]
    batch = collate(rows, [spec.kind for spec in multi.TASKS.values()], 0)
    measure([batch], {0: 2, 3: 9}, {0: 2, 3: 1})
    assert batch["task_ids"].tolist() == [0, 0, 3] and float(batch["0.share"]) == pytest.approx(2 / 3)
    assert batch["3.labels"].shape[1] == batch["input_ids"].shape[1] and int(batch["3.count"]) == 9
