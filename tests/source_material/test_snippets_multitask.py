"""The snippets of the multitask text (`multitask_from_scratch.md`), with our imports: each runs, or its error shows the way.

Its command is in `test_multitask_commands.py` (defect 29).
"""

import math
from types import SimpleNamespace

import multi
import pytest
import torch
from torch import nn

import multitask
from multitask.data.task_specs import check_tasks
from multitask.model.task_heads import ClassificationHead, QuestionAnsweringHead, TaskHeads, TokenClassificationHead
from training.data.encoding import Encoded
from training.data.tasks import TaskSpec, find_task
from training.evaluation.evaluation import HeldOut

SIZES = {"sentiment": 100, "topic": 300, "nli": 600}
CLASSES = {name: TaskSpec(name, "classification", ("sentence",), "label", ("a", "b", "c")) for name in ("one", "two")}


def test_shared_backbone_and_heads():
    """ "Multitask vs other approaches": heads by name, and the forward function of step 1."""
    heads = {
        "sentiment": ClassificationHead(hidden_size=24, num_labels=2),
        "topic": ClassificationHead(hidden_size=24, num_labels=4),
        "nli": ClassificationHead(hidden_size=24, num_labels=3),
    }
    backbone = multi.backbone("bert")
    shared_features = backbone(torch.tensor([[5, 6, 7]])).last_hidden_state  # (1, 3, 24)
    width = shared_features.shape[-1]
    heads = nn.ModuleDict({name: ClassificationHead(width, head.classifier.out_features) for name, head in heads.items()})
    for name, labels in (("sentiment", 2), ("topic", 4), ("nli", 3)):
        assert heads[name](shared_features)["logits"].shape == (1, labels)


def test_sampling_strategies():
    """`proportional_sampling`, `temperature_sampling`, `equal_sampling`. The source's softmax over sizes is no temperature: with
    these sizes it gives the largest task everything."""
    proportional = multitask.task_probabilities(SIZES, "proportional")
    assert proportional == pytest.approx({"sentiment": 0.1, "topic": 0.3, "nli": 0.6})
    assert multitask.task_probabilities(SIZES, "equal") == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    roots = {task: math.sqrt(size) for task, size in SIZES.items()}
    half = multitask.task_probabilities(SIZES, "temperature", temperature=2.0)
    assert half == pytest.approx({task: root / sum(roots.values()) for task, root in roots.items()})
    by_softmax = torch.softmax(torch.tensor([float(size) for size in SIZES.values()]), 0)
    assert by_softmax.max() > 0.999


@pytest.mark.parametrize("method", ["equal", "uncertainty", "gradnorm"])
def test_loss_balancing_strategies(method):
    """`UncertaintyWeighting` and `gradient_balancing` are names of `make_balancing` and of `--loss-weighting`."""
    balancing = multitask.make_balancing(method, ["classification"] * 3)
    assert all(balancing.weight(k) > 0 for k in range(3))


def test_the_three_heads_and_their_outputs():
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert ClassificationHead(8, 3, dropout_rate=0.1)(hidden)["logits"].shape == (2, 3)
    assert TokenClassificationHead(8, 4, dropout_rate=0.1)(hidden)["logits"].shape == (2, 5, 4)
    answer = QuestionAnsweringHead(8, dropout_rate=0.1)(hidden)
    assert answer["start_logits"].shape == answer["end_logits"].shape == (2, 5)


def test_task_heads_take_task_specs_and_a_dropout_rate_for_each():
    heads = TaskHeads(8, CLASSES, dropout_rate={"one": 0.3})
    assert (heads["one"].dropout.p, heads["two"].dropout.p) == (0.3, 0.1)
    assert heads(torch.zeros(1, 2, 8), "one")["logits"].shape == (1, 3)
    with pytest.raises(KeyError, match="no task 'three'; there are one, two"):
        heads(torch.zeros(1, 2, 8), "three")
    with pytest.raises(ValueError, match=r"dropout_rate for \['three'\]: there are the tasks one, two"):
        TaskHeads(8, CLASSES, dropout_rate={"three": 0.3})


def test_configs_in_the_place_of_task_specs_get_a_message():
    """Called below the type checks of these tests, which would raise first."""
    config = SimpleNamespace(task_type="classification", num_labels=2, dropout_rate=0.1)
    with pytest.raises(
        TypeError, match=r"TaskHeads.*expected tasks=\{name: TaskSpec\}, found SimpleNamespace.*find_task\('sst2'\)"
    ):
        check_tasks({"sentiment": config}, "TaskHeads(hidden_size, tasks)")
    with pytest.raises(TypeError, match="found NoneType"):
        check_tasks({"sentiment": None}, "TaskHeads(hidden_size, tasks)")
    with pytest.raises(TypeError, match="found list"):
        check_tasks(list(CLASSES.values()), "TaskHeads(hidden_size, tasks)")


