"""The Triton launches as operations that torch knows: `torch.compile(fullgraph=True)` keeps them whole, and may fuse around them.

Each has a second definition that only says shapes and dtypes. Sizes that a kernel pads (S has R columns, r rounded up) show
here. A launch goes to the GPU that its tensors lie on, whichever is current. Autograd is not registered: gradients are written
out in `loralib/compute/fused.py`, which calls the backward ones.
"""

import torch
from torch import Tensor

from kernels.formulas.grouped_lora import TileTable
from kernels.formulas.nf4 import NestedScales, Quantized
from kernels.triton_kernels import grouped_lora_triton, lora_backward_triton, lora_matmul_triton, nf4_matmul_triton, nf4_triton
from kernels.triton_kernels.tiles_triton import padded_rank


@torch.library.custom_op("peft_kernels::lora_forward", mutates_args=())
def lora_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, scaling: float, seed: Tensor | None, p: float
) -> tuple[Tensor, Tensor]:
    """y (M, N) and S (M, R)."""
    with torch.cuda.device_of(x):
        return lora_matmul_triton.lora_forward(x, weight, bias, lora_A, lora_B, scaling, seed, p)


@lora_forward.register_fake
def _(x, weight, bias, lora_A, lora_B, scaling, seed, p):
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0], padded_rank(lora_A.shape[0]))


@torch.library.custom_op("peft_kernels::lora_backward", mutates_args=())
def lora_backward(
    dy: Tensor, x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, S: Tensor, scaling: float,
    seed: Tensor | None, p: float, need_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx (M, K), empty without need_x; dA (r, K) and dB (N, r) in float32."""
    with torch.cuda.device_of(x):
        return lora_backward_triton.lora_backward(dy, x, weight, lora_A, lora_B, S, scaling, seed, p, need_x)


@lora_backward.register_fake
def _(dy, x, weight, lora_A, lora_B, S, scaling, seed, p, need_x):
    like = {"dtype": torch.float32}
    dB = lora_B.new_empty(lora_B.shape[0], S.shape[1], **like)[:, : lora_B.shape[1]]
    return dy.new_empty(x.shape if need_x else 0), lora_A.new_empty(lora_A.shape, **like), dB


@torch.library.custom_op("peft_kernels::shrink", mutates_args=())
def shrink(x: Tensor, lora_A: Tensor, scaling: float, seed: Tensor | None, p: float) -> Tensor:
    """S (M, R) = s · x̃ Aᵀ."""
    with torch.cuda.device_of(x):
        return lora_matmul_triton.shrink(x, lora_A, scaling, seed, p)


@shrink.register_fake
def _(x, lora_A, scaling, seed, p):
    return x.new_empty(x.shape[0], padded_rank(lora_A.shape[0]))


@torch.library.custom_op("peft_kernels::nf4_decode", mutates_args=())
def _nf4_decode(
    packed: Tensor, absmax: Tensor, nested: Tensor | None, offset: Tensor | None,
    shape: list[int], blocksize: int, quant_type: str, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    with torch.cuda.device_of(packed):
        return nf4_triton.dequantize(_join(packed, absmax, nested, offset, shape, blocksize, quant_type, dtype))


@_nf4_decode.register_fake
def _(packed, absmax, nested, offset, shape, blocksize, quant_type, dtype):
    return packed.new_empty(shape, dtype=dtype)


def nf4_decode(weight: Quantized, dtype: torch.dtype) -> Tensor:
    """The decoded weight."""
    return _nf4_decode(*_apart(weight), list(weight.shape), weight.blocksize, weight.quant_type, dtype)


@torch.library.custom_op("peft_kernels::nf4_matmul", mutates_args=())
def _nf4_matmul(
    x: Tensor, packed: Tensor, absmax: Tensor, nested: Tensor | None, offset: Tensor | None,
    shape: list[int], blocksize: int, quant_type: str, bias: Tensor | None, S: Tensor | None, lora_B: Tensor | None,
) -> Tensor:  # fmt: skip
    weight = _join(packed, absmax, nested, offset, shape, blocksize, quant_type, x.dtype)
    with torch.cuda.device_of(x):
        return nf4_matmul_triton.nf4_matmul(x, weight, bias, S, lora_B)


@_nf4_matmul.register_fake
def _(x, packed, absmax, nested, offset, shape, blocksize, quant_type, bias, S, lora_B):
    return x.new_empty(x.shape[0], shape[0])


def nf4_matmul(x: Tensor, weight: Quantized, bias: Tensor | None, S: Tensor | None = None, lora_B=None) -> Tensor:
    """x Wᵀ + b + S Bᵀ with the packed weight."""
    return _nf4_matmul(x, *_apart(weight), list(weight.shape), weight.blocksize, weight.quant_type, bias, S, lora_B)


@torch.library.custom_op("peft_kernels::grouped_forward", mutates_args=("y",))
def grouped_forward(
    y: Tensor, x: Tensor, stacked_A: Tensor, stacked_B: Tensor, scaling: Tensor, order: Tensor, tiles: Tensor, bounds: Tensor
) -> Tensor:
    """Adds to y in place; returns S (M, R)."""
    with torch.cuda.device_of(x):
        return grouped_lora_triton.grouped_forward(y, x, stacked_A, stacked_B, scaling, TileTable(order, tiles, bounds))


@grouped_forward.register_fake
def _(y, x, stacked_A, stacked_B, scaling, order, tiles, bounds):
    return x.new_empty(x.shape[0], stacked_A.shape[1])


@torch.library.custom_op("peft_kernels::grouped_backward", mutates_args=("dx",))
def grouped_backward(
    dy: Tensor, dx: Tensor, x: Tensor, stacked_A: Tensor, stacked_B: Tensor, S: Tensor, scaling: Tensor,
    order: Tensor, tiles: Tensor, bounds: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adds to dx in place; returns dA (L, R, K) and dB (L, N, R)."""
    table = TileTable(order, tiles, bounds)
    with torch.cuda.device_of(x):
        return grouped_lora_triton.grouped_backward(dy, dx, x, stacked_A, stacked_B, S, scaling, table)


@grouped_backward.register_fake
def _(dy, dx, x, stacked_A, stacked_B, S, scaling, order, tiles, bounds):
    return stacked_A.new_empty(stacked_A.shape, dtype=torch.float32), stacked_B.new_empty(stacked_B.shape, dtype=torch.float32)


def _apart(weight: Quantized) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """A quantised weight as the tensors that it is: torch's operations take no other objects."""
    nested = weight.nested
    return weight.packed, weight.absmax, nested and nested.absmax, nested and nested.offset


def _join(packed, absmax, nested, offset, shape, blocksize: int, quant_type: str, dtype: torch.dtype) -> Quantized:
    scales = None if nested is None else NestedScales(nested, offset)
    return Quantized(packed, absmax, torch.Size(shape), dtype, blocksize, quant_type, scales)
