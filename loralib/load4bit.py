"""Load a model in 4 bits, one tensor at a time: memory stays near the 4-bit size, whatever the size of the files.

The model is made without its numbers (on torch's meta device). Then each tensor is read from its safetensors file, quantised if
it is a linear layer's weight, put in its place, and forgotten. The files are read by offset and not mapped into memory: mapped
pages count as memory of the process for as long as the file is open.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D

from kernels.nf4 import quantize
from loralib.adapter_files import read_json
from loralib.heads import replace_module
from loralib.linear4bit import Linear4bit
from loralib.qlora import LayerError, QuantReport, layer_error, linear_paths, other_bytes, stand_in

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}
INDEX = "model.safetensors.index.json"
SHAPES = "_shapes_before_loading"


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
    options: of `kernels.nf4.quantize` (`double_quant` is True here). Raises ValueError for tensors that are missing in the
    files, that the model does not know, or of another shape: nothing stays random.
    """
    folder = Path(folder)
    model, dtype = _without_numbers(folder, model_class, config, dtype)
    packed = set(linear_paths(model, skip))
    seen: set[str] = set()
    rows: list[LayerError] = []
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    for name, tensor in progress(_tensors(folder)):
        known = _known(model, name, tensor, folder)
        if known is None and any(re.search(pattern, name) for pattern in ignored):  # such as GPT-2's old masks
            continue
        if known is None:
            there = sorted(_shapes(model))[:3]
            raise ValueError(f"{folder}: {name} is in the file, and {type(model).__name__} has no such tensor, e.g. {there}")
        if known in seen:
            raise ValueError(f"{folder}: {known} is in the files twice")
        seen.add(known)
        path, _, kind = known.rpartition(".")
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if path in packed and kind == "weight":
            rows.append(_place_packed(model, path, tensor, compute_dtype, {"double_quant": True, **options}))
        else:
            _place(model, path, kind, tensor)
    model.__dict__.pop(SHAPES, None)
    _tie(model)
    if (folder / "generation_config.json").exists() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    empty = [name for name, p in [*model.named_parameters(), *model.named_buffers()] if p.device.type == "meta"]
    if empty:
        raise ValueError(f"{folder}: {len(empty)} tensors of {type(model).__name__} are in no file, e.g. {empty[:3]}")
    return model.requires_grad_(False), QuantReport(tuple(rows), other_bytes(model))


def _without_numbers(folder: Path, model_class: Any, config: Any, dtype: torch.dtype | None) -> tuple[Any, torch.dtype]:
    """The model on the meta device, and the dtype of what stays unquantised."""
    try:
        config = config or AutoConfig.from_pretrained(folder)
        dtype = dtype or (config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32)
        with init_empty_weights(include_buffers=False):  # buffers, such as rotary frequencies, are in no file
            make = getattr(model_class, "from_config", None) or getattr(model_class, "_from_config")  # noqa: B009
            return make(config, dtype=dtype).eval(), dtype
    except Exception as error:  # a damaged config raises anything, deep inside transformers
        raise ValueError(f"{folder}: no model can be made from its config.json ({type(error).__name__}: {error})") from error


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every tensor in a folder's safetensors files, each read when it is asked for."""
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise ValueError(f"{folder / INDEX}: no weight_map, which says where each tensor is")
        files = sorted(set(index.values()))
    else:
        files = [file.name for file in folder.glob("model.safetensors")]
    if not files:
        raise ValueError(f"{folder}: no model.safetensors and no {INDEX}; found {sorted(p.name for p in folder.iterdir())[:8]}")
    for file in files:
        try:
            with safe_open(folder / file, framework="pt"):  # looks at sizes, types and offsets, and reads no tensor
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / file}: not a readable safetensors file ({error})") from error
        with (folder / file).open("rb", buffering=0) as source:
            size = int.from_bytes(source.read(8), "little")
            header = json.loads(source.read(size))
            header.pop("__metadata__", None)
            for name, facts in header.items():
                start, stop = facts["data_offsets"]
                yield name, _read(source, 8 + size + start, stop - start, facts, f"{folder / file}: {name}")


def _read(source, where: int, length: int, facts: dict, name: str) -> Tensor:
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"{name} is {facts['dtype']}, expected one of {', '.join(DTYPES)}")
    data = bytearray(length)
    view, got = memoryview(data), 0
    source.seek(where)
    while got < length:  # a read may return less than it was asked for
        count = source.readinto(view[got:])
        if not count:
            raise ValueError(f"{name}: the file ends before its tensor does")
        got += count
    dtype = DTYPES[facts["dtype"]]
    return torch.frombuffer(data, dtype=dtype).view(facts["shape"]) if length else torch.empty(facts["shape"], dtype=dtype)


def _known(model: nn.Module, name: str, tensor: Tensor, folder: Path) -> str | None:
    """The model's own name of a tensor: files of a bare base lack its prefix, files of a head have it. Strict about shapes."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    state = _shapes(model)
    for candidate in (name, prefix + name, name.removeprefix(prefix)):
        if candidate in state:
            if state[candidate] != tuple(tensor.shape):
                found, wanted = tuple(tensor.shape), state[candidate]
                raise ValueError(f"{folder}: {name} is {found} in the file and {wanted} in {type(model).__name__}")
            return candidate
    return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    found = model.__dict__.get(SHAPES)
    if found is None:  # taken once: layers change while they are loaded
        found = {n: tuple(p.shape) for n, p in model.state_dict().items()}
        model.__dict__[SHAPES] = found
    return found


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
    q = quantize(weight, **options, name=f"{path}.weight")
    new = Linear4bit(q, None, compute_dtype, Conv1D if conv else nn.Linear)
    new.bias = layer._parameters["bias"]  # read already, or still to come
    replace_module(model, path, stand_in(new, layer))
    return layer_error(path, new, weight)
