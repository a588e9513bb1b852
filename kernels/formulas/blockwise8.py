"""Numbers in 8 bits, block by block: what an 8-bit optimizer keeps its averages in (Dettmers et al. 2022, section 2).

Each block of 256 has one float32 scale, and each number the nearest of 256 levels of a dynamic map: levels are close together
near zero, for an optimizer's averages span many orders of magnitude.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kernels.formulas.nf4 import dynamic_map

BLOCKSIZE = 256


@dataclass(frozen=True)
class Blockwise8:
    """Codes in the shape of the tensor, and a scale for each block."""

    codes: UInt8[Tensor, "..."]
    absmax: Float[Tensor, " blocks"]
    signed: bool

    @property
    def nbytes(self) -> int:
        return self.codes.numel() + 4 * self.absmax.numel()


@cache
def unsigned_map() -> Float[Tensor, "256"]:
    """For numbers that are never negative: the sign's bit goes into a finer map, seven decades as in the signed one."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + 1) + 1)
        levels += ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (exponent - 6)).tolist()
    return torch.tensor(sorted(levels))


def levels_of(signed: bool) -> Tensor:
    return dynamic_map() if signed else unsigned_map()


def quantize8(x: Tensor, signed: bool = True) -> Blockwise8:
    """8-bit codes of float32 numbers of any shape. With signed=False a number below zero becomes zero, and none above it does."""
    flat = x.reshape(-1)
    missing = -len(flat) % BLOCKSIZE
    blocks = torch.cat([flat, flat.new_zeros(missing)]).view(-1, BLOCKSIZE)
    absmax = torch.linalg.vector_norm(blocks, math.inf, dim=1)
    unit = (blocks / absmax.clamp(min=1e-38)[:, None]).view(-1)[: len(flat)]
    levels = levels_of(signed).to(x.device)
    codes = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2)
    if not signed:  # an optimizer divides by these: what is above zero must stay so
        codes = torch.where((unit > 0) & (codes == 0), 1, codes)
    return Blockwise8(codes.to(torch.uint8).view(x.shape), absmax, signed)


def dequantize8(q: Blockwise8) -> Float[Tensor, "..."]:
    units = levels_of(q.signed).to(q.codes.device)[q.codes.reshape(-1).int()]
    return (units * q.absmax.repeat_interleave(BLOCKSIZE)[: len(units)]).view(q.codes.shape)
