"""QLoRA (Dettmers et al. 2023): a base in 4 bits, LoRA in full precision beside it, and two honest ways to merge.

quantize_model(model)                        every linear layer but the heads; says the error of each
prepare_model_for_kbit_training(model)       freeze, the rest in float32, gradient checkpointing
inject(model, LoraConfig(...))               as on any model
merge_dequant(model) / merge_requant(model)  float weights, or 4 bits again: the update is rounded too
"""

import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kernels.formulas.nf4 import CHUNK, Quantized, dequantize, quantize, scales
from loralib.base_model.class_source import source_of
from loralib.base_model.foreign_layers import refuse_bitsandbytes
from loralib.base_model.stacked_weights import NO_STACKS, Stacks, find_stacks
from loralib.injection.matching import match_targets
from loralib.injection.merge_weights import shared_pointers
from loralib.layers.heads import replace_module
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer
from loralib.variants.config import ALL_LINEAR, LoraConfig


@dataclass(frozen=True)
class LayerError:
    """One layer's weight, before and after: `error` is ‖after - before‖ / ‖before‖; nan where `before` is not known."""

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
    stacks: Stacks = NO_STACKS
    """what no layer of the model multiplies, and stays as it is: the experts' stacked matrices"""
    new_heads: tuple[str, ...] = ()
    """paths of the heads that were in no file and started at random"""

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
        lines.append(f"{total}, {self.nbytes:,} bytes; {self.other_bytes:,} bytes stay as they are")
        new = [f"in no file, so it starts at random: {', '.join(self.new_heads)}"] if self.new_heads else []
        return "\n".join([*lines, *self.stacks.lines(), *new])


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
    heads, where the model's structure does not tell them (`matching.new_heads`). compute_dtype: of the matmuls; None
    is each weight's own. Raises ValueError for a model that is quantised or adapted already, and for tied weights.
    """
    if any(isinstance(m, LoraLayer | Linear4bit) for m in model.modules()):
        raise ValueError("the model has LoRA or 4-bit layers already: quantise first, then inject adapters, each once")
    paths = linear_paths(model, skip, exclude_heads)
    layers: dict[str, nn.Module] = {path: model.get_submodule(path) for path in paths}
    tied = shared_pointers(model)
    refuse_used_twice(model, layers)
    for path, layer in layers.items():
        if layer.get_parameter("weight").data_ptr() in tied:
            raise ValueError(f"{path} shares its weight with {tied[layer.get_parameter('weight').data_ptr()]}: put it into skip")
    options = {"quant_type": quant_type, "blocksize": blocksize, "double_quant": double_quant}
    done: dict[str, Linear4bit] = {}
    rows, stacks = [], find_stacks(model)
    for path, layer in layers.items():  # all that can fail comes before the first layer is replaced
        weight = matrix_of(layer)
        done[path] = quantized_layer(layer, path, compute_dtype=compute_dtype, **options)
        rows.append(layer_error(path, done[path], weight))
    for path, new in done.items():
        replace_module(model, path, new)
    return QuantReport(tuple(rows), other_bytes(model), stacks)


def linear_paths(model: nn.Module, skip: list[str] | None = None, heads: list[str] | None = None) -> list[str]:
    """The layers to quantise. What transformers wants in float32 (T5's `wo`) is left out, as there; ValueError for a layer whose
    dtype the model itself reads."""
    config = LoraConfig(target_modules=ALL_LINEAR, exclude_modules=skip or None, modules_to_save=heads or None)
    wide = set(getattr(model, "_keep_in_fp32_modules", None) or [])
    paths = [path for path in match_targets(model, config) if not wide & set(path.split("."))]
    for path in paths:
        _refuse_readers_of_the_dtype(model, path)
    return paths


def stand_in(new: Linear4bit, old: nn.Module) -> Linear4bit:
    """What is not a weight: training or not, and the hooks."""
    new.train(old.training)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(new, name).update(getattr(old, name))
    return new


def refuse_used_twice(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    path_of = {id(layer): path for path, layer in layers.items()}
    for path, module in model.named_modules(remove_duplicate=False):
        if path_of.get(id(module), path) != path:
            raise ValueError(
                f"{path_of[id(module)]} and {path} are one and the same layer: replacing it in one place would untie them"
            )


def _refuse_readers_of_the_dtype(model: nn.Module, path: str) -> None:
    """Some models ask a layer's weight for its dtype and cast their activations to it: here they would become whole numbers."""
    parent, _, name = path.rpartition(".")
    kind = type(model.get_submodule(parent))
    if re.search(rf"self\.{re.escape(name)}\.weight\.dtype", source_of(kind)):
        raise ValueError(f"{kind.__name__} reads self.{name}.weight.dtype, which is uint8 in 4 bits: give skip=[{name!r}]")


def quantized_layer(layer: nn.Module, path: str, compute_dtype: torch.dtype | None = None, **options) -> Linear4bit:
    """A `Linear4bit` of this Linear or Conv1D."""
    source = Conv1D if isinstance(layer, Conv1D) else nn.Linear
    bias = getattr(layer, "bias", None)
    return stand_in(Linear4bit(quantize(matrix_of(layer), **options, name=f"{path}.weight"), bias, compute_dtype, source), layer)


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

    Call it after `quantize_model` and before `inject`. ValueError for a model without 4-bit layers, or with adapters already.
    """
    if any(isinstance(m, LoraLayer) for m in model.modules()):
        raise ValueError("the model has adapters already, and all would be frozen: prepare it first, then inject")
    refuse_bitsandbytes(model)
    if not any(isinstance(m, Linear4bit) for m in model.modules()):
        raise ValueError(f"{type(model).__name__} has no 4-bit layers: quantize_model(model) first")
    start = getattr(model, "gradient_checkpointing_enable", None)
    if use_gradient_checkpointing and start is None:
        raise ValueError(f"{type(model).__name__} knows no gradient checkpointing: use_gradient_checkpointing=False")
    model.requires_grad_(False)
    for p in model.parameters():
        if p.dtype in (torch.float16, torch.bfloat16):
            p.data = p.data.float()
    if use_gradient_checkpointing and start is not None:
        start(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


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
