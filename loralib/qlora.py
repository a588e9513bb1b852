"""QLoRA (Dettmers et al. 2023): a base in 4 bits, LoRA in full precision beside it, and two honest ways to merge.

quantize_model(model)                        every linear layer but the heads; says the error of each
prepare_model_for_kbit_training(model)       freeze, the rest in float32, gradient checkpointing
inject(model, LoraConfig(...))               as on any model
merge_dequant(model) / merge_requant(model)  float weights, or 4 bits again: the update is rounded too
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kernels.nf4 import CHUNK, Quantized, dequantize, quantize, scales
from loralib.config import ALL_LINEAR, LoraConfig
from loralib.heads import replace_module
from loralib.layers import Conv1D as LoraConv1D
from loralib.layers import Linear
from loralib.linear4bit import TENSORS, Linear4bit
from loralib.lora_layer import LoraLayer
from loralib.matching import match_targets
from loralib.merge import merge_and_unload, shared_pointers


@dataclass(frozen=True)
class LayerError:
    """One layer's weight, before and after: `error` is ‖after - before‖ / ‖before‖."""

    path: str
    shape: tuple[int, ...]
    error: float
    bits: float
    nbytes: int


@dataclass(frozen=True)
class QuantReport:
    """What was done to which layers."""

    rows: tuple[LayerError, ...]
    other_bytes: int
    """of all that stays as it is: embeddings, norms, heads, biases"""

    @property
    def error(self) -> float:
        """Over all layers, weighted by their size."""
        sizes = [math.prod(row.shape) for row in self.rows]
        return sum(n * row.error for n, row in zip(sizes, self.rows, strict=True)) / sum(sizes)

    @property
    def bits(self) -> float:
        """Stored bits for each number of these layers."""
        return 8 * self.nbytes / sum(math.prod(row.shape) for row in self.rows)

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'layer':<52} {'shape':>14} {'error':>8} {'bits':>7} {'bytes':>12}"]
        for r in self.rows:
            shape = "x".join(map(str, r.shape))
            lines.append(f"{r.path:<52} {shape:>14} {r.error:8.4f} {r.bits:7.3f} {r.nbytes:12,}")
        total = f"{len(self.rows)} layers: {self.bits:.3f} bits a number, relative error {self.error:.4f}"
        return "\n".join([*lines, f"{total}, {self.nbytes:,} bytes; {self.other_bytes:,} bytes stay as they are"])


