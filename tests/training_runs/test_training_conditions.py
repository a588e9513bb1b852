"""The rule that says whether a difference counts, on numbers whose answer is known."""

from training.studies.conditions import Measured, report, verdicts


def measured(task, random, full, lora, head):
    values = {"full, random weights": random, "full": full, "lora": lora, "head": head}
    return Measured(task, values, 1.0)


GOOD = [
    measured("nli", [0.4, 0.5, 0.45], [0.6, 0.7, 0.65], [0.6, 0.7, 0.66], [0.4, 0.5, 0.44]),
    measured("qa", [0.4, 0.5, 0.45], [0.6, 0.7, 0.65], [0.6, 0.7, 0.66], [0.4, 0.5, 0.44]),
    measured("data2text", [1.0, 1.1, 1.2], [0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [1.1, 1.2, 1.3]),
    measured("topic", [0.7, 0.7, 0.7], [0.8, 0.7, 0.6], [0.8, 0.8, 0.8], [0.9, 0.9, 0.9]),
]


def test_paired_differences_and_loss_turned_round():
    mean, error = GOOD[2].gap("full", "full, random weights")
    assert abs(mean - 0.5) < 1e-12 and error < 1e-12  # seeds differ, pairs do not
    assert GOOD[3].gap("full", "full, random weights")[0] < 1e-12 and not GOOD[3].clearly("full", "full, random weights")


def test_all_conditions_hold_or_one_by_one_do_not():
    assert all(verdicts(GOOD).values())
    assert list(verdicts(GOOD[2:]).values()) == [False, True, False, True]
    assert list(verdicts(GOOD[:3]).values()) == [True, True, True, False]
    harmed = measured("sentiment", [0.9, 0.9, 0.9], [0.5, 0.51, 0.5], [0.9, 0.9, 0.9], [0.9, 0.9, 0.9])
    assert list(verdicts([*GOOD, harmed]).values()) == [True, False, True, True]
    assert "NO: and harms on none (on 1)" in report([*GOOD, harmed], range(3))
