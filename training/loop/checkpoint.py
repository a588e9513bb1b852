"""Everything that a run needs to go on, bit for bit, in one safetensors file that is written atomically.

Weights that train, optimizer, schedule, loss scaler, position in the data, progress, and the state of every random generator
of every process. No pickle: tensors are tensors, the rest is JSON in the file's header.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from loralib import Linear4bit
from loralib.files.save_and_load import write_atomic
from training.loop.processes import gather
from training.loop.randomness import random_states, set_random_states

FILE = "checkpoint.safetensors"
SUM = "crc32"
"""of all that the file holds; files of older versions have none"""


@runtime_checkable
class Stateful(Protocol):
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> Any: ...


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit the run; the message says what to do."""


def save_checkpoint(path: Path, parts: dict[str, Stateful], accelerator: Accelerator) -> None:
    """Write the state of all `parts` and of the random generators; rank 0 writes, every rank must call."""
    generators = gather([random_states()], accelerator)
    if accelerator.is_main_process:
        content = {"parts": {name: part.state_dict() for name, part in parts.items()}, "random": generators}
        tensors: dict[str, Tensor] = {}
        tree = _split(content, tensors)
        text = json.dumps(tree)
        write_atomic(path, save(tensors, metadata={"tree": text, SUM: str(_sum(text, tensors))}))
    accelerator.wait_for_everyone()


def load_checkpoint(path: Path, parts: dict[str, Stateful], accelerator: Accelerator) -> None:
    """Put every part, and this rank's random generators, back to the saved state. CheckpointError when it does not fit."""
    content = read_checkpoint(path)
    generators = content["random"]
    if len(generators) != accelerator.num_processes:
        raise CheckpointError(
            f"{path} was written by {len(generators)} processes, this run has {accelerator.num_processes}: "
            "launch as many, or start again (--restart)"
        )
    if set(content["parts"]) != set(parts):
        raise CheckpointError(f"{path} holds {sorted(content['parts'])}, this run needs {sorted(parts)}: start again (--restart)")
    for name, part in parts.items():
        try:
            part.load_state_dict(content["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: the {name} does not fit this run ({error})") from error
    set_random_states(generators[accelerator.process_index])


def read_checkpoint(path: Path) -> dict:
    """The file as nested dictionaries: {"parts": {name: state}, "random": [one per rank]}."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get(SUM, computed := str(_sum(metadata["tree"], tensors))) != computed:
            raise ValueError(f"its checksum is {computed}, and it was written with {metadata[SUM]}: a bit was flipped")
        return _join(json.loads(metadata["tree"]), tensors.__getitem__)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}). Start again (--restart)") from error


def frozen_checksum(model: nn.Module) -> int:
    """A number that changes when any weight does that a checkpoint does not hold."""
    value = 0
    scales = [(f"{n}.{k}", t) for n, m in model.named_modules() if isinstance(m, Linear4bit) for k, t in m.named_buffers()]
    for name, p in [*model.named_parameters(), *scales]:
        if not p.requires_grad:
            bits = p.detach().cpu().contiguous().flatten().view(torch.uint8)
            value = zlib.crc32(bits.numpy().data, zlib.crc32(name.encode(), value))
    return value


def saved_step(path: Path) -> int:
    """How many steps the run in this checkpoint had done."""
    return read_checkpoint(path)["parts"]["progress"]["step"]


class TrainableWeights:
    """The parameters of a model that train, as a part of a checkpoint; strict in both directions."""

    def __init__(self, model: nn.Module):
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if set(state) != set(self.parameters):
            wrong = sorted(set(state) ^ set(self.parameters))
            raise ValueError(f"{len(state)} tensors, expected {len(self.parameters)}; not in both: {wrong[:3]}")
        for name, p in self.parameters.items():
            if p.shape != state[name].shape or p.dtype != state[name].dtype:
                saved, expected = (f"{tuple(t.shape)} {t.dtype}" for t in (state[name], p))
                raise ValueError(f"{name} is {saved}, expected {expected}")
        for name, p in self.parameters.items():
            p.copy_(state[name])


# ---------------------------------------------------------------- nested states as JSON beside tensors


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON tree in which each tensor is {"tensor": name}, dictionaries are lists of pairs, and tuples say so."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_split(k, tensors), _split(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_split(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a checkpoint: expected tensors, numbers, texts and containers")


def _sum(tree: str, tensors: dict[str, Tensor]) -> int:
    value = zlib.crc32(tree.encode())
    for name, tensor in sorted(tensors.items()):
        about = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        bits = tensor.contiguous().flatten().view(torch.uint8)
        value = zlib.crc32(bits.numpy().data, zlib.crc32(about, value))
    return value


def _join(tree: Any, tensor: Callable[[str], Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {_join(k, tensor): _join(v, tensor) for k, v in content}
    items = [_join(v, tensor) for v in content]
    return tuple(items) if kind == "tuple" else items
