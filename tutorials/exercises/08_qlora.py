"""Exercises of lesson 08. Write the functions, then run `python -m tutorials check 08`."""

from torch import Tensor

from kernels.formulas.nf4 import Quantized


def qlora_bytes(linear: int, other: int, adapter: int) -> float:
    """★ Bytes of a QLoRA model in training, without activations: linear layers at 4.127 bits, others in 16 bits, and the
    adapter in float32 with its gradients and Adam's two averages.

    One line.
    """
    raise NotImplementedError("qlora_bytes")


def merged_error(base: Quantized, update: Tensor) -> float:
    """★★ ‖rounded - exact‖ / ‖exact‖ when decoded base + update is quantised again as the base was (its block size, NF4,
    without double quantisation).

    Three lines, with `quantize` and `dequantize` of `kernels.formulas.nf4`.
    """
    raise NotImplementedError("merged_error")


def linear4bit_backward(dy: Tensor, weight: Quantized) -> Tensor:
    """★★ dx of y = x Ŵᵀ, from dy (T, d_out) and the packed weight (d_out, d_in).

    One line.
    """
    raise NotImplementedError("linear4bit_backward")
