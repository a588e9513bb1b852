"""Reading the files of Microsoft's loralib: `<path>.lora_A` (r, d_in) and `<path>.lora_B` (d_out, r), often pickled.

The path prefix of the model that trained it is kept; `rename` maps it where the two models differ.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from loralib.base_model.handles import bare_model
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import lora_layers


@torch.no_grad()
def load_microsoft(
    model: nn.Module,
    path: str | Path,
    adapter_name: str = "default",
    rename: Callable[[str], str] = lambda key: key,
) -> int:
    """Fill the model's adapter from such a file; other tensors in it (biases, a head) go to the parameter of that name.

    Returns how many tensors were read. Raises ValueError when a tensor finds no place, a LoRA factor of the model gets
    none, or a shape differs. Pickles are read with `weights_only=True`: a file that needs more is refused.
    """
    path = Path(path)
    state = {rename(key): value for key, value in _read(path).items()}
    wanted = {}
    for name, layer in lora_layers(model).items():
        if adapter_name in layer.variants:
            wanted |= {f"{name}.lora_A": layer.lora_A[adapter_name], f"{name}.lora_B": layer.lora_B[adapter_name]}
    places = {k: p for k, p in bare_model(model).named_parameters() if k in state} | wanted
    for owner, head in saved_modules(model).items():  # a head lies in the adapter's own copy of it
        if adapter_name in head.copies:
            inside = {f"{owner}.{k}": p for k, p in head.copies[adapter_name].named_parameters()}
            places |= inside
            wanted |= inside if set(inside) & set(state) else {}  # a head comes whole, or not at all
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(places))
    if missing or unexpected:
        raise ValueError(f"{path}: tensors missing {missing[:3]}, tensors without a place {unexpected[:3]}; see `rename`")
    for key, parameter in places.items():
        if key in state and parameter.shape != state[key].shape:
            raise ValueError(f"{path}: {key} is {tuple(state[key].shape)}, expected {tuple(parameter.shape)}")
    for key, value in state.items():
        places[key].copy_(value)
    return len(state)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise ValueError(f"{path}: not readable as a file of tensors ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(state).__name__}")
    return state
