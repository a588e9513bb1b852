"""Train in float32 what will be int8: the forward pass is the int8 layer's own, bit for bit; the gradient passes the rounding.

    forward    y = (Q_x Q_wᵀ) · s_x · s_w + b          as `int8_product.py`, so the export changes no output at all
    backward   dx = dy Ŵ,  dW = dyᵀ x̂,  db = Σ dy      x̂ = s_x Q_x, Ŵ = s_w Q_w: rounding counts as the identity

The straight-through gradient is Bengio et al. 2013, its use for int8 Jacob et al. 2018 (section 3), for a distilled student
Zhang et al. 2020 (TernaryBERT). The scales are the largest numbers there are, so nothing lies outside the range and no gradient
is cut off.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from distill.compression.int8_product import quantize_rows, scaled_product
from loralib.four_bit.qlora import linear_paths
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer


class _Int8Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        q, s = quantize_rows(x.reshape(-1, x.shape[-1]))
        q_w, s_w = quantize_rows(weight)
        ctx.save_for_backward(q, s, q_w, s_w)  # x in 8 bits: a quarter of what a float layer keeps
        ctx.kinds = x.dtype, weight.dtype, None if bias is None else bias.dtype
        out = torch.empty(len(q), len(q_w), device=x.device)
        return scaled_product(q, s, q_w, s_w[:, 0], bias, out).view(*x.shape[:-1], len(q_w)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, s, q_w, s_w = ctx.saved_tensors
        x_dtype, w_dtype, b_dtype = ctx.kinds
        rows = grad.reshape(-1, grad.shape[-1]).float()
        need_x, need_w, need_b = ctx.needs_input_grad
        dx = (rows @ (q_w * s_w)).view(*grad.shape[:-1], q.shape[1]).to(x_dtype) if need_x else None
        dw = (rows.T @ (q * s)).to(w_dtype) if need_w else None
        return dx, dw, rows.sum(0).to(b_dtype) if need_b else None


def fake_int8_linear(
    x: Float[Tensor, "*batch K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None = None
) -> Float[Tensor, "*batch N"]:
    """`int8_linear` of the rounded weight, with the straight-through gradient for x, weight and bias."""
    return _Int8Forward.apply(x, weight, bias)  # pyright: ignore[reportReturnType]


class FakeInt8Linear(nn.Linear):
    """An nn.Linear that computes as its int8 export will."""

    def forward(self, input: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N"]:
        return fake_int8_linear(input, self.weight, self.bias)


class FakeInt8Conv1D(Conv1D):
    """The same for GPT-2's layer, whose weight lies transposed."""

    def forward(self, x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N"]:
        return fake_int8_linear(x, self.weight.T, self.bias)


FAKE: dict[type, type] = {nn.Linear: FakeInt8Linear, Conv1D: FakeInt8Conv1D}


def fake_quantize(model: nn.Module, exclude: list[str] | None = None, heads: list[str] | None = None) -> list[str]:
    """Let every Linear and Conv1D but the heads compute in int8 from now on; returns their paths. Call it before training.

    Only the class of a layer changes: its parameters, their names, its hooks and a running optimizer stay as they are.
    exclude: further layers to leave, by the end of their name. heads: paths of the heads, where the model's structure does not
    tell them. ValueError for a name that fits no layer, and for a model that is quantised or adapted already.
    """
    if fake_paths(model):
        raise ValueError(f"{len(fake_paths(model))} layers compute in int8 already: unfake(model) first")
    paths = int8_paths(model, exclude, heads)
    for path in paths:
        layer = model.get_submodule(path)
        layer.__class__ = FAKE[type(layer)]
    return paths


def unfake(model: nn.Module) -> list[str]:
    """Back to plain float32 layers, with the weights that training gave them. ValueError where there is none to turn back."""
    paths = fake_paths(model)
    if not paths:
        raise ValueError(f"{type(model).__name__} has no layers of fake_quantize: nothing to turn back")
    plain = {fake: real for real, fake in FAKE.items()}
    for path in paths:
        layer = model.get_submodule(path)
        layer.__class__ = plain[type(layer)]
    return paths


def fake_paths(model: nn.Module) -> list[str]:
    """Paths of the layers that `fake_quantize` changed."""
    return [path for path, module in model.named_modules() if type(module) in FAKE.values()]


def int8_paths(model: nn.Module, exclude: list[str] | None, heads: list[str] | None) -> list[str]:
    """The layers that int8 takes: those of `fake_quantize`, or, as for NF4, all linear ones but the heads; plain layers only."""
    if faked := fake_paths(model):
        if exclude or heads:
            raise ValueError(f"fake_quantize chose {len(faked)} layers already: leave out exclude={exclude}, heads={heads}")
        return faked
    if any(isinstance(m, LoraLayer | Linear4bit) for m in model.modules()):
        raise ValueError("the model has LoRA or 4-bit layers: merge the adapters (loralib.merge) or start from float weights")
    paths = linear_paths(model, exclude, heads)
    for path in paths:
        kind = type(model.get_submodule(path))
        if kind not in FAKE:
            raise ValueError(f"{path} is a {kind.__name__}, expected nn.Linear or Conv1D: put it into exclude")
    return paths
