"""Reading an adapter folder: `adapter_config.json`, and the tensors from safetensors or from the pickle of older versions.

Everything that a damaged or foreign file can raise ends in AdapterFileError, with the file, what was found and what was expected.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralib.files.file_tensors import PREFIX, is_factor, key_in_model
from loralib.settings.peft_config import config_from_peft
from loralib.variants.config import AdapterConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLE = "adapter_model.bin"
"""what peft wrote before version 0.7"""


class AdapterFileError(ValueError):
    """An adapter folder that cannot be loaded; the message names the file, what was found and what was expected."""


def read_config(folder: Path) -> AdapterConfig:
    """Read `adapter_config.json`; AdapterFileError where it is absent, damaged or asks for what we cannot do."""
    path = folder / CONFIG
    try:
        return config_from_peft(read_json(path))
    except AdapterFileError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise AdapterFileError(f"{path}: {error}") from error


def read_json(path: Path, error_type: type[ValueError] = AdapterFileError) -> dict:
    """The settings in a JSON file. `error_type` where it is absent or damaged, or holds anything but names and values."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise error_type(f"{path}: holds a {type(content).__name__}, expected names with values ({{...}})")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read `adapter_model.safetensors` (or the `.bin` of peft before 0.7), keys without peft's prefix.

    AdapterFileError for anything out of order. A `.bin` is a pickle: it is read with `weights_only=True`, tensors and no code.
    """
    path = weights_file(folder)
    tensors = _read_pickle(path) if path.suffix == ".bin" else _read_safetensors(path)
    strange = [key for key in tensors if key_in_model(key) is None]
    if strange or not tensors:
        raise AdapterFileError(f"{path}: {len(tensors)} tensors, names without '{PREFIX}': {strange[:3]}")
    for key, tensor in tensors.items():
        if is_factor(key) and (not tensor.is_floating_point() or tensor.dtype.itemsize < 2):
            raise AdapterFileError(f"{path}: {key} is {tensor.dtype}, expected float16, bfloat16, float32 or float64")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise AdapterFileError(f"{path}: {key} has values that are not finite")
    return {str(key_in_model(key)): tensor for key, tensor in tensors.items()}


def weights_file(folder: Path) -> Path:
    """The file with the tensors: safetensors where there is one, else the pickle of older versions of peft."""
    return folder / WEIGHTS if (folder / WEIGHTS).exists() or not (folder / PICKLE).exists() else folder / PICKLE


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise AdapterFileError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata is not None and metadata.get("format") != "pt":
        raise AdapterFileError(f"{path}: metadata {metadata}, expected 'format': 'pt' in it: the header is damaged")
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise AdapterFileError(f"{path}: not a readable file of tensors ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise AdapterFileError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return content
