"""Our answers to lesson 08."""

from torch import Tensor

from kernels.formulas.nf4 import Quantized, dequantize, quantize


def qlora_bytes(linear: int, other: int, adapter: int) -> float:
    """★ Bytes of a QLoRA model in training, without activations: linear layers at 4.127 bits, others in 16 bits, and the
    adapter in float32 with its gradients and Adam's two averages."""
    return linear * 4.127 / 8 + other * 2 + adapter * (4 + 4 + 8)


def merged_error(base: Quantized, update: Tensor) -> float:
    """★★ ‖rounded - exact‖ / ‖exact‖ when decoded base + update is quantised again as the base was."""
    exact = dequantize(base) + update
    rounded = dequantize(quantize(exact, base.blocksize, base.quant_type))
    return float((rounded - exact).norm() / exact.norm())


def linear4bit_backward(dy: Tensor, weight: Quantized) -> Tensor:
    """★★ dx of y = x Ŵᵀ, from dy (T, d_out) and the packed weight (d_out, d_in)."""
    return dy @ dequantize(weight)
