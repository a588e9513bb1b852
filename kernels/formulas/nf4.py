"""4-bit weights: NF4 and FP4, block by block, to the bit as bitsandbytes stores them. The definition, in plain PyTorch.

A block of 64 numbers shares one scale, its largest absolute value: w ≈ code[i] · absmax, with a 4-bit index i into 16 levels.
NF4's levels (QLoRA, Dettmers et al. 2023, section 3) are quantiles of a normal distribution, because weights look like one.
Double quantisation stores the scales in 8 bits too: 4 + 32/64 = 4.5 bits a number become 4 + 8/64 + 32/(64 · 256) = 4.127.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCKSIZE = 256
CHUNK = 2**19  # numbers at a time: a few MB of working memory, whatever the size of the weight


@dataclass(frozen=True)
class NestedScales:
    """What decodes 8-bit scales: absmax = dynamic_map[code] · scale of its block of 256 + offset."""

    absmax: Float[Tensor, " nested_blocks"]
    offset: Float[Tensor, ""]


@dataclass(frozen=True)
class Quantized:
    """A tensor in 4 bits a number."""

    packed: UInt8[Tensor, "bytes 1"]
    """two indices a byte, the first in the high half; an odd count ends with the index of zero"""
    absmax: Tensor
    """(blocks,) scales: float32, or with `nested` their 8-bit codes"""
    shape: torch.Size
    dtype: torch.dtype
    """of the tensor that was quantised; `dequantize` gives it back in this dtype"""
    blocksize: int
    quant_type: str
    nested: NestedScales | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored for this tensor; the tables of levels, which all tensors share, are not counted."""
        stored = [self.packed, self.absmax]
        stored += [self.nested.absmax, self.nested.offset] if self.nested else []
        return sum(t.numel() * t.element_size() for t in stored)

    @property
    def bits_per_parameter(self) -> float:
        return 8 * self.nbytes / max(1, math.prod(self.shape))


def plain_quantize(weight: Tensor, blocksize: int = 64, quant_type: str = "nf4") -> tuple[Tensor, Tensor]:
    """The definition: (the index of the nearest level of each number, the scale of each block). For whole blocks.

    `quantize` computes the same with less memory, and packs two indices into a byte.
    """
    blocks = weight.detach().float().view(-1, blocksize)
    scale = blocks.abs().amax(1)
    distance = (blocks / scale.clamp(min=1e-38)[:, None]).unsqueeze(-1) - levels(quant_type).to(weight.device)
    return distance.abs().argmin(-1), scale


def plain_dequantize(index: Tensor, scale: Tensor, quant_type: str = "nf4") -> Tensor:
    """The definition: level times scale, (blocks, blocksize) in float32. `dequantize` computes the same faster."""
    return levels(quant_type).to(scale.device)[index] * scale[:, None]