def test_the_model_from_a_config_says_what_it_takes():
    config = SimpleNamespace(model_name_or_path="bert-base", tasks={})
    with pytest.raises(TypeError, match=r"MultitaskModel\(backbone, tasks\).*found SimpleNamespace.*load_backbone\(Source"):
        multitask.MultitaskModel(config)
    with pytest.raises(ValueError, match="at least one task"):
        multitask.MultitaskModel(multi.backbone())


def test_the_outputs_of_the_model_and_its_summary():
    model = multi.model("bert", CLASSES)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    answer = model(input_ids=ids, attention_mask=torch.ones_like(ids), task_name="one", labels=torch.tensor([0, 2]))
    assert answer["task_name"] == "one" and answer["logits"].shape == (2, 3) and answer["loss"].dim() == 0
    assert torch.equal(answer["hidden_states"], model.backbone(ids).last_hidden_state)
    with pytest.raises(KeyError, match=r"backbone_outputs: this answer has .*answer\['hidden_states'\]"):
        answer["backbone_outputs"]
    lines = dict(line.rsplit(maxsplit=1) for line in model.summary().splitlines()[1:-1])
    parts = {name: int(count.replace(",", "")) for name, count in lines.items()}
    assert parts.pop("all") == sum(p.numel() for p in model.parameters()) == sum(parts.values())
    assert list(parts) == ["backbone", "head of one", "head of two"] and model.summary().endswith("tasks: one, two")


def test_the_current_task_is_given_with_each_call():
    model = multi.model("bert", CLASSES)
    with pytest.raises(AttributeError, match=r"set_current_task: .*task_name= to each call, or take model\.for_task"):
        model.set_current_task("one")
    with pytest.raises(AttributeError, match="nonsense"):
        model.nonsense  # noqa: B018
    with pytest.raises(TypeError, match="task_name"):
        model(input_ids=torch.tensor([[5, 6]]))
    assert model.for_task("one")(input_ids=torch.tensor([[5, 6]])).task_name == "one"
    with pytest.raises(KeyError, match="no task 'three'"):
        model(input_ids=torch.tensor([[5, 6]]), task_name="three")


def held_out(name: str) -> HeldOut:
    features = multi.features({name: CLASSES[name]}, count=10)[name]
    return HeldOut(CLASSES[name], [{"label": row["labels"]} for row in features], Encoded(features, 0), {})


def test_evaluation_of_one_task_and_of_all():
    """`evaluate_task` and `evaluate_all_tasks`, without a mean over tasks: their scores are of different kinds."""
    model = multi.model("bert", CLASSES)
    one = model.evaluate_task("one", held_out("one"), multi.TOKENIZER)
    everything = model.evaluate_all_tasks({name: held_out(name) for name in CLASSES}, multi.TOKENIZER)
    assert everything["one"] == one and {"eval_loss", "accuracy"} <= one.keys() and "average" not in everything


def test_the_data_manager_samples_batches_and_says_what_it_takes():
    manager = multi.manager(CLASSES, batch_size=4)
    assert manager.sample_task() in CLASSES
    assert set(manager.get_batch("one")["task_ids"].tolist()) == {0}
    assert len(manager.get_mixed_batch(batch_size=6)["input_ids"]) == 6
    assert len(list(manager.get_epoch_iterator())) == manager.steps_per_epoch
    with pytest.raises(TypeError, match=r"expected tasks=\{name: TaskSpec\}"):
        multitask.MultitaskDataManager(SimpleNamespace(), {"one": []}, None)
    with pytest.raises(TypeError, match="a DataLoader is not needed"):
        multitask.MultitaskDataManager([1, 2], CLASSES, multi.TOKENIZER)


def test_the_trainer_trains_and_says_what_it_takes():
    settings = multitask.MultitaskSettings(tasks="topic,sentiment", steps=2, batch_size=4, eval_every=2)
    tasks = {name: find_task(name) for name in ("topic", "sentiment")}
    model = multi.model("bert", tasks)
    before = model.heads["topic"].classifier.weight.clone()
    progress = multitask.MultitaskTrainer(model, multi.TOKENIZER, settings).train(multi.features(tasks, count=12))
    assert progress.step == 2 and not torch.equal(model.heads["topic"].classifier.weight, before)
    with pytest.raises(TypeError, match=r"expected MultitaskTrainer\(MultitaskModel, tokenizer, MultitaskSettings"):
        multitask.MultitaskTrainer(model, settings)
