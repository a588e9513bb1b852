"""The checks of lesson 11's exercises, for your answers and for ours."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from kernels.formulas.grouped_lora import tile_table
from kernels.triton_kernels.tiles_triton import padded_rank


def check_most_tiles(answers) -> None:
    for rows, adapters, height in ((6, 2, 2), (100, 5, 16), (1, 8, 32)):
        found = answers.most_tiles(rows, adapters, height)
        table = tile_table(torch.full((rows,), -1), adapters, height)
        wanted = len(table.tiles)
        assert found == wanted, f"{rows} rows, {adapters} adapters, tiles of {height}: {found}, expected {wanted}"


def check_make_tiles(answers) -> None:
    found, wanted = answers.make_tiles([1, 0, 1, -1, 1, 0], 2), [(0, 1, 2), (1, 3, 2), (1, 5, 1)]
    assert found == wanted, f"ids of the first diagram: expected {wanted}, found {found}"
    assert answers.make_tiles([-1, -1], 4) == [], "rows of the base are in no tile"
    ids = torch.randint(-1, 5, (200,), generator=torch.Generator().manual_seed(0))
    wanted = [tuple(t) for t in tile_table(ids, 5, 16).tiles.tolist() if t[0] >= 0]
    assert answers.make_tiles(ids.tolist(), 16) == wanted, "200 rows, 5 adapters, tiles of 16: the library cuts others"


def check_pad_rank(answers) -> None:
    for r in (1, 4, 16, 17, 33, 64, 100):
        assert answers.pad_rank(r) == padded_rank(r), f"rank {r}: {answers.pad_rank(r)}, expected {padded_rank(r)}"