def quantize(
    weight: Tensor, blocksize: int = 64, quant_type: str = "nf4", double_quant: bool = False, name: str = "weight"
) -> Quantized:
    """Quantise a floating-point tensor of any shape, read row by row. `name` is for errors.

    Raises ValueError for numbers that are not finite, and TypeError for integers.
    """
    check_weight(weight, blocksize, quant_type, name)
    flat = weight.detach().reshape(-1)
    count = flat.numel()
    packed = torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(math.ceil(count / blocksize), device=flat.device)
    middles = level_middles(quant_type)
    for start, stop in _chunks(count):
        blocks = _whole_blocks(flat[start:stop].float(), blocksize)  # (blocks, blocksize)
        scale = torch.linalg.vector_norm(blocks, math.inf, dim=1)
        absmax[start // blocksize : start // blocksize + len(blocks)] = scale
        unit = blocks * (1 / scale.clamp(min=1e-38))[:, None]
        if (stop - start) % blocksize:  # bitsandbytes divides in a last block that is not whole: a tie may go the other way
            unit[-1] = blocks[-1] / scale[-1].clamp(min=1e-38)
        unit = unit.clamp_(-1, 1).view(-1)
        index = level_order(quant_type, unit.device)[_count_below(unit, middles)]
        packed[start // 2 : (stop + 1) // 2, 0] = ((index[0::2] << 4) | index[1::2])[: (stop - start + 1) // 2]
    return finish(packed, absmax, weight, blocksize, quant_type, double_quant, name)


def dequantize(quantized: Quantized, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """The numbers again, computed in float32 and rounded once to `dtype` (None: the dtype that was quantised).

    `out`: a flat buffer of this dtype with two elements for each packed byte; the result is a view of it.
    """
    count, blocksize = math.prod(quantized.shape), quantized.blocksize
    absmax, packed = scales(quantized), quantized.packed.view(-1)
    pairs = level_pairs(quantized.quant_type, packed.device)
    even = torch.empty(2 * len(packed), dtype=dtype or quantized.dtype, device=packed.device) if out is None else out
    for start, stop in _chunks(len(even)):
        target = even[start:stop]
        values = target if target.dtype == torch.float32 else torch.empty(stop - start, device=packed.device)
        torch.index_select(pairs, 0, packed[start // 2 : stop // 2].int(), out=values.view(torch.float64))
        here, whole = absmax[start // blocksize :], (stop - start) // blocksize
        values[: whole * blocksize].view(-1, blocksize).mul_(here[:whole, None])
        if whole * blocksize < len(values):
            values[whole * blocksize :].mul_(here[whole])
        if values is not target:
            target.copy_(values)
    return even[:count].view(quantized.shape)


def scales(quantized: Quantized) -> Float[Tensor, " blocks"]:
    """The float32 scale of every block."""
    if quantized.nested is None:
        return quantized.absmax
    return dequantize_scales(quantized.absmax, quantized.nested)


def finish(packed, absmax: Tensor, weight: Tensor, blocksize: int, quant_type: str, double_quant: bool, name: str) -> Quantized:
    """The result, with its scales in 8 bits where that is asked for; ValueError where they are not finite."""
    if not absmax.isfinite().all():
        bad = int((~absmax.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: numbers that are not finite, the first in block {bad} of {blocksize}: nothing was quantised")
    codes, nested = quantize_scales(absmax) if double_quant else (absmax, None)
    if nested is not None and not nested.offset.isfinite():
        raise ValueError(f"{name}: its scales are too large for their mean in float32: double_quant=False")
    return Quantized(packed, codes, weight.shape, weight.dtype, blocksize, quant_type, nested)


# ---------------------------------------------------------------- double quantisation


def quantize_scales(absmax: Float[Tensor, " blocks"]) -> tuple[UInt8[Tensor, " blocks"], NestedScales]:
    """8-bit codes of scales: their mean is taken off, and blocks of 256 are measured against the dynamic map."""
    offset = absmax.mean() if len(absmax) else absmax.new_zeros(())
    blocks = _whole_blocks(absmax - offset, NESTED_BLOCKSIZE)
    largest = torch.linalg.vector_norm(blocks, math.inf, dim=1)
    unit = (blocks / largest.clamp(min=1e-38)[:, None]).view(-1)[: len(absmax)]
    levels = dynamic_map_on(absmax.device)
    return torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2).to(torch.uint8), NestedScales(largest, offset)


def dequantize_scales(codes: UInt8[Tensor, " blocks"], nested: NestedScales) -> Float[Tensor, " blocks"]:
    units = dynamic_map_on(codes.device)[codes.int()]
    return units * nested.absmax.repeat_interleave(NESTED_BLOCKSIZE)[: len(units)] + nested.offset


@cache
def dynamic_map() -> Float[Tensor, "256"]:
    """The 8-bit dynamic type (Dettmers 2016; 8-bit optimizers 2022): seven decades, with twice the levels in each."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (exponent - 6)
        levels += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(levels))


@cache
def dynamic_map_on(device: torch.device) -> Float[Tensor, "256"]:
    """The map where it is used: copied there once."""
    return dynamic_map().to(device)


# ---------------------------------------------------------------- the 16 levels


@cache
def levels(quant_type: str) -> Float[Tensor, "16"]:
    """The level of each 4-bit index, float32, with the largest at 1."""
    return {"nf4": normal_levels, "fp4": small_float_levels}[quant_type]()


def normal_levels(offset: float = 0.9677083) -> Float[Tensor, "16"]:
    """NF4: eight quantiles of the normal distribution above zero, seven below, and zero itself; the outermost are ±1.

    The offset is 1 - (1/32 + 1/30) / 2, rounded as published: half of the outermost of 16 and of 15 equal shares.
    """
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in torch.linspace(offset, 0.5, 9)[:-1].tolist()]
    below = [-quantile(p) for p in torch.linspace(offset, 0.5, 8)[:-1].tolist()]
    table = torch.tensor(sorted([*above, 0.0, *below]))
    return table / table.max()


def small_float_levels() -> Float[Tensor, "16"]:
    """FP4: sign, two bits of exponent, one of mantissa, in the order of the bits; 12 is its largest number."""
    positive = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3])
    return torch.cat([positive, -positive]) / 12


def level_middles(quant_type: str) -> list[float]:
    """Where the index changes: half way between neighbours, in float32."""
    ordered = levels(quant_type).sort().values
    return ((ordered[1:] + ordered[:-1]) / 2).tolist()


@cache
def level_order(quant_type: str, device: torch.device) -> UInt8[Tensor, "16"]:
    """The index of the levels by size. FP4 has two zeros, and bitsandbytes gives the second one to tiny positive numbers."""
    return levels(quant_type).sort(stable=True).indices.to(device, torch.uint8)


@cache
def level_pairs(quant_type: str, device: torch.device) -> Float[Tensor, "256"]:
    """Both levels of each byte. Two float32 lie in one float64, so that a byte takes one look-up: no arithmetic is done on it."""
    table = levels(quant_type)
    both = torch.stack([table.repeat_interleave(16), table.repeat(16)], 1)
    return both.view(torch.float64).view(256).to(device)


def _count_below(x: Tensor, middles: list[float]) -> Tensor:
    """How many of the middles lie strictly below each number: its level's place. Comparisons are faster than a search."""
    place = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    for middle in middles:
        place += x > middle
    return place.int()


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _whole_blocks(flat: Tensor, blocksize: int) -> Tensor:
    """(count,) to (blocks, blocksize), zeros at the end: a zero changes no scale, and its index fills an odd byte."""
    missing = -len(flat) % blocksize
    return (torch.cat([flat, flat.new_zeros(missing)]) if missing else flat).view(-1, blocksize)


def check_weight(weight: Tensor, blocksize: int, quant_type: str, name: str) -> None:
    if not weight.is_floating_point() or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"{name} is {weight.dtype}: expected float32, float16 or bfloat16")
    if blocksize not in BLOCKSIZES:
        raise ValueError(f"blocksize={blocksize}: expected one of {BLOCKSIZES}")
    if quant_type not in ("nf4", "fp4"):
        raise ValueError(f"quant_type={quant_type!r}: expected 'nf4' or 'fp4'")
