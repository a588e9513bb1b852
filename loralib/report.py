"""What attaching an adapter did: one report for every method, which prints as a table."""

from dataclasses import dataclass
from typing import NamedTuple


class AttachedRow(NamedTuple):
    """One place at which an adapter acts."""

    path: str
    """of the module that is changed"""
    kind: str
    """class of the LoRA layer; for a bottleneck adapter how it is inserted; `prefix` or `prompt`"""
    shape: tuple[int, ...]
    """of the module's weight; for a bottleneck adapter (width, bottleneck); for virtual tokens that of the table"""
    rank: int
    """rank of the update; size of the bottleneck; number of virtual tokens"""
    parameters: int
    """of the adapter here, all trainable"""
    layer: int = 0
    """number of the transformer layer, for bottleneck adapters"""


@dataclass(frozen=True)
class AttachReport:
    """What was attached; `str(report)` is a table."""

    rows: tuple[AttachedRow, ...]
    heads: tuple[str, ...]
    """paths of the modules that are trained and saved whole"""
    notes: tuple[str, ...] = ()
    """further lines of text"""

    @property
    def parameters(self) -> int:
        """Trainable parameters of the adapter, without heads."""
        return sum(row.parameters for row in self.rows)

    def __str__(self) -> str:
        width, kinds = max(len(row.path) for row in self.rows), max(9, *(len(row.kind) for row in self.rows))
        lines = [f"{'module':<{width}}  {'kind':<{kinds}}  {'weight':<14}  rank  parameters"]
        for path, kind, shape, rank, count, _ in self.rows:
            lines.append(f"{path:<{width}}  {kind:<{kinds}}  {'×'.join(map(str, shape)):<14}  {rank:>4}  {count:>10,}")
        count = len(self.rows)
        lines.append(f"{count} {'module' if count == 1 else 'modules'}, {self.parameters:,} adapter parameters")
        lines.append(f"trained and saved whole: {', '.join(self.heads) or 'nothing'}")
        return "\n".join([*lines, *self.notes])
