"""The adapter guesses after loading

Symptom: The accuracy is 0.98 after training. After saving and loading it is that of guessing.

Question: Which trained parameters are in the file?

Cause: Only parameters with `lora` in their names are saved. The new classification head was
trained, too, and it is initialized again when the model is loaded.

Lesson: 03
"""

import torch
from torch import nn


def wrong() -> float:
    """The accuracy after saving and loading."""
    torch.manual_seed(0)
    x = torch.randn(200, 8)
    y = (x[:, 0] > 0).long()
    model = nn.ModuleDict({"lora": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    with torch.no_grad():
        model["lora"].weight.copy_(torch.eye(8))
        model["lora"].bias.zero_()
        model["head"].weight.zero_()[:, 0] = torch.tensor([-9.0, 9.0])  # trained
    file = {name: p.clone() for name, p in model.named_parameters() if "lora" in name}
    loaded = nn.ModuleDict({"lora": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    loaded.load_state_dict(file, strict=False)
    return float((loaded["head"](loaded["lora"](x)).argmax(1) == y).double().mean())


def fixed() -> float:
    """The accuracy after saving and loading."""
    torch.manual_seed(0)
    x = torch.randn(200, 8)
    y = (x[:, 0] > 0).long()
    model = nn.ModuleDict({"lora": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    with torch.no_grad():
        model["lora"].weight.copy_(torch.eye(8))
        model["lora"].bias.zero_()
        model["head"].weight.zero_()[:, 0] = torch.tensor([-9.0, 9.0])  # trained
    file = {name: p.clone() for name, p in model.named_parameters()}
    loaded = nn.ModuleDict({"lora": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    loaded.load_state_dict(file, strict=False)
    return float((loaded["head"](loaded["lora"](x)).argmax(1) == y).double().mean())


def is_right(value: float) -> bool:
    return value > 0.97
