"""Finished runs as rows of one table."""

from training.reports.records import file_size
from training.runs.result import TrainResult

HEADER = ("task", "method", "metric", "before", "after", "best possible", "trained", "file", "saved", "ms/step")


def table_rows(results: list[TrainResult]) -> list[tuple[str, ...]]:
    """One row of text per run, as HEADER names it. `best` is the computed ceiling; for a loss, lower is better."""
    return [
        (
            r.task,
            r.method,
            r.metric_name,
            f"{r.start_metric:.3f}",
            f"{r.metric:.3f}",
            "" if r.ceiling is None else f"{r.ceiling:.3f}",
            f"{r.trainable:,}",
            file_size(r.file_bytes),
            file_size(r.saved_bytes),
            f"{1000 * r.seconds_per_step:.1f}",
        )
        for r in results
    ]
