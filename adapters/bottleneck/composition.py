"""How several adapters act together at one place: names, put together by these words.

    "a"                  z + A_a(v)                                 v is what the place's adapters look at
    Stack("a", "b")      b on top of a: b sees what a has changed
    Average("a", "b")    z + Σ w_i A_i(v): the mean of the *changes*, or a sum with weights of your own, taken as they are
    Fuse("a", "b")       z + attention over A_i(v), learned (`fusion.py`)
    BatchSplit(...)      each row of the batch has its own adapter, or none
    Parallel("a", "b")   the batch holds its rows once for each adapter (`repeated`): the first part goes through a, ...

AdapterHub's Average divides by n twice, so that two equal adapters act at half strength; here they act as one.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """One on top of the other; a part may be any composition."""

    parts: tuple

    def __init__(self, *parts):
        object.__setattr__(self, "parts", _not_empty("Stack", parts))


@dataclass(frozen=True)
class Average:
    """The weighted mean of the changes; weights None: equal."""

    names: tuple[str, ...]
    weights: tuple[float, ...]

    def __init__(self, *names: str, weights: tuple[float, ...] | list[float] | None = None):
        names = _not_empty("Average", names)
        given = tuple(weights) if weights is not None else (1 / len(names),) * len(names)
        if len(given) != len(names):
            raise ValueError(f"Average of {len(names)} adapters with {len(given)} weights")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "weights", given)


@dataclass(frozen=True)
class Fuse:
    """Learned attention over the changes of these adapters."""

    names: tuple[str, ...]

    def __init__(self, *names: str):
        if len(names) < 2:
            raise ValueError(f"Fuse{names}: a fusion has at least two members")
        if any("__" in name or name.endswith("_") for name in names):
            raise ValueError(
                f"Fuse{names}: `__` stands between the members in a fusion's key, so no name may hold it or end in `_`"
            )
        object.__setattr__(self, "names", tuple(names))

    @property
    def key(self) -> str:
        """Its name among the fusions of a model: its members in their order."""
        return "__".join(self.names)


@dataclass(frozen=True)
class BatchSplit:
    """Row i of every batch goes through adapter `rows[i]`; None is the base."""

    rows: tuple[str | None, ...]

    def __init__(self, *rows: str | None):
        object.__setattr__(self, "rows", _not_empty("BatchSplit", rows))


@dataclass(frozen=True)
class Parallel:
    """Part i of every batch goes through adapter i: one pass of the base for several adapters on the same rows."""

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", _not_empty("Parallel", names))

    def rows(self, count: int) -> BatchSplit:
        """The same, row by row, for a batch of `count` rows."""
        if count % len(self.names):
            raise ValueError(f"{self}: {count} rows have no {len(self.names)} equal parts; give them once for each (`repeated`)")
        return BatchSplit(*(name for name in self.names for _ in range(count // len(self.names))))


def repeated(batch: dict[str, Tensor], what: Parallel) -> dict[str, Tensor]:
    """The batch once for each adapter of `what`."""
    return {key: value.repeat(len(what.names), *(1,) * (value.dim() - 1)) for key, value in batch.items()}


Composition = str | Stack | Average | Fuse | BatchSplit | Parallel


def members(composition: Composition | None) -> list[str]:
    """Names of all adapters in it, each once, in order."""
    if composition is None:
        return []
    if isinstance(composition, str):
        return [composition]
    if isinstance(composition, Stack):
        names = [name for part in composition.parts for name in members(part)]
    elif isinstance(composition, BatchSplit):
        names = [name for name in composition.rows if name is not None]
    else:
        names = list(composition.names)
    return list(dict.fromkeys(names))


def _not_empty(kind: str, parts: tuple) -> tuple:
    if not parts:
        raise ValueError(f"{kind}() of nothing: give names of adapters")
    return tuple(parts)
