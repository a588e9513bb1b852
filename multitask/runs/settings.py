"""The settings of a multitask run: its command's options, with their help."""

import math
from dataclasses import dataclass
from pathlib import Path

from multitask.balancing.weightings import DWA_PERIOD, LOSS_METHODS, OPTIONS
from multitask.runs import option_groups as groups
from training.data.tasks import TaskSpec, find_task
from training.runs.setting_checks import at_least, below_one, known_choices, positive

KINDS = ("classification", "multilabel", "regression", "tagging", "qa")


@dataclass(frozen=True)
class MultitaskSettings(  # the last class comes first among the fields
    groups.RunFolderOptions,
    groups.EvaluationOptions,
    groups.OptimizerOptions,
    groups.TaskOptions,
    groups.MixtureOptions,
    groups.DataOptions,
):
    """Train one model on several tasks. The same command goes on with a run that was stopped or killed."""

    def __post_init__(self):
        least = {"steps": 1, "batch_size": 1, "accumulation": 1, "max_length": 2, "eval_every": 1, "save_every": 1}
        at_least(least | {"eval_rows": 1, "threads": 1, "weight_decay": 0, "seed": 0, "layers": 1, "max_examples": 1}, self)
        known_choices(self)
        below_one(("warmup_share", "dropout"), self)
        positive(("learning_rate", "max_grad_norm"), self)
        self._check_tasks()
        if self.task_embedding != "input" and not self.use_task_embeddings:
            raise ValueError("task_embedding says how, use_task_embeddings whether: give both")
        self._check_weighting()
        self._check_members()
        if self.temperature != 2.0 and self.task_sampling != "temperature":
            raise ValueError(f"temperature={self.temperature}: task_sampling {self.task_sampling!r} does not use it")
        if self.max_examples is not None and self.task_sampling == "equal":
            raise ValueError(f"max_examples={self.max_examples}: task_sampling 'equal' draws all tasks alike, of any size")

    def _check_tasks(self) -> None:
        names = list(self.specs())
        for option in ("data_dirs", "task_weights", "share_heads"):
            wrong = sorted(set(pairs(getattr(self, option), option)) - set(names))
            if wrong:
                raise ValueError(f"{option}: {', '.join(wrong)} is none of the tasks {', '.join(names)}")
        self.rows_of(names[0])
        self.weights()

    def _check_weighting(self) -> None:
        period = int(self.balancing_options().get("period", DWA_PERIOD))
        if self.loss_weighting == "dwa" and self.steps <= 2 * period:
            raise ValueError(f"loss_weighting 'dwa' is 'equal' for the first {2 * period} steps, and steps={self.steps}")
        if self.batching == "one_task" and self.loss_weighting not in LOSS_METHODS:
            raise ValueError(
                f"loss_weighting={self.loss_weighting!r} joins the gradients of several tasks, and with batching='one_task' a "
                f"batch has one: it would be 'equal'. Use batching='mixed', or loss_weighting {', '.join(LOSS_METHODS)}"
            )
        zero = [task for task, weight in zip(self.specs(), self.weights(), strict=True) if weight == 0]
        if zero and self.loss_weighting not in LOSS_METHODS:
            raise ValueError(
                f"task_weights: {', '.join(zero)}=0: loss_weighting={self.loss_weighting!r} joins the gradients of all tasks, "
                f"and a weight of 0 has none to join. Leave the task out, or take {', '.join(LOSS_METHODS)}"
            )
        if self.task_adapters != "none" and self.loss_weighting not in LOSS_METHODS:
            raise ValueError(
                f"loss_weighting={self.loss_weighting!r} joins gradients in what tasks share, and with "
                f"task_adapters={self.task_adapters!r} they share no parameter that trains; of use: {', '.join(LOSS_METHODS)}"
            )

    def _check_members(self) -> None:
        if not self.members:
            return
        if len(self.member_folders()) < 2:
            raise ValueError(f"members={self.members!r}: a fusion has at least two, joined by commas")
        if self.task_adapters != "none":
            raise ValueError("members are fused, task_adapters are chosen row by row: give one of them")
        if self.use_task_embeddings or self.loss_weighting not in LOSS_METHODS:
            raise ValueError(
                f"members: of use with loss_weighting {', '.join(LOSS_METHODS)} (a fusion pulls its values to the identity by a "
                "term of the loss, which belongs to no task), and without use_task_embeddings (the backbone is frozen)"
            )

    def balancing_options(self) -> dict[str, float]:
        """The options of the weighting method. ValueError for one that the method does not have."""
        given = pairs(self.weighting_options, "weighting_options")
        known = OPTIONS.get(self.loss_weighting, {})
        wrong = sorted(set(given) - set(known))
        if wrong:
            raise ValueError(
                f"weighting_options={self.weighting_options!r}: loss_weighting {self.loss_weighting!r} has no option "
                f"{wrong[0]!r}; it has {', '.join(known) or 'none'}"
            )
        return {name: _number(value, f"weighting_options: {name}") for name, value in given.items()}

    def member_folders(self) -> list[Path]:
        return [Path(folder) for folder in self.members.split(",") if folder]

    def specs(self) -> dict[str, TaskSpec]:
        """The tasks by name, in their order. ValueError for a task that is unknown, named twice, or written by a decoder."""
        names = [name.strip() for name in self.tasks.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"tasks={self.tasks!r}: expected different names, joined by commas")
        specs = {name: find_task(name) for name in names}
        for name, spec in specs.items():
            if spec.kind not in KINDS:
                raise ValueError(f"task {name!r} is of kind {spec.kind}: multitask heads answer {', '.join(KINDS)}")
        return specs

    def weights(self) -> list[float]:
        """The static weight of each task."""
        given = pairs(self.task_weights, "task_weights")
        return [_number(given.get(task, "1"), f"task_weights: {task}") for task in self.specs()]

    def rows_of(self, task: str) -> int | None:
        """How many training examples a task may have; None is all."""
        if "=" not in self.train_rows:
            value = self.train_rows or None
        else:
            given = pairs(self.train_rows, "train_rows")
            wrong = sorted(set(given) - set(self.specs()))
            if wrong:
                raise ValueError(f"train_rows: {', '.join(wrong)} is none of the tasks {self.tasks}")
            value = given.get(task)
        count = None if value is None else _number(value, "train_rows")
        if count is not None and (count < 1 or count % 1):
            raise ValueError(f"train_rows={self.train_rows!r}: expected whole numbers of at least 1")
        return None if count is None else int(count)

    def folder(self) -> Path:
        return Path(self.out or f"runs/multitask-{'-'.join(self.specs())}")


def pairs(text: str, option: str) -> dict[str, str]:
    """`a=1,b=2` as a dictionary; ValueError for anything else."""
    values: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip() or name.strip() in values:
            raise ValueError(f"{option}={text!r}: expected NAME=VALUE, joined by commas, each name once")
        values[name.strip()] = value.strip()
    return values


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: expected a number") from None
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={text}: expected 0 or more, and finite")
    return value
