"""How often each task is sampled: proportional, by temperature, equal, annealed; and examples sampled without replacement.

    p_i ∝ min(n_i, cap)^(1/T)        n_i examples of task i

T = 1 is proportional, T → ∞ equal (Raffel et al. 2020, section 3.5.2); the cap keeps a huge task from drowning the others.
Annealed sampling goes from proportional to nearly equal over the epochs, p_i ∝ n_i^α with α = 1 - 0.8 (e - 1) / (E - 1)
(Stickland & Murray 2019).
"""

import math

import numpy as np

KINDS = ("proportional", "temperature", "equal", "annealed")


def task_probabilities(
    sizes: dict[str, int], kind: str = "proportional", temperature: float = 1.0, cap: int | None = None, progress: float = 0.0
) -> dict[str, float]:
    """The chance of each task, in the order of `sizes`. `progress` in [0, 1] is used by annealed sampling alone.

    ValueError for an unknown kind, a task without examples, or a temperature or cap that makes no sense.
    """
    if kind not in KINDS:
        raise ValueError(f"task sampling {kind!r} is unknown; there are {', '.join(KINDS)}")
    empty = [task for task, size in sizes.items() if size < 1]
    if empty or not sizes:
        raise ValueError(f"tasks without examples cannot be sampled: {empty or 'there is no task'}")
    if not temperature >= 1:
        raise ValueError(f"temperature={temperature}: expected 1 (proportional) or more (inf is equal)")
    if cap is not None and cap < 1:
        raise ValueError(f"cap={cap}: expected at least 1 example")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress}: expected 0 to 1")
    power = {"proportional": 1.0, "temperature": 1 / temperature, "equal": 0.0, "annealed": 1 - 0.8 * progress}[kind]
    logs = {task: power * math.log(min(size, cap or size)) for task, size in sizes.items()}  # logs: no size overflows
    top = max(logs.values())
    weights = {task: math.exp(value - top) for task, value in logs.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


class RowStream:
    """The numbers 0 … size-1 in a new order each time through, forever: sampling without replacement, pass after pass."""

    def __init__(self, size: int, seed: int | list[int]):
        if size < 1:
            raise ValueError(f"a stream of {size} examples: expected at least 1")
        self.size, self.seed, self.taken = size, [seed] if isinstance(seed, int) else list(seed), 0

    def take(self, count: int) -> list[int]:
        """The numbers of the next examples; a request may run over the end of a pass."""
        rows: list[int] = []
        while len(rows) < count:
            epoch, place = divmod(self.taken, self.size)
            order = np.random.default_rng([*self.seed, epoch]).permutation(self.size)
            part = order[place : place + count - len(rows)].tolist()
            rows += part
            self.taken += len(part)
        return rows

    def state_dict(self) -> dict:
        return {"taken": self.taken, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        if state["size"] != self.size:
            raise ValueError(f"the stream had {state['size']} rows when it was saved, and has {self.size} now")
        self.taken = state["taken"]


class TaskSampler:
    """Draws tasks: the seed and the number of the draw alone decide, so a resumed run draws what the first one would have."""

    def __init__(
        self,
        sizes: dict[str, int],
        kind: str = "proportional",
        temperature: float = 1.0,
        cap: int | None = None,
        draws: int | None = None,
        seed: int = 0,
    ):
        if kind == "annealed" and not draws:
            raise ValueError("annealed sampling goes from proportional to equal over the run: say over how many draws")
        self.sizes, self.kind, self.temperature, self.cap, self.draws, self.seed = sizes, kind, temperature, cap, draws, seed
        self.drawn = 0
        self.probabilities()  # raises now what would raise later

    def probabilities(self) -> dict[str, float]:
        """Of the next draw."""
        progress = min(1.0, self.drawn / max(1, self.draws - 1)) if self.draws else 0.0
        return task_probabilities(self.sizes, self.kind, self.temperature, self.cap, progress)

    def sample_task(self) -> str:
        """The next task."""
        names, chances = zip(*self.probabilities().items(), strict=True)
        at = np.random.default_rng([self.seed, self.drawn]).random()
        self.drawn += 1
        return names[min(int(np.searchsorted(np.cumsum(chances), at, side="right")), len(names) - 1)]

    def sample_counts(self, rows: int) -> dict[str, int]:
        """How many of a mixed batch's `rows` examples each task gives: multinomial."""
        chances = self.probabilities()
        counts = np.random.default_rng([self.seed, self.drawn]).multinomial(rows, list(chances.values()))
        self.drawn += 1
        return dict(zip(chances, counts.tolist(), strict=True))

    def state_dict(self) -> dict:
        return {"drawn": self.drawn, "sizes": dict(self.sizes)}

    def load_state_dict(self, state: dict) -> None:
        if state["sizes"] != dict(self.sizes):
            raise ValueError(f"the tasks had {state['sizes']} rows when this was saved, and have {dict(self.sizes)} now")
        self.drawn = state["drawn"]
