"""How alike two models are, what they know of their errors, and what the small world knows exactly. Oracle: plain loops."""

import math
import random

import pairs
import pytest
import torch
from datasets import Dataset

from distill.runs.fidelity import answers_of, calibration_error, distance_to_truth, fidelity, teachers_answers
from distill.runs.report import draw_terms, page
from distill.teacher import truth
from distill.teacher.teacher import Teacher
from training.data.data import load_task
from training.data.tasks import find_task

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_a_model_is_like_itself_and_unlike_another(kind):
    one, other, rows = pairs.model(kind, 1), pairs.model(kind, 2), pairs.features(kind)
    own = answers_of(one.train(), rows, pairs.TOKENIZER, kind, CPU)
    assert one.training, "its mode stays"
    itself, another = (teachers_answers(Teacher([m], kind), rows, pairs.TOKENIZER, CPU) for m in (one, other))
    same, apart = fidelity(kind, own, itself), fidelity(kind, own, another)
    if kind == "regression":
        expected = math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(own[0], another[0], strict=True)) / 16)
        assert same == {"rmse_to_teacher": 0.0} and apart["rmse_to_teacher"] == pytest.approx(expected)
        return
    assert same["agreement"] == 1.0 and same.get("kl_to_teacher", 0.0) == pytest.approx(0, abs=1e-12)
    assert 0 <= apart["agreement"] < 1
    if kind == "multilabel":
        pairs_ = list(zip(own[0].flatten(), another[0].flatten(), strict=True))
        assert apart == {"agreement": pytest.approx(sum((a > 0) == (b > 0) for a, b in pairs_) / len(pairs_))}
        return
    by_hand, equal = [], []
    for z, v in zip(own[0].double(), another[0].double(), strict=True):
        p, q = v.softmax(-1), z.softmax(-1)
        by_hand.append(sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True) if a > 0))
        equal.append(int(z.argmax()) == int(v.argmax()))
    assert apart["kl_to_teacher"] == pytest.approx(sum(by_hand) / len(by_hand)) and apart["agreement"] == sum(equal) / len(equal)


def test_calibration_is_the_gap_between_being_right_and_being_sure():
    rng = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(400, 3, generator=rng), torch.randint(-1, 3, (400,), generator=rng)
    labels[labels == -1] = -100
    bins: dict[int, list] = {}
    for row, label in zip(logits.double().softmax(-1), labels, strict=True):
        if label != -100:
            confidence, choice = float(row.max()), int(row.argmax())
            bins.setdefault(min(math.ceil(confidence * 15), 15), []).append((confidence, choice == int(label)))
    count = sum(map(len, bins.values()))
    expected = sum(abs(sum(c for c, _ in result) - sum(r for _, r in result)) for result in bins.values()) / count
    assert calibration_error(logits, labels) == pytest.approx(expected)
    sure = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, 100.0], [0.0, 0.0]])
    assert calibration_error(sure[:3], torch.tensor([0, 0, 1])) == pytest.approx(0)
    assert calibration_error(sure[:3], torch.tensor([1, 1, 0])) == pytest.approx(1)
    assert calibration_error(sure[3:].repeat(2, 1), torch.tensor([0, 1])) == pytest.approx(0), "a coin that knows it is one"


@pytest.mark.parametrize("task", ["topic", "sentiment"])
def test_the_worlds_posteriors_are_those_of_its_rows(task):
    rows = load_task(find_task(task))["test"].select(range(60))
    exact = truth.posteriors(task, rows)
    assert exact.shape == (60, len(find_task(task).labels))
    torch.testing.assert_close(exact.sum(-1), torch.ones(60).double())
    assert exact.max(-1).values.tolist() == pytest.approx(rows["bayes"])
    assert distance_to_truth(exact.clamp(min=1e-30).log(), exact) == pytest.approx(0, abs=1e-9)
    flat = torch.zeros(60, exact.shape[1])
    entropy = -(exact * exact.clamp(min=1e-300).log()).sum(-1)
    assert distance_to_truth(flat, exact) == pytest.approx(float((math.log(exact.shape[1]) - entropy).mean()))
    changed = rows.to_dict() | {"sentence": ["other words", *rows["sentence"][1:]]}
    with pytest.raises(ValueError, match=f"row 0 of {task} test is not the small world's: 'other words'"):
        truth.posteriors(task, Dataset.from_dict(changed))
    assert truth.posteriors("nli", rows) is None


def test_the_page_tells_what_was_measured_and_leaves_out_what_was_not(tmp_path):
    result = {
        "task": "topic",
        "losses": ["kd:T=2"],
        "metric_name": "accuracy",
        "start_metric": 0.2,
        "metric": 0.7,
        "ceiling": None,
    }
    result |= {
        "teacher_metric": 0.9,
        "agreement": 0.75,
        "ece": 0.1,
        "teacher_ece": 0.05,
        "parameters": 1234,
        "steps": 7,
        "seed": 3,
    }
    result |= {"teacher_parameters": 56789, "labelled_rows": 40, "transfer_rows": 8, "learning_rate": 1e-3, "file_bytes": 4936}
    result |= {"train_seconds": 10.0, "teacher_seconds": 2.5, "peak_bytes": 10**6}
    text = page(result)
    for records in (
        "0.7000 | 0.9000",
        "0.2000",
        "0.7500",
        "0.1000 | 0.0500",
        "1,234 | 56,789",
        "40 rows with labels, 8 without",
        "25 %",
    ):
        assert records in text, text
    assert "best possible" not in text and "KL" not in text
    assert "accuracy, best possible | 0.9500 | 0.9500" in page(result | {"ceiling": 0.95})
    rng = random.Random(0)
    rows = [{"step": 0}] + [{"step": i, "loss/kd": rng.random(), "weight/kd": 0.5} for i in range(1, 9)]
    assert draw_terms([*rows, {"step": 9, "weight/kd": 0.5}], tmp_path / "terms.png").stat().st_size > 1000
