"""What a multitask model scores: the same as each task alone."""

import multi
import pytest
import torch
from datasets import Dataset

from multitask.model.multitask_model import MultitaskModel
from multitask.model.task_heads import Answer, ClassificationHead, QuestionAnsweringHead, TokenClassificationHead
from training.data.data import load_task
from training.data.encoding import Encoded, encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.evaluation.metrics import tag_accuracy
from training.loop.processes import make_accelerator
from training.models.base_models import Source, load_backbone


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
    visited = []

    def metrics(task, rows, guesses):
        visited.append((task, len(guesses)))
        return {"constant": 0.25}

    result = model.evaluate_all_tasks(
        {"topic": held_out("topic"), "keys": held_out("keys")}, multi.TOKENIZER, compute_metrics_fn=metrics
    )
    assert visited == [("topic", 21), ("keys", 31)] and all(scores["constant"] == 0.25 for scores in result.values())
    assert set(result["topic"]) == {"eval_loss", "constant"} and set(result) == {"topic", "keys"}  # no mean over scales


def test_defect_30_the_heads_have_6921_parameters_not_nine_million():
    """'Task heads 2M / 4M / 3M' for 2, 4 and 3 labels at width 768."""
    heads = [ClassificationHead(768, n) for n in (2, 4, 3)]
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [1538, 3076, 2307]
    assert sum(p.numel() for head in heads for p in head.parameters()) == 6921
    assert sum(p.numel() for p in QuestionAnsweringHead(768).parameters()) == 1538
    assert sum(p.numel() for p in TokenClassificationHead(768, 5).parameters()) == 3845
