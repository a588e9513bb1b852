"""The checks of lesson 07's exercises, for your answers and for ours."""

import torch

from kernels.formulas import nf4


def check_bits_per_number(answers) -> None:
    for blocksize, nested, expected in ((64, False, 4.5), (64, True, 4.126953125), (256, False, 4.125)):
        found = answers.bits_per_number(blocksize, nested)
        assert abs(found - expected) < 1e-9, f"blocks of {blocksize}, double quantisation {nested}: {found}, expected {expected}"


def check_pack(answers) -> None:
    assert list(answers.pack([15, 7])) == [247], "the first index goes into the high half: 15 · 16 + 7"
    assert list(answers.pack([1, 2, 3])) == [18, 55], "a last one alone is followed by 7, the index of zero"
    q = nf4.quantize(torch.linspace(-1, 1, 33))
    indices = [int(i) for byte in q.packed.view(-1).tolist() for i in (byte >> 4, byte & 15)][:33]
    assert list(answers.pack(indices)) == q.packed.view(-1).tolist(), "the library packs the same bytes"


def check_nearest_index(answers) -> None:
    levels = nf4.levels("nf4")
    assert answers.nearest_index(levels, levels).tolist() == list(range(16)), "a level is nearest to itself"
    exact = torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0])  # their middles are exact in float32, so these are real ties
    found = answers.nearest_index((exact[1:] + exact[:-1]) / 2, exact).tolist()
    assert found == [0, 1, 2, 3], f"half way between two levels: the lower index, 0 to 3; found {found}"
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = (levels[answers.nearest_index(x, levels)] - x).abs()
    assert (found <= (levels - x[:, None]).abs().min(1).values + 1e-7).all(), "no other level is nearer"
