"""LoRA as one wider matmul, by layout alone:  y = [x | S] · [W | B]ᵀ  with S = s · x Aᵀ  in r columns behind x.

If W and B lie side by side in one buffer, and x has r free columns behind it, one call of cuBLAS does base and LoRA: K + r
instead of K. In backward dy · [W | B] is [dx of the base | dS] from one read of dy. It is the yardstick of the Triton kernel:
the same traffic, at cuBLAS's speed. Its price is the layout: whoever makes x must leave r columns free behind each row, and W
is no longer a tensor of its own.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def augment_weight(weight: Float[Tensor, "N K"], lora_B: Float[Tensor, "N r"]) -> Float[Tensor, "N K_r"]:
    """[W | B] in one buffer. `[:, K:]` of it can be the parameter B itself."""
    return torch.cat([weight, lora_B.to(weight.dtype)], 1)


def room_behind(x: Float[Tensor, "M K"], r: int) -> Float[Tensor, "M K_r"]:
    """x in the left of a buffer with r free columns; a real layer before this one would write it there."""
    buffer = x.new_empty(len(x), x.shape[1] + r)
    buffer[:, : x.shape[1]] = x
    return buffer


def augmented_forward(
    wide_x: Float[Tensor, "M K_r"], wide_weight: Float[Tensor, "N K_r"], lora_A: Float[Tensor, "r K"], scaling: float
) -> Float[Tensor, "M N"]:
    """Fills S behind x, then one matmul."""
    K = lora_A.shape[1]
    torch.mm(wide_x[:, :K], (scaling * lora_A).T, out=wide_x[:, K:])
    return wide_x @ wide_weight.T


def augmented_backward(
    dy: Float[Tensor, "M N"],
    wide_x: Float[Tensor, "M K_r"],
    wide_weight: Float[Tensor, "N K_r"],
    lora_A: Float[Tensor, "r K"],
    scaling: float,
) -> tuple[Float[Tensor, "M K"], Float[Tensor, "r K"], Float[Tensor, "N r"]]:
    """(dx, dA, dB); S lies behind x since forward."""
    K = lora_A.shape[1]
    both = dy @ wide_weight  # (M, K + r): dx of the base and dS / s
    dS = scaling * both[:, K:]
    dx = both[:, :K].addmm_(dS, lora_A)
    return dx, dS.T @ wide_x[:, :K], dy.T @ wide_x[:, K:]