@torch.no_grad()
def quantize_model(
    model: nn.Module,
    skip: list[str] | None = None,
    *,
    exclude_heads: list[str] | None = None,
    quant_type: str = "nf4",
    blocksize: int = 64,
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> QuantReport:
    """Replace the Linear and Conv1D layers by `Linear4bit`, in place, one at a time. Heads, embeddings and norms stay.

    skip: further modules to leave, by the end of their name; a name that fits none raises. exclude_heads: paths of the task's
    heads, where the model's structure does not tell them (`matching.new_heads`). compute_dtype: of the products; None
    is each weight's own. Raises ValueError for a model that is quantised or adapted already, and for tied weights.
    """
    if any(isinstance(m, LoraLayer | Linear4bit) for m in model.modules()):
        raise ValueError("the model has LoRA or 4-bit layers already: quantise first, then inject adapters, each once")
    config = LoraConfig(target_modules=ALL_LINEAR, exclude_modules=skip or None, modules_to_save=exclude_heads or None)
    paths = match_targets(model, config)
    layers: dict[str, nn.Module] = {path: model.get_submodule(path) for path in paths}
    tied = shared_pointers(model)
    for path, layer in layers.items():
        if layer.get_parameter("weight").data_ptr() in tied:
            raise ValueError(f"{path} shares its weight with {tied[layer.get_parameter('weight').data_ptr()]}: put it into skip")
    options = {"quant_type": quant_type, "blocksize": blocksize, "double_quant": double_quant}
    done: dict[str, Linear4bit] = {}
    rows = []
    for path, layer in layers.items():  # all that can fail comes before the first layer is replaced
        weight = matrix_of(layer)
        done[path] = quantized_layer(layer, path, compute_dtype=compute_dtype, **options)
        rows.append(layer_error(path, done[path], weight))
    for path, new in done.items():
        replace_module(model, path, new)
    return QuantReport(tuple(rows), other_bytes(model))


def quantized_layer(layer: nn.Module, path: str, compute_dtype: torch.dtype | None = None, **options) -> Linear4bit:
    """A `Linear4bit` of this Linear or Conv1D."""
    source = Conv1D if isinstance(layer, Conv1D) else nn.Linear
    bias = getattr(layer, "bias", None)
    return Linear4bit(quantize(matrix_of(layer), **options, name=f"{path}.weight"), bias, compute_dtype, source)


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight as (d_out, d_in)."""
    weight = layer.get_parameter("weight").detach()
    return weight.T if isinstance(layer, Conv1D) else weight


def other_bytes(model: nn.Module) -> int:
    """Bytes of the distinct parameters that are not in 4 bits."""
    packed = {id(m.weight) for m in model.modules() if isinstance(m, Linear4bit)}
    return sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in packed)


def prepare_model_for_kbit_training(model: nn.Module, use_gradient_checkpointing: bool = True) -> nn.Module:
    """Freeze all; embeddings, norms and heads that have 16 bits become float32; gradient checkpointing, not reentrant.

    Call it after `quantize_model` and before `inject`. ValueError for a model without 4-bit layers.
    """
    if not any(isinstance(m, Linear4bit) for m in model.modules()):
        raise ValueError(f"{type(model).__name__} has no 4-bit layers: quantize_model(model) first")
    model.requires_grad_(False)
    for p in model.parameters():
        if p.dtype in (torch.float16, torch.bfloat16):
            p.data = p.data.float()
    if use_gradient_checkpointing:
        start = getattr(model, "gradient_checkpointing_enable", None)
        if start is None:
            raise ValueError(f"{type(model).__name__} knows no gradient checkpointing: use_gradient_checkpointing=False")
        start(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


# ---------------------------------------------------------------- merging


@torch.no_grad()
def merge_dequant(model: nn.Module, names: str | list[str] | None = None, dtype: torch.dtype | None = None) -> QuantReport:
    """dequant(W) + s · B A as float weights, LoRA taken out. The sum is exact in float32; the error is that of `dtype`.

    dtype: None is that of the weight before it was quantised. The result computes what the QLoRA model computed, and not what
    the original weights with this adapter would: the adapter was trained beside the rounded ones.
    """
    rows = []
    for path, layer in _merge_in_float32(model, names).items():
        exact = matrix_of(layer)
        weight = layer.get_parameter("weight")
        weight.data = weight.data.to(dtype or layer.__dict__.pop("stored_dtype"))
        if layer.bias is not None:
            layer.bias.data = layer.bias.data.to(weight.dtype)
        bits = 8.0 * weight.element_size()
        rows.append(LayerError(path, tuple(exact.shape), _distance(matrix_of(layer).float(), exact), bits, weight.nbytes))
        layer.__dict__.pop("stored_dtype", None)
    return QuantReport(tuple(rows), other_bytes(model) - sum(r.nbytes for r in rows))


@torch.no_grad()
def merge_requant(model: nn.Module, names: str | list[str] | None = None) -> QuantReport:
    """dequant(W) + s · B A in 4 bits again, LoRA taken out. The update is rounded with the weight: look at the error.

    Each number is off by at most half of the widest gap between levels times its block's scale.
    """
    settings = {
        path: (layer.quant_type, layer.blocksize, layer.nested_absmax is not None, layer.compute_dtype)
        for path, layer in model.named_modules()
        if isinstance(layer, Linear4bit)
    }
    rows = []
    for path, layer in _merge_in_float32(model, names).items():
        kind, blocksize, nested, compute = settings[path]
        new = quantized_layer(layer, path, compute, quant_type=kind, blocksize=blocksize, double_quant=nested)
        new.stored_dtype = layer.__dict__["stored_dtype"]
        rows.append(layer_error(path, new, matrix_of(layer)))
        replace_module(model, path, new)
    return QuantReport(tuple(rows), other_bytes(model))


def _merge_in_float32(model: nn.Module, names) -> dict[str, nn.Linear | Conv1D]:
    """Decode every adapted 4-bit layer and merge; returns those layers, plain and in float32."""
    packed = {path: m for path, m in model.named_modules() if isinstance(m, Linear4bit) and isinstance(m, LoraLayer)}
    if not packed:
        raise ValueError(f"{type(model).__name__} has no 4-bit layers with LoRA: merge_and_unload(model) merges the others")
    before = [(m, type(m), {**m.__dict__, "_parameters": {**m._parameters}, "_buffers": {**m._buffers}}) for m in packed.values()]
    try:
        for layer in packed.values():
            decode(layer, torch.float32)
        merge_and_unload(model, names)
    except BaseException:
        for layer, kind, state in before:  # as it was, in 4 bits
            layer.__class__ = kind
            layer.__dict__.clear()
            layer.__dict__.update(state)
        raise
    return {path: model.get_submodule(path) for path in packed}  # pyright: ignore[reportReturnType]


def decode(layer: nn.Module, dtype: torch.dtype) -> None:
    """Make a `Linear4bit`, in place, the float layer that it was (with its adapters, if any)."""
    assert isinstance(layer, Linear4bit)
    weight = dequantize(layer.quantized, dtype)
    conv = layer.source_cls is Conv1D
    for name in TENSORS[1:]:
        delattr(layer, name)
    for name in ("quant_type", "blocksize", "compute_dtype", "source_cls"):
        delattr(layer, name)
    layer.weight = nn.Parameter(weight.T.contiguous() if conv else weight, requires_grad=False)
    if conv:
        layer.__dict__ |= {"nf": layer.out_features, "nx": layer.in_features}
    adapted = isinstance(layer, LoraLayer)
    layer.__class__ = (LoraConv1D if conv else Linear) if adapted else (Conv1D if conv else nn.Linear)  # pyright: ignore


def layer_error(path: str, layer: Linear4bit, weight: Tensor) -> LayerError:
    """What quantising did to a weight."""
    q = layer.quantized
    return LayerError(path, tuple(q.shape), relative_error(q, weight), q.bits_per_parameter, q.nbytes)


def relative_error(q: Quantized, weight: Tensor) -> float:
    """‖dequant(q) - weight‖ / ‖weight‖, piece by piece: no second matrix is made."""
    flat, absmax, missed = weight.reshape(-1), scales(q), 0.0
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK].float()
        here = replace(
            q,
            packed=q.packed[start // 2 : (start + len(part) + 1) // 2],
            absmax=absmax[start // q.blocksize : -(-(start + len(part)) // q.blocksize)],
            shape=part.shape,
            nested=None,
        )
        missed += float((dequantize(here, torch.float32) - part).square().sum())
    return (missed / max(float(weight.norm(dtype=torch.float32)) ** 2, 1e-30)) ** 0.5


def _distance(after: Tensor, before: Tensor) -> float:
    return float((after - before.float()).norm() / before.float().norm().clamp(min=1e-30))
