"""What the tasks of a multitask model are given as: a dictionary of `TaskSpec`."""

from typing import Any

from training.data.tasks import TaskSpec


def check_tasks(tasks: Any, call: str) -> None:
    """TypeError unless `tasks` is a dictionary of `TaskSpec`; the message shows how one is made."""
    wrong = [t for t in tasks.values() if not isinstance(t, TaskSpec)] if isinstance(tasks, dict) else [tasks]
    if wrong:
        raise TypeError(
            f"{call}: expected tasks={{name: TaskSpec}}, found {type(wrong[0]).__name__}. A known task is "
            "`training.data.tasks.find_task('sst2')`; your own is TaskSpec(name, kind, inputs, target, labels), and its kind is "
            "classification, multilabel, regression, tagging or qa"
        )
