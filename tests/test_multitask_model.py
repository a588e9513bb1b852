"""Heads and the multitask model. Oracle: each task alone, torch's own losses, and what must not matter (padding, other rows)."""

import copy

import multi
import pytest
import tiny
import tiny_folder
import torch
from datasets import Dataset
from torch.nn import functional as F

from adapters.bottleneck import BottleneckConfig
from loralib import LoraConfig
from multitask.balancing import Equal
from multitask.files import load_multitask, save_multitask
from multitask.mixed_batches import collate, measure, split_by_task
from multitask.multitask_model import MultitaskModel
from multitask.steps import Learner
from multitask.task_heads import Answer, ClassificationHead, QuestionAnsweringHead, TaskHeads, TokenClassificationHead, pool
from training.base_models import Source, load_backbone
from training.data import load_task
from training.encoding import Encoded, encode
from training.evaluation import HeldOut, evaluate
from training.metrics import tag_accuracy
from training.processes import make_accelerator
from training.tasks import TaskSpec, find_task

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5")
ENCODERS = ("bert", "roberta", "distilbert", "t5")


def padded(ids: torch.Tensor, left: int = 0, right: int = 0):
    """The same texts with padding: ids, mask."""
    mask = F.pad(torch.ones_like(ids), (left, right))
    return F.pad(ids, (left, right)), mask


# ---------------------------------------------------------------- pooling and heads


def test_pooling_against_its_words():
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(pool(states, mask, "mean"), torch.stack([states[0, 1:3].mean(0), states[1].mean(0)]))
    assert torch.equal(pool(states, mask, "last"), torch.stack([states[0, 2], states[1, 3]]))
    assert torch.equal(pool(states, mask, "first"), torch.stack([states[0, 1], states[1, 0]]))
    with pytest.raises(ValueError, match="mean, last, first"):
        pool(states, mask, "max")


