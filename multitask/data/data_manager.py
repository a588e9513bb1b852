"""The rows of every step: which task, which rows, in mixed batches or a task at a time.

Everything is a function of the seed and the number of the step: a resumed run sees the rows that the first one would have seen,
and several processes share exactly the rows of one.
"""

from collections.abc import Iterator
from typing import Any

from multitask.data.mixed_batches import MixedBatch, answers_in, collate, measure
from multitask.data.sampling import RowStream, TaskSampler
from multitask.data.task_specs import check_tasks
from training.data.batching import checksum
from training.data.tasks import TaskSpec


class MultitaskDataManager:
    """Rows of several tasks, forever. `next` gives one step's micro-batches (this rank's part), as the training loop wants them.

    features: for each task its encoded rows (`training.data.encoding`). A step takes batch_size × accumulation × processes rows.
    mixed: examples of all tasks in each batch; otherwise a step has one task. sampling: see `TaskSampler`.
    ValueError for a task without rows, and for a tokenizer that cannot pad.
    """

    def __init__(
        self,
        features: dict[str, list[dict]],
        tasks: dict[str, TaskSpec],
        tokenizer: Any,
        batch_size: int = 16,
        mixed: bool = True,
        seed: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        processes: int = 1,
        **sampling: Any,
    ):
        check_tasks(tasks, "MultitaskDataManager(features, tasks, tokenizer)")
        if not isinstance(features, dict):
            raise TypeError(
                f"MultitaskDataManager(features, tasks, tokenizer): expected features={{task: encoded examples}}, found "
                f"{type(features).__name__}. `training.data.encoding.encode(...)` makes them; a DataLoader is not needed"
            )
        if list(features) != list(tasks):
            raise ValueError(f"rows for {list(features)}, and tasks {list(tasks)}: expected the same, in the same order")
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token")
        self.features, self.kinds, self.names = features, [spec.kind for spec in tasks.values()], list(tasks)
        self.pad_id, self.batch_size, self.mixed = tokenizer.pad_token_id, batch_size, mixed
        self.accumulation, self.rank, self.processes = accumulation, rank, processes
        sizes = {task: len(rows) for task, rows in features.items()}
        self.sampler = TaskSampler(sizes, seed=seed, **sampling)  # raises for an empty task
        self.streams = {task: RowStream(size, [seed, 1 + k]) for k, (task, size) in enumerate(sizes.items())}
        self._checksum: int | None = None

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take as many rows as there are, a task with more than the cap counted as the cap."""
        return -(-sum(min(size, self.sampler.cap or size) for size in self.sampler.sizes.values()) // self.rows_per_step)

    def sample_task(self) -> str:
        """Draw a task."""
        return self.sampler.sample_task()

    def get_batch(self, task_name: str | None = None) -> MixedBatch:
        """The next `batch_size` examples of one task, drawn if not given. KeyError for an unknown one."""
        task = self.sample_task() if task_name is None else task_name
        if task not in self.streams:
            raise KeyError(f"no task {task!r}; there are {', '.join(self.names)}")
        return self.step({task: self.batch_size}, 1)[0]

    def get_mixed_batch(self, batch_size: int | None = None) -> MixedBatch:
        """The next examples of all tasks, so many of each as the draws say."""
        return self.step(self.sampler.sample_counts(batch_size or self.batch_size), 1)[0]

    def get_epoch_iterator(self) -> Iterator[MixedBatch]:
        """One epoch of batches, mixed or a task at a time."""
        for _ in range(self.steps_per_epoch):
            yield self.get_mixed_batch() if self.mixed else self.get_batch()

    def __iter__(self) -> Iterator[list[MixedBatch]]:
        return self

    def __next__(self) -> list[MixedBatch]:
        total = self.rows_per_step
        rows = self.sampler.sample_counts(total) if self.mixed else {self.sample_task(): total}
        return self.step(rows, self.accumulation * self.processes)[self.rank :: self.processes]

    def step(self, wanted: dict[str, int], parts: int) -> list[MixedBatch]:
        """All batches of a step: part j has the rows j, j + parts, ... so that each holds the same mixture."""
        numbers = {self.names.index(task): count for task, count in wanted.items() if count}
        taken = {k: [self.features[self.names[k]][i] for i in self.streams[self.names[k]].take(n)] for k, n in numbers.items()}
        rows = [(k, feature) for k in sorted(taken) for feature in taken[k]]
        batches = [collate(rows[j::parts], self.kinds, self.pad_id) for j in range(parts)]
        measure(
            batches, {k: sum(answers_in(f, self.kinds[k]) for f in task_features) for k, task_features in taken.items()}, numbers
        )
        return batches

    def state_dict(self) -> dict:
        return {
            "sampler": self.sampler.state_dict(),
            "streams": {task: stream.state_dict() for task, stream in self.streams.items()},
            "checksum": self._sum(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where the saved manager was. ValueError when the rows are not the saved ones."""
        if state["checksum"] != self._sum():
            raise ValueError("the training examples have changed since this run was started. Start again (--restart)")
        self.sampler.load_state_dict(state["sampler"])
        for task, stream in self.streams.items():
            stream.load_state_dict(state["streams"][task])

    def _sum(self) -> int:
        if self._checksum is None:
            self._checksum = checksum([feature for rows in self.features.values() for feature in rows])
        return self._checksum
