"""Decoding a 4-bit weight as one operation that torch knows, for compiled models on the torch path.

The decoding looks tables up that are made once by plain Python, which `torch.compile(fullgraph=True)` cannot trace. As one
operation it stays whole, and the compiler plans the memory of its result.
"""

import torch
from torch import Tensor

from kernels.formulas.nf4 import NestedScales, Quantized, dequantize


@torch.library.custom_op("peft_kernels::nf4_decode_in_torch", mutates_args=())
def _decode(
    packed: Tensor, absmax: Tensor, nested: Tensor | None, offset: Tensor | None,
    shape: list[int], blocksize: int, quant_type: str, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    scales = None if nested is None or offset is None else NestedScales(nested, offset)
    return dequantize(Quantized(packed, absmax, torch.Size(shape), dtype, blocksize, quant_type, scales), dtype)


@_decode.register_fake
def _(packed, absmax, nested, offset, shape, blocksize, quant_type, dtype):
    return packed.new_empty(shape, dtype=dtype)


def decode_in_graph(weight: Quantized, dtype: torch.dtype) -> Tensor:
    """The decoded weight, (N, K)."""
    nested = (None, None) if weight.nested is None else (weight.nested.absmax, weight.nested.offset)
    return _decode(weight.packed, weight.absmax, *nested, list(weight.shape), weight.blocksize, weight.quant_type, dtype)
