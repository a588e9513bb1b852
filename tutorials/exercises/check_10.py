"""The checks of lesson 10's exercises, for your answers and for ours."""

import torch

from kernels.formulas import nf4


def check_budget(answers) -> None:
    found = answers.budget(132, 128, 1.98e9, 4.3e12, 4.127)
    assert abs(found - 4.01) < 0.02, f"an H200: {found}, expected 4.0 (section 2)"
    assert abs(answers.budget(132, 128, 1.98e9, 4.3e12, 16) / found - 16 / 4.127) < 1e-6, "16 bits arrive more slowly"


def check_pair_table(answers) -> None:
    levels = nf4.levels("nf4")
    table = answers.pair_table(levels)
    assert table.shape == (256, 2), f"256 bytes, two levels each; found {tuple(table.shape)}"
    assert table[0xF7].tolist() == [1.0, 0.0], "byte 247 = 15 · 16 + 7: first level 15, then level 7"
    q = nf4.quantize(torch.linspace(-1, 1, 64))
    assert torch.equal(table[q.packed.view(-1).int()].view(-1) * q.absmax[0], nf4.dequantize(q)), "it decodes the library's bytes"


def check_best_path(answers) -> None:
    for M, expected in ((1, "packed"), (128, "packed"), (256, "packed"), (257, "decode once"), (4096, "decode once")):
        found = answers.best_path(M, once=3.0, per_tile=1.25, multiply=0.01)
        assert found == expected, f"{M} tokens: {found}, expected {expected}; once 3.0 s, or 1.25 s for each 128 begun"
    assert answers.best_path(64, once=1.0, per_tile=1.0, multiply=0.5) == "decode once", "on a tie, decode once"