@pytest.mark.parametrize("family", FAMILIES)
def test_defect_6_padding_says_nothing_to_any_head(family):
    model, ids = multi.model(family), tiny.ids(3, 2, 7)
    for task, spec in multi.TASKS.items():
        plain = model(ids, task_name=task)
        ids2, mask = padded(ids, right=4)
        more = model(ids2, mask, task_name=task)
        if spec.kind == "qa":
            torch.testing.assert_close(more["start_logits"][:, :7], plain["start_logits"], atol=1e-5, rtol=1e-5)
            assert more["end_logits"][:, 7:].max() < -1e30  # no answer lies in padding
        else:
            got = more["logits"][:, :7] if spec.kind == "tagging" else more["logits"]
            torch.testing.assert_close(got, plain["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_defect_5_a_decoder_is_read_at_its_last_real_token(family):
    """Where tokens see only those before them, the first token knows nothing: another last word must change the answer."""
    model, ids = multi.model(family), tiny.ids(4, 2, 6)
    assert model.made_with["pooling"] == ("mean" if family in ENCODERS else "last")
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % 40
    padded_ids, mask = padded(ids, right=3)
    padded_other, _ = padded(other, right=3)
    one, two = (model(i, mask, task_name="topic")["logits"] for i in (padded_ids, padded_other))
    assert (one - two).abs().min() > 1e-4
    if family not in ENCODERS:
        blind = multi.model(family, pooling="first")
        assert torch.equal(blind(ids, task_name="topic")["logits"], blind(other, task_name="topic")["logits"])


def test_defect_7_names_that_module_dict_refuses_work():
    with pytest.raises(KeyError):
        torch.nn.ModuleDict({"glue.stsb": torch.nn.Linear(1, 1)})
    spec = multi.TASKS["topic"]
    names = ("glue.sst2", "type", "keys", "training", "a b", "x/y")
    heads = TaskHeads(8, dict.fromkeys(names, spec))
    assert len({id(heads[name]) for name in names}) == len(names)
    twin = TaskHeads(8, dict.fromkeys(names, spec))
    twin.load_state_dict(heads.state_dict())
    with pytest.raises(KeyError, match=r"no task 'sst2'; there are glue\.sst2"):
        heads["sst2"]


def test_defect_8_any_backbone_and_only_the_inputs_it_knows():
    ids, types = tiny.ids(2, 2, 5), torch.tensor([[0, 0, 0, 1, 1]] * 2)
    bert, distil = multi.model("bert"), multi.model("distilbert")
    assert not torch.equal(bert(ids, token_type_ids=types, task_name="topic")["logits"], bert(ids, task_name="topic")["logits"])
    assert torch.equal(distil(ids, token_type_ids=types, task_name="topic")["logits"], distil(ids, task_name="topic")["logits"])
    hooked = []
    bert.backbone.register_forward_hook(lambda m, inputs, kwargs, out: hooked.append((kwargs, out)), with_kwargs=True)
    bert(ids, task_name="topic")
    [(kwargs, out)] = hooked
    assert "output_hidden_states" not in kwargs and out.hidden_states is None  # no layer's states are kept for nothing


def test_defect_9_a_wrong_or_missing_task_raises():
    model, ids = multi.model(), tiny.ids()
    with pytest.raises(TypeError, match="task_name"):
        model(ids)
    with pytest.raises(KeyError, match="no task 'sst2'"):
        model(ids, task_name="sst2")
    batch = multi.manager().get_mixed_batch()
    with pytest.raises(ValueError, match="does not say which task"):
        model.forward_mixed({k: v for k, v in batch.items() if k != "task_ids"})
    with pytest.raises(ValueError, match="expected 0 to 4"):
        model.forward_mixed(batch | {"task_ids": batch["task_ids"] + 1})
    with pytest.raises(TypeError, match="'label'"):
        model(ids, task_name="topic", label=torch.zeros(3))
    model(ids, task_name="qa")
    with pytest.raises(TypeError):  # no task is remembered from the call before
        model(ids)


def test_the_head_of_another_task_can_be_shared_if_the_labels_are_the_same():
    specs = {"nli": find_task("nli"), "sick": find_task("sick"), "topic": find_task("topic")}
    model = multi.model(tasks=specs, shared_heads={"sick": "nli"})
    assert model.heads["sick"] is model.heads["nli"] and model.heads["topic"] is not model.heads["nli"]
    shared = model.shared_parameters()
    assert any("task:nli" in n for n in shared) and not any("task:topic" in n for n in shared)
    assert torch.equal(model(tiny.ids(), task_name="sick")["logits"], model(tiny.ids(), task_name="nli")["logits"])
    circle = {"nli": "sick", "sick": "nli"}
    for wrong, words in (({"topic": "nli"}, "cannot share"), ({"sick": "mnli"}, "none of its own"), (circle, "none of its own")):
        with pytest.raises(ValueError, match=words):
            multi.model(tasks=specs, shared_heads=wrong)


def test_kinds_without_a_head_are_refused():
    with pytest.raises(ValueError, match="generation"):
        TaskHeads(8, {"d": find_task("data2text")})
    with pytest.raises(ValueError, match="at least one task"):
        MultitaskModel(multi.backbone(), {})


# ---------------------------------------------------------------- losses


def test_defect_10_a_flat_batch_of_questions_trains():
    model, ids = multi.model(), tiny.ids()
    loss = model(ids, task_name="qa", start_positions=torch.tensor([1, 2, 3]), end_positions=torch.tensor([2, 2, 5])).loss
    loss.backward()
    assert model.heads["qa"].qa_outputs.weight.grad.abs().sum() > 0


def test_defect_11_an_answer_that_was_cut_off_adds_nothing():
    model, ids = multi.model(), tiny.ids()
    start, end = torch.tensor([1, -100, 3]), torch.tensor([2, -100, 5])
    both = model(ids, task_name="qa", start_positions=start, end_positions=end).loss
    kept = torch.tensor([0, 2])
    only = model(ids[kept], task_name="qa", start_positions=start[kept], end_positions=end[kept]).loss
    torch.testing.assert_close(both, only)
    none = model(ids, task_name="qa", start_positions=torch.full((3,), -100), end_positions=torch.full((3,), -100)).loss
    assert float(none) == 0.0


def test_defects_12_and_13_tags_against_torch_and_a_batch_without_any():
    model, ids = multi.model(), tiny.ids()
    labels = torch.randint(0, 3, (3, 9), generator=torch.Generator().manual_seed(1))
    labels[:, 4:] = -100
    answer = model(ids, task_name="type", labels=labels)
    wanted = F.cross_entropy(answer["logits"].flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(answer.loss, wanted)
    empty = model(ids, task_name="type", labels=torch.full((3, 9), -100)).loss
    assert float(empty) == 0.0 and torch.isnan(F.cross_entropy(answer["logits"].flatten(0, 1), torch.full((27,), -100)))


def test_defect_13_only_the_first_piece_of_a_word_has_a_label():
    tok = tiny_folder.tokenizer()  # byte pairs: words come in pieces
    spec = TaskSpec("t", "tagging", ("tokens",), "tags", ("O", "B-PER"))
    [feature] = encode({"tokens": [["unbelievable", "stories"]], "tags": [[1, 0]]}, spec, tok, 64).features
    assert [label for label in feature["labels"] if label != -100] == [1, 0] and len(feature["labels"]) > 2


def test_defect_14_every_kind_trains_and_its_loss_is_torchs():
    model, ids = multi.model(), tiny.ids()
    numbers, flags = torch.tensor([0.5, 3.0, 4.5]), torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    answer = model(ids, task_name="glue.stsb", labels=numbers)
    torch.testing.assert_close(answer.loss, F.mse_loss(answer["logits"][:, 0], numbers))
    answer = model(ids, task_name="keys", labels=flags)
    torch.testing.assert_close(answer.loss, F.binary_cross_entropy_with_logits(answer["logits"], flags))
    [batch] = next(multi.manager())
    losses = [float(answer_loss(model, task, answer, rows)) for task, (answer, rows) in model.forward_mixed(batch).items()]
    assert len(losses) == 5 and all(loss > 0 for loss in losses)


def answer_loss(model, task, answer, rows):
    return model._mean_loss(task, answer, rows)


# ---------------------------------------------------------------- evaluation


def held_out(task: str, count: int = 21) -> HeldOut:
    spec, rows = multi.TASKS[task], multi.features(count=count)[task]
    columns = {"label": [row.get("labels", 0) for row in rows]}
    return HeldOut(spec, Dataset.from_dict(columns), Encoded(rows, 0))


def test_defect_15_a_perfect_tagger_scores_one_and_no_more():
    truth = [["O"] * 7 + ["B-PER"] * 9, ["O"]]
    assert tag_accuracy(truth, truth) == 1.0
    assert tag_accuracy([["O"] * 16, ["O"]], truth) == pytest.approx(8 / 17)  # words count, not sentences


def test_defect_16_questions_are_scored():
    spec = find_task("qa")
    backbone, tok = load_backbone(Source("encoder"))
    data = load_task(spec)["test"].select(range(4))
    encoded = encode(data[:], spec, tok, 96)
    model = MultitaskModel(backbone, {"qa": spec}, 0.0)
    at = {"n": 0}

    class Perfect(torch.nn.Module):
        def forward(self, hidden_states, attention_mask):
            start, end = (torch.full(attention_mask.shape, -9.0) for _ in range(2))
            for i in range(len(start)):
                feature = encoded.features[at["n"] + i]
                start[i, feature["start_positions"]], end[i, feature["end_positions"]] = 9.0, 9.0
            at["n"] += len(start)
            return Answer(start_logits=start, end_logits=end)

    model.heads.heads["task:qa"] = Perfect()
    scores = model.evaluate_task("qa", HeldOut(spec, data, encoded), tok)
    assert scores["exact_match"] == 1.0 and scores["f1"] == 1.0


def test_defect_17_everything_in_a_batch_is_a_tensor_of_its_own():
    for batch in (multi.manager().get_mixed_batch(), multi.manager().get_batch("qa")):
        assert all(isinstance(value, torch.Tensor) for value in batch.values())


@pytest.mark.parametrize("training", [True, False])
def test_defect_18_evaluation_leaves_the_mode_as_it_was(training):
    model = multi.model(dropout=0.5).train(training)
    options = {"tokenizer": multi.TOKENIZER}
    a, b = (model.evaluate_task("topic", held_out("topic"), **options) for _ in range(2))
    assert a == b, "without dropout"
    assert all(m.training == training for m in model.modules())
    with pytest.raises(KeyError):
        model.evaluate_task("nothing", held_out("topic"), **options)
    assert model.training == training


@pytest.mark.parametrize("task", ["topic", "glue.stsb", "type"])
def test_defect_19_the_loss_does_not_depend_on_the_batch_size(task):
    view, rows = multi.model().for_task(task), held_out(task)
    score = lambda *_: {}  # noqa: E731
    losses = [evaluate(view, rows, multi.TOKENIZER, make_accelerator(), size, score)["eval_loss"] for size in (21, 8, 1)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_a_metric_of_your_own_takes_the_place_of_the_tasks():
    model = multi.model()
    seen = []

    def metrics(task, rows, guesses):
        seen.append((task, len(guesses)))
        return {"constant": 0.25}

    found = model.evaluate_all_tasks(
        {"topic": held_out("topic"), "keys": held_out("keys")}, multi.TOKENIZER, compute_metrics_fn=metrics
    )
    assert seen == [("topic", 21), ("keys", 31)] and all(scores["constant"] == 0.25 for scores in found.values())
    assert set(found["topic"]) == {"eval_loss", "constant"} and set(found) == {"topic", "keys"}  # no mean over scales


def test_defect_30_the_heads_have_6921_parameters_not_nine_million():
    """'Task heads 2M / 4M / 3M' for 2, 4 and 3 labels at width 768."""
    heads = [ClassificationHead(768, n) for n in (2, 4, 3)]
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [1538, 3076, 2307]
    assert sum(p.numel() for head in heads for p in head.parameters()) == 6921
    assert sum(p.numel() for p in QuestionAnsweringHead(768).parameters()) == 1538
    assert sum(p.numel() for p in TokenClassificationHead(768, 5).parameters()) == 3845


# ---------------------------------------------------------------- task embeddings, task adapters, files


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
    assert model.resting({"topic"}) >= {n for n in trained if "task1-" in n}
    assert not any("task0-" in n for n in model.resting({"topic"}))


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
    found = model.forward_mixed(batch)
    assert sum(len(rows["input_ids"]) for _, rows in found.values()) == 30 == len(batch["input_ids"])
    for task, (answer, rows) in found.items():
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
