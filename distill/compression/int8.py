"""A model in int8: 1 byte for each number of its linear layers, and a float32 scale for each output channel.

quantize_int8(model)                     every linear layer but the heads, in place; says the error of each
save_compressed / load_compressed        `compressed_files.py`: the real bytes, read back strictly

Activations are quantised token by token while the model runs (dynamic), so there is nothing to calibrate, and a text's answer
does not depend on the texts beside it. Matmuls, routes and exactness: `int8_product.py`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.compression.fake_quant import int8_paths
from distill.compression.int8_product import INT_COLUMNS, int8_linear, quantize_rows
from loralib.four_bit.qlora import LayerError, QuantReport, matrix_of, other_bytes, refuse_used_twice
from loralib.injection.merge_weights import shared_pointers
from loralib.layers.heads import replace_module

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Int8Linear(nn.Module):
    """y = x Wᵀ + b with W and x in int8. It does not train: `fake_quantize` does, before it.

    weight: int8 (d_out, d_in), scale: float32 (d_out). ValueError where they do not fit each other.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None):
        super().__init__()
        if weight.dtype != torch.int8 or weight.ndim != 2 or scale.shape != weight.shape[:1]:
            given = f"{weight.dtype} {tuple(weight.shape)} with scales {tuple(scale.shape)}"
            raise ValueError(f"weight is {given}, expected int8 (d_out, d_in) with scales (d_out,)")
        if weight.shape[1] > INT_COLUMNS:
            raise ValueError(f"d_in={weight.shape[1]}: a sum of so many terms does not fit int32, which holds {INT_COLUMNS}")
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.float())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if torch.is_grad_enabled() and input.requires_grad:
            raise ValueError("Int8Linear has no gradient: train with fake_quantize(model), or run under torch.no_grad()")
        return int8_linear(input, self.weight, self.scale, self.bias)

    def _apply(self, fn, recurse=True):
        """Moves, but never casts, the scales: `model.to(bfloat16)` must not round them."""
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = fn(scale.view(torch.uint8)).view(torch.float32)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, int8"


@torch.no_grad()
def quantize_int8(model: nn.Module, exclude: list[str] | None = None, heads: list[str] | None = None) -> QuantReport:
    """Replace the Linear and Conv1D layers by `Int8Linear`, in place. Heads, embeddings and norms stay; all is frozen.

    After `fake_quantize` these are its layers, and no output changes. exclude: further layers to leave, by the end of their
    name; heads: paths of the heads, where the model's structure does not tell them. ValueError for a name that fits none, for
    tied weights, and for a model that is quantised or adapted already.
    """
    if any(isinstance(m, Int8Linear) for m in model.modules()):
        raise ValueError("the model is in int8 already")
    paths = int8_paths(model, exclude, heads)
    layers: dict[str, nn.Module] = {path: model.get_submodule(path) for path in paths}
    tied = shared_pointers(model)
    refuse_used_twice(model, layers)
    for path, layer in layers.items():
        if owners := tied.get(layer.get_parameter("weight").data_ptr()):
            raise ValueError(f"{path} shares its weight with {owners}: put it into exclude")
    done = {path: int8_layer(layer, path) for path, layer in layers.items()}  # all that can fail comes before the first change
    rows = [_error(path, done[path], matrix_of(layer)) for path, layer in layers.items()]
    for path, new in done.items():
        replace_module(model, path, new)
    model.requires_grad_(False)  # no gradient could pass these layers
    return QuantReport(tuple(rows), other_bytes(model))


def int8_layer(layer: nn.Module, name: str = "layer") -> Int8Linear:
    """An `Int8Linear` of this Linear or Conv1D. ValueError for weights that are not finite."""
    weight, bias = matrix_of(layer), getattr(layer, "bias", None)
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}.weight has values that are not finite: nothing to quantise")
    q, scale = quantize_rows(weight)
    new = Int8Linear(q.contiguous(), scale[:, 0].contiguous(), bias).train(layer.training)
    for hooks in HOOKS:
        getattr(new, hooks).update(getattr(layer, hooks))
    return new


def int8_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Path and shape of every int8 layer."""
    return {path: list(m.weight.shape) for path, m in model.named_modules() if isinstance(m, Int8Linear)}


def put_int8_layers(model: nn.Module, shapes: dict[str, list[int]]) -> None:
    """Int8 layers without numbers at these paths, to be filled from a file. ValueError where a layer does not fit."""
    for path, shape in shapes.items():
        try:
            layer = model.get_submodule(path)
            shapess = list(matrix_of(layer).shape)
        except AttributeError:
            raise ValueError(f"the model has no layer {path}, which is in int8 in the file") from None
        if shapess != shape:
            raise ValueError(f"{path} is {shapess} in the model, {shape} in the file")
        empty = torch.zeros(shape, dtype=torch.int8, device=layer.get_parameter("weight").device)
        replace_module(model, path, Int8Linear(empty, torch.zeros(shape[0], device=empty.device), getattr(layer, "bias", None)))
    if shapes:
        model.requires_grad_(False)


def _error(path: str, layer: Int8Linear, weight: Tensor) -> LayerError:
    weight = weight.float()
    missed = float((layer.weight * layer.scale[:, None] - weight).norm() / weight.norm().clamp(min=1e-30))
    nbytes = layer.weight.nbytes + layer.scale.nbytes
    return LayerError(path, tuple(weight.shape), missed, 8 * nbytes / math.prod(weight.shape), nbytes)
