"""4-bit weights in Triton: to 4 bits, and back. The definition, to the bit, is kernels/formulas/nf4.py.

Decoding is bound by instructions, not by bytes: an H100 can stream 8 weights in the time of 32 instructions. So:

1. A tree of 15 comparisons per weight takes about 25 instructions (it is not written here).
2. A look-up in the 16 levels, nibble by nibble, takes about 10.
3. `dequantize_kernel`: a look-up in a table of 256 pairs, byte by byte. The pair is one 64-bit load, and its two halves are
   the two float32 levels, in registers of their own, without another instruction.

Matmuls with a 4-bit weight that is never written out: kernels/triton_kernels/nf4_matmul_triton.py.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formulas.nf4 import Quantized, check_weight, dynamic_map_on, finish, level_middles, level_order, level_pairs


@triton.jit
def decode_scales(absmax, nested, offset, dynamic, block, inside, NESTED: tl.constexpr):
    """The float32 scale of some blocks; with NESTED they are 8-bit codes, 256 of them to a scale of their own."""
    if NESTED:
        code = tl.load(absmax + block, mask=inside, other=0).to(tl.int32)
        outer = tl.load(nested + block // 256, mask=inside, other=0.0)
        scale = tl.load(dynamic + code) * outer + tl.load(offset)
    else:
        scale = tl.load(absmax + block, mask=inside, other=0.0)
    return scale


@triton.jit
def decode_pairs(pairs, byte):
    """Both float32 levels of each byte: the first in the low half of a 64-bit entry."""
    both = tl.load(pairs + byte.to(tl.int32))
    return both.to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def dequantize_kernel(
    packed, absmax, nested, offset, dynamic, pairs, out, count, n_bytes,
    NESTED: tl.constexpr, BLOCKSIZE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks a program, each of BLOCKSIZE weights in a row of the tile: its scale is one number per row."""
    half: tl.constexpr = BLOCKSIZE // 2
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    place = block[:, None] * half + tl.arange(0, half)[None, :]
    byte = tl.load(packed + place, mask=place < n_bytes, other=0)
    scale = decode_scales(absmax, nested, offset, dynamic, block, block * BLOCKSIZE < count, NESTED)[:, None]
    first, second = decode_pairs(pairs, byte)
    weight = tl.reshape(tl.join(first * scale, second * scale), (BLOCKS, BLOCKSIZE))
    place = block[:, None] * BLOCKSIZE + tl.arange(0, BLOCKSIZE)[None, :]
    tl.store(out + place, weight.to(out.dtype.element_ty), mask=place < count)


@triton.jit
def quantize_kernel(
    weight, middles, order, packed, absmax, count, n_bytes, BLOCKSIZE: tl.constexpr, BLOCKS: tl.constexpr
):  # fmt: skip
    """The level of a number is the number of middles below it: 15 comparisons, once in the life of a weight."""
    half: tl.constexpr = BLOCKSIZE // 2
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    place = block[:, None] * BLOCKSIZE + tl.arange(0, BLOCKSIZE)[None, :]
    numbers = tl.load(weight + place, mask=place < count, other=0.0).to(tl.float32)
    size = tl.where(numbers == numbers, tl.abs(numbers), float("inf"))  # a maximum would pass over NaN, and it must be refused
    largest = tl.max(size, 1)
    safe = tl.maximum(largest, tl.full((BLOCKS,), 1e-38, tl.float32))[:, None]  # a bare 1e-38 would be a float64
    whole = (block[:, None] + 1) * BLOCKSIZE <= count  # a last block that is not whole is divided: see the definition
    unit = tl.where(whole, numbers * tl.div_rn(tl.full((BLOCKS, 1), 1.0, tl.float32), safe), tl.div_rn(numbers, safe))
    unit = tl.minimum(tl.maximum(unit, -1.0), 1.0)
    index = tl.zeros((BLOCKS, BLOCKSIZE), tl.int32)
    for i in tl.static_range(15):
        index += (unit > tl.load(middles + i)).to(tl.int32)
    code = tl.load(order + index).to(tl.int32)
    high, low = tl.split(tl.reshape(code, (BLOCKS, half, 2)))
    place = block[:, None] * half + tl.arange(0, half)[None, :]
    tl.store(packed + place, (high * 16 + low).to(tl.uint8), mask=place < n_bytes)
    tl.store(absmax + block, largest, mask=block * BLOCKSIZE < count)


# ---------------------------------------------------------------- launching


def dequantize(quantized: Quantized, dtype: torch.dtype | None = None) -> Tensor:
    """As `kernels.formulas.nf4.dequantize`, bit for bit: one launch, the scales of the scales decoded in it."""
    count = math.prod(quantized.shape)
    out = torch.empty(quantized.shape, dtype=dtype or quantized.dtype, device=quantized.packed.device)
    blocks = max(1, 8192 // quantized.blocksize)
    if count:
        dequantize_kernel[(triton.cdiv(count, blocks * quantized.blocksize),)](
            **tables(quantized), out=out, count=count, n_bytes=quantized.packed.numel(),
            NESTED=quantized.nested is not None, BLOCKSIZE=quantized.blocksize, BLOCKS=blocks,
            enable_fp_fusion=False,  # a fused multiply-add rounds once where the definition rounds twice
        )  # fmt: skip
    return out


def quantize(
    weight: Tensor, blocksize: int = 64, quant_type: str = "nf4", double_quant: bool = False, name: str = "weight"
) -> Quantized:
    """As `kernels.formulas.nf4.quantize`, bit for bit. Raises as it does."""
    check_weight(weight, blocksize, quant_type, name)
    flat, count, device = weight.detach().contiguous(), weight.numel(), weight.device
    packed = torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device=device)
    absmax = torch.empty(triton.cdiv(count, blocksize), device=device)
    blocks = max(1, 4096 // blocksize)
    if count:
        middles = torch.tensor(level_middles(quant_type), device=device)
        quantize_kernel[(triton.cdiv(count, blocks * blocksize),)](
            flat, middles, level_order(quant_type, device), packed, absmax,
            count=count, n_bytes=len(packed), BLOCKSIZE=blocksize, BLOCKS=blocks,
        )  # fmt: skip
    return finish(packed, absmax, weight, blocksize, quant_type, double_quant, name)


def tables(quantized: Quantized) -> dict[str, Tensor | None]:
    """What a kernel decodes with, by the names of its arguments: bytes, scales, scales of the scales, levels of each byte."""
    device, nested = quantized.packed.device, quantized.nested
    pairs = level_pairs(quantized.quant_type, device).view(torch.int64)
    decoding = {"packed": quantized.packed.contiguous(), "absmax": quantized.absmax.contiguous(), "pairs": pairs}
    if nested is None:
        return decoding | {"nested": None, "offset": None, "dynamic": None}
    return decoding | {"nested": nested.absmax.contiguous(), "offset": nested.offset, "dynamic": dynamic_map_on(device)}
