"""The LoRA layer as unsloth runs it without dropout (`matmul_lora` and `LoRA_W` in its repository), written here as described.

torch's own matmul for the base, then the LoRA path added in place with `addmm_`, the factors cast to x's dtype. What it saves for
the backward pass is x alone: x Aᵀ is computed again there, and dy B twice, for dA and for dx. Our torch path (`lora_backward` in
kernels/formulas/lora_matmul.py) saves S = x Aᵀ and computes dy B once. unsloth has this fast path for dropout 0 only.
"""

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """x (M, K) → y (M, N)."""
    y = x @ weight.T
    return y.addmm_(x @ lora_A.to(x.dtype).T, lora_B.to(x.dtype).T, alpha=scaling)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (M, K), dA (r, K) and dB (N, r). The gradients of the factors are formed transposed, (K, r) and (r, N)."""
    A, B = lora_A.to(x.dtype), lora_B.to(x.dtype)
    dA_T = torch.addmm(x.new_empty(A.T.shape), x.T, dy @ B, beta=0, alpha=scaling)
    dB_T = torch.addmm(x.new_empty(B.T.shape), A @ x.T, dy, beta=0, alpha=scaling)
    dx = dy @ weight
    dx.addmm_(dy @ B, A, alpha=scaling)
    return dx, dA_T.T, dB_T.T
