"""Load a model in 4 bits, one tensor at a time: memory stays near the 4-bit size, whatever the size of the files.

The model is made without its numbers (on torch's meta device). Then each tensor is read from its safetensors file, quantised if
it is a linear layer's weight, put in its place, and forgotten.
"""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D

from kernels.formulas.nf4 import Quantized, quantize
from loralib.base_model.stacked_weights import find_stacks
from loralib.four_bit.model_files import headers_of, packed_groups, weights_in
from loralib.four_bit.qlora import LayerError, QuantReport, layer_error, linear_paths, other_bytes, stand_in
from loralib.injection.matching import new_heads
from loralib.layers.heads import replace_module
from loralib.layers.linear4bit import Linear4bit

SHAPES = "_shapes_before_loading"
NEW_NAMES = {"gamma": "weight", "beta": "bias"}


@torch.no_grad()
def load_4bit(
    folder: str | Path,
    model_class: Any,
    skip: list[str] | None = None,
    *,
    config: Any = None,
    dtype: torch.dtype | None = None,
    compute_dtype: torch.dtype | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    **options,
) -> tuple[nn.Module, QuantReport]:
    """A transformers model from a local folder, its linear layers in 4 bits. `model_class`: a model class, or an Auto class.

    config: None reads the folder's. dtype: of what stays unquantised; None is the config's.
    options: of `quantize` in kernels (`double_quant` is True here). A folder whose weights lie in 4 bits already (ours, or of
    bitsandbytes) is read as it is. Raises ValueError for tensors that are missing in the files, that the model does not know, or
    of another shape. Only a new head may be in no file: it starts at random, and the report names it.
    """
    folder = Path(folder)
    model, dtype = _without_numbers(folder, model_class, config, dtype)
    groups = packed_groups(name for name, _ in headers_of(folder))
    to_pack = set() if groups else set(linear_paths(model, skip))  # in a packed folder, what is not packed stays so
    loaded: set[str] = set()
    rows: list[LayerError] = []
    strange: list[str] = []
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    for name, tensor in progress(weights_in(folder, groups)):
        known = _known(model, name, tensor, folder)
        if known is None:
            if not any(re.search(pattern, name) for pattern in ignored):  # such as GPT-2's old masks
                strange.append(name)
            continue
        if known in loaded:
            raise ValueError(f"{folder}: {known} is in the files twice")
        loaded.add(known)
        path, _, kind = known.rpartition(".")
        if isinstance(tensor, Quantized):
            rows.append(_place_layer(model, path, tensor, compute_dtype))
            continue
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if path in to_pack and kind == "weight":
            rows.append(_place_packed(model, path, tensor, compute_dtype, {"double_quant": True, **options}))
        else:
            _place(model, path, kind, tensor)
    model.__dict__.pop(SHAPES, None)
    _tie(model)
    if (folder / "generation_config.json").exists() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    heads = _start_heads(model, dtype)
    _check_all_used(model, strange, heads, folder)
    return model.requires_grad_(False), QuantReport(tuple(rows), other_bytes(model), find_stacks(model), heads)


def _start_heads(model: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """Give numbers to the heads that are in no file, as `from_pretrained` does; returns their paths."""
    empty = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.is_meta}
    heads = tuple(
        path for path in (new_heads(model) if empty else []) if any(e == path or e.startswith(f"{path}.") for e in empty)
    )
    for path in heads:
        head = model.get_submodule(path).to_empty(device="cpu").to(dtype)
        for module in head.modules():
            model._init_weights(module)
    return heads


def _check_all_used(model: nn.Module, strange: list[str], heads: tuple[str, ...], folder: Path) -> None:
    """ValueError for a tensor of the model that is in no file, and for a tensor of the files that is nowhere in the model.

    Where this model has a new head, the files may hold the head of another class (`lm_head`, beside the base).
    """
    kind, base = type(model).__name__, f"{getattr(model, 'base_model_prefix', '')}."
    strange = [name for name in strange if not heads or name.startswith(base)]
    experts = (
        " Experts lie apart in the files: from_pretrained joins them, then quantize_model." if find_stacks(model).paths else ""
    )
    if strange:
        raise ValueError(
            f"{folder}: {strange[0]} is in the file, and {kind} has no such tensor ({len(strange)} in all), e.g. "
            f"{sorted(model.state_dict())[:3]}.{experts}"
        )
    empty = [name for name, p in [*model.named_parameters(), *model.named_buffers()] if p.device.type == "meta"]
    if empty:
        raise ValueError(f"{folder}: {len(empty)} tensors of {kind} are in no file, e.g. {empty[:3]}.{experts}")


