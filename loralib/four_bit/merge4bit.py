"""Two ways to merge LoRA into a 4-bit base, each saying its error. A third one, onto the original weights, is not here: the
adapter was trained beside the rounded weights, and corrects errors that the original ones do not have.
"""

import copy

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kernels.formulas.nf4 import dequantize
from loralib.four_bit.qlora import (
    LayerError,
    QuantReport,
    layer_error,
    matrix_of,
    other_bytes,
    quantized_layer,
    refuse_used_twice,
)
from loralib.injection.merge_weights import merge_and_unload
from loralib.layers.heads import replace_module
from loralib.layers.linear import Conv1D as LoraConv1D
from loralib.layers.linear import Linear
from loralib.layers.linear4bit import TENSORS, Linear4bit
from loralib.layers.lora_layer import LoraLayer, is_adapter_parameter


@torch.no_grad()
def merge_dequant(model: nn.Module, names: str | list[str] | None = None, dtype: torch.dtype | None = None) -> QuantReport:
    """dequant(W) + s · B A as float weights, LoRA taken out. The sum is exact in float32; the error is that of `dtype`.

    dtype: None is that of the rest of the model now; where there is none, of the weight before it was quantised. The result
    computes what the QLoRA model computed, and not what the original weights with this adapter would: the adapter was trained
    beside the rounded ones.
    """
    rest = [p.dtype for n, p in model.named_parameters() if p.is_floating_point() and not is_adapter_parameter(n)]
    target = dtype or next(iter(rest), None)
    rows = []
    for path, layer in _merge_in_float32(model, names, target).items():
        exact = matrix_of(layer)
        weight = layer.get_parameter("weight")
        weight.data = weight.data.to(target or layer.__dict__["stored_dtype"])
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


def _merge_in_float32(model: nn.Module, names, dtype: torch.dtype | None = None) -> dict[str, nn.Linear | Conv1D]:
    """Decode every adapted 4-bit layer and merge; returns those layers, plain and in float32."""
    packed = {path: m for path, m in model.named_modules() if isinstance(m, Linear4bit) and isinstance(m, LoraLayer)}
    if not packed:
        raise ValueError(f"{type(model).__name__} has no 4-bit layers with LoRA: merge_and_unload(model) merges the others")
    refuse_used_twice(model, dict(packed))
    for path, layer in packed.items():
        _refuse_overflow(path, layer, [names] if isinstance(names, str) else names, dtype or layer.stored_dtype)
    copied_attributes = ("_parameters", "_buffers", "_non_persistent_buffers_set")
    before = [(m, type(m), {**m.__dict__, **{k: copy.copy(m.__dict__[k]) for k in copied_attributes}}) for m in packed.values()]
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


def _refuse_overflow(path: str, layer: nn.Module, names: list[str] | None, dtype: torch.dtype) -> None:
    assert isinstance(layer, Linear4bit) and isinstance(layer, LoraLayer)
    total = dequantize(layer.quantized, torch.float32)
    for name in layer.active if names is None else [n for n in names if n in layer.variants]:
        total += layer.delta_weight(name)
    if not total.to(dtype).isfinite().all():
        raise ValueError(f"{path}: the merged weight would not be finite in {dtype}: nothing was merged")


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


def decode_all(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Make every 4-bit layer of the model, in place, a plain one. dtype: None is that of each weight before it was quantised."""
    for layer in [m for m in model.modules() if isinstance(m, Linear4bit)]:
        stored = layer.stored_dtype
        decode(layer, dtype or stored)
        layer.__dict__.pop("stored_dtype", None)


def _distance(after: Tensor, before: Tensor) -> float:
    return float((after - before.float()).norm() / before.float().norm().clamp(min=1e-30))
