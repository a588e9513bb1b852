"""Puzzle 08: decode 4-bit weights."""

import torch

from kernels.formulas import nf4
from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    weight = torch.randn(256, generator=torch.Generator().manual_seed(8))
    quantized = nf4.quantize(weight)
    return {"packed": quantized.packed.view(-1), "absmax": quantized.absmax, "levels": nf4.levels("nf4")}


def definition(packed, absmax, levels):
    """Two indices in a byte, the first in the high half; a block of 64 weights shares one absmax."""
    index = torch.stack([packed >> 4, packed & 15], 1).view(-1, 64).long()  # (blocks, 64)
    return {"y": (levels[index] * absmax[:, None]).view(-1)}


PUZZLE = Puzzle(
    title="Decode NF4 weights",
    new="bits, a table, and integers as addresses",
    task=(
        "Decode 256 NF4 weights from 128 bytes: c are the 16 `levels`, b the bytes `packed`, a the scale "
        "`absmax` of a block. One program decodes one block of 32 bytes, which hold 64 weights."
    ),
    formula=r"y_{2i} = c[b_i \,/\!/\, 16]\; a, \qquad y_{2i+1} = c[b_i \bmod 16]\; a",
    programs="Program 1 loads the bytes 32 to 63, absmax 1, and one level for each index; it stores the weights 64 to 127.",
    hints=(
        "`byte >> 4` is the index in the high half, `byte & 15` the one in the low half.",
        "An index can be an address: `tl.load(levels + index)`. Write parentheses: `levels + (byte >> 4)`.",
        "The two weights of byte i are stored at `y + 2 * offsets` and `y + 2 * offsets + 1`.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(256)},
    definition=definition,
    fewest_bytes=lambda inputs: 128 + 4 * 4 + 2 * 128 * 4,  # bytes, absmax, and a level for each weight
)