def _without_numbers(folder: Path, model_class: Any, config: Any, dtype: torch.dtype | None) -> tuple[Any, torch.dtype]:
    """The model on the meta device, and the dtype of what stays unquantised."""
    try:
        config = config or AutoConfig.from_pretrained(folder)
        dtype = dtype or (config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32)
        with init_empty_weights(include_buffers=False):  # buffers, such as rotary frequencies, are in no file
            make = getattr(model_class, "from_config", None) or getattr(model_class, "_from_config")  # noqa: B009
            model = make(config, dtype=dtype).eval()
        model.config.__dict__.pop("quantization_config", None)  # of the files; our layers are no layers of bitsandbytes
        return model, dtype
    except Exception as error:  # a damaged config raises anything, deep inside transformers
        raise ValueError(f"{folder}: no model can be made from its config.json ({type(error).__name__}: {error})") from error


def _known(model: nn.Module, name: str, tensor: Tensor | Quantized, folder: Path) -> str | None:
    """The model's own name of a tensor: files of a bare base lack its prefix, files of a head have it. Strict about shapes."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    state = _shapes(model)
    new = re.sub(r"LayerNorm\.(gamma|beta)$", lambda old: f"LayerNorm.{NEW_NAMES[old[1]]}", name)  # as old BERT files have it
    for candidate in (new, prefix + new, new.removeprefix(prefix)):
        if candidate in state:
            packed = isinstance(tensor, Quantized) and isinstance(model.get_submodule(candidate.rpartition(".")[0]), Conv1D)
            shape = tuple(reversed(tensor.shape)) if packed else tuple(tensor.shape)  # packed as (d_out, d_in)
            if state[candidate] != shape:
                shapes, wanted = tuple(tensor.shape), state[candidate]
                raise ValueError(f"{folder}: {name} is {shapes} in the file and {wanted} in {type(model).__name__}")
            return candidate
    return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = model.__dict__.get(SHAPES)
    if shapes is None:  # taken once: layers change while they are loaded
        shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
        model.__dict__[SHAPES] = shapes
    return shapes


def _tie(model: Any) -> None:
    """Tie what the config ties. A head in the file that differs from the embedding stays its own, as in transformers."""
    words, head = model.get_input_embeddings(), getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None and getattr(model.config, "tie_word_embeddings", False) and head.weight.device.type != "meta":
        if words.weight.device.type == "meta":
            words.weight = head.weight
        elif not torch.equal(words.weight, head.weight):
            model.config.tie_word_embeddings = False
            return
    model.tie_weights()


def _place(model: nn.Module, path: str, kind: str, tensor: Tensor) -> None:
    module = model.get_submodule(path)
    if kind in module._buffers:
        module._buffers[kind] = tensor
    else:
        module._parameters[kind] = nn.Parameter(tensor, requires_grad=False)


def _place_packed(model: nn.Module, path: str, tensor: Tensor, compute_dtype, options: dict) -> LayerError:
    layer = model.get_submodule(path)
    conv = isinstance(layer, Conv1D)
    weight = tensor.T if conv else tensor
    _place_layer(model, path, quantize(weight, **options, name=f"{path}.weight"), compute_dtype)
    return layer_error(path, model.get_submodule(path), weight)  # pyright: ignore[reportArgumentType]


def _place_layer(model: nn.Module, path: str, q: Quantized, compute_dtype: torch.dtype | None) -> LayerError:
    """Put a packed weight in a layer's place. What its packing lost is unknown here: the error is not a number."""
    layer = model.get_submodule(path)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise ValueError(f"{path} lies in 4 bits in the file and is a {type(layer).__name__} in the model, expected a Linear")
    new = Linear4bit(q, None, compute_dtype, Conv1D if isinstance(layer, Conv1D) else nn.Linear)
    new.bias = layer._parameters["bias"]  # read already, or still to come
    replace_module(model, path, stand_in(new, layer))
    return LayerError(path, tuple(q.shape), math.nan, q.bits_per_parameter, q.nbytes)
