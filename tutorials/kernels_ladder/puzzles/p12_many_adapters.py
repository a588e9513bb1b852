"""Puzzle 12: many adapters in one launch."""

import torch

from kernels.formulas.grouped_lora import tile_table
from tutorials.kernels_ladder.puzzle import Puzzle

IDS = (1, 0, 1, 1, 1, 0, 2, 1, 1, 0, 0, 1)
"""the adapter of each row of x"""


def inputs():
    generator = torch.Generator().manual_seed(12)
    table = tile_table(torch.tensor(IDS), adapters=3, height=4)
    x, a = torch.randn(12, 32, generator=generator), torch.randn(3, 16, 32, generator=generator)
    return {"x": x, "a": a, "order": table.order, "tiles": table.tiles}


def definition(x, a, order, tiles):
    """Row i of S is A_k x_j, where j = order[i] is a row of x and k is its adapter."""
    return {"S": torch.stack([a[IDS[row]] @ x[row] for row in order.tolist()])}


def fewest(values):
    used = [(adapter, count) for adapter, _, count in values["tiles"].tolist() if adapter >= 0]
    row, matrix = 32 * 4, 16 * 32 * 4
    rows = sum(count for _, count in used)
    return rows * row + len(used) * matrix + rows * values["order"].element_size() + values["tiles"].nbytes


PUZZLE = Puzzle(
    title="Many adapters in one launch",
    new="a table tells each program its work",
    task=(
        "Each row of x (12, 32) asks for one of 3 adapters A (3, 16, 32), and `order` lists the rows, sorted "
        "by adapter. A line of the table `tiles` says: adapter, first place in `order`, number of rows; a "
        "program reads its line and computes S = x Aᵀ for these rows."
    ),
    formula=r"S_i = A_{k}\, x_{j}, \qquad j = \text{order}_i,\ k = \text{adapter of row } j",
    programs=(
        "A program loads its line of the table, up to 4 row numbers from `order`, these rows of x, and one A."
        " It stores up to 4 rows of S."
    ),
    hints=(
        "`line = tiles + tl.program_id(0) * 3`; then `tl.load(line)`, `tl.load(line + 1)` and `tl.load(line + 2)`.",
        "If the adapter is -1, the line only fills the table: `if adapter < 0: return`.",
        "`rows = tl.load(order + first + places, mask=places < count, other=0)`, and then `x + rows[:, None] * K`.",
        "S is stored at the places, not at the rows: `(first + places) * R`. All loads and stores of rows need the mask.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"S": torch.empty(12, 16)},
    definition=definition,
    fewest_bytes=fewest,
    depth=32,
)
