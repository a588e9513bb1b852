"""The report of a fusion study whose last seed was stopped before its last run."""

from multitask.studies.fusion_page import page, verdicts
from multitask.studies.fusion_study import TaskResult


def run(metric: float) -> dict:
    return {
        "metric": metric,
        "metric_name": "accuracy",
        "loss": 1 - metric,
        "trainable": 10,
        "file_bytes": 40,
        "seconds_per_step": 0.1,
        "learning_rate": 0.001,
        "steps": 5,
    }


def result(task: str, single: list[float], longer: list[float], fusion: list[float]) -> TaskResult:
    probes = [{"average": 0.5, "others": {}, "weights": [[1.0]], "names": [task]} for _ in fusion]
    alone, twice, fused = ([run(metric) for metric in metrics] for metrics in (single, longer, fusion))
    return TaskResult(task, alone, twice, fused, [], [], [], probes)


RESULTS = [
    result("sst2", [0.80, 0.82, 0.81], [0.84, 0.86, 0.85], [0.85, 0.86, 0.84]),
    result("sick", [0.70, 0.71, 0.60], [0.75, 0.76], [0.72, 0.73, 0.90]),
]


def test_a_row_with_fewer_seeds_is_named_and_compared_on_the_seeds_of_both():
    text = page(RESULTS, "python -m adapters fuse", "quality.png", "attention.png")
    assert "3 seeds (fewer: sick, own adapter, as long as the fusion: 2)" in text
    fusion_on_sick = verdicts(RESULTS).splitlines()[1]
    assert "fusion loses 0.030 against own adapter, as long as the fusion" in fusion_on_sick  # 0.72, 0.73 with 0.75, 0.76
    assert "fusion gains 0.113 against own adapter" in fusion_on_sick


def test_the_mean_of_the_tasks_gives_each_task_the_same_weight():
    text = page(RESULTS, "python -m adapters fuse", "quality.png", "attention.png")
    [line] = [line for line in text.splitlines() if line.startswith("| mean of the tasks |") and "0.5" in line]
    assert "| 0.802 |" in line  # (0.85 + 0.755) / 2
