"""Weights of more than two dimensions that are parameters of a module and no layer: a mixture of experts keeps them so.

transformers 5 stores all experts of a layer as one parameter (experts, d_out, d_in). There is no Linear layer that LoRA could
adapt or that could be quantised, so the reports of both name these weights and their share of the model.
"""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Stacks:
    """The stacked weights of a model; `lines()` is empty where there are none."""

    paths: tuple[str, ...] = ()
    share: float = 0.0
    """of all parameters of the model"""

    def lines(self) -> list[str]:
        if not self.paths:
            return []
        return [
            f"not reached: {len(self.paths)} parameters of more than two dimensions (experts), {100 * self.share:.0f} % of the "
            f"model, e.g. {self.paths[0]}: they are no layers, so they stay as they are"
        ]


NO_STACKS = Stacks()


def find_stacks(model: nn.Module) -> Stacks:
    """Parameters of three or more dimensions with more than one matrix each, of modules that are no convolution."""
    stacked = {
        f"{path}.{name}".lstrip("."): p.numel()
        for path, module in model.named_modules()
        if not isinstance(module, _ConvNd)
        for name, p in module.named_parameters(recurse=False)
        if p.ndim > 2 and min(p.shape[0], *p.shape[-2:]) > 1
    }
    total = sum(p.numel() for p in model.parameters())
    return Stacks(tuple(stacked), sum(stacked.values()) / max(total, 1))
