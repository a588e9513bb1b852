"""`torch.compile` for a run, and a count of its graph breaks.

A graph break is a place that the compiler cannot translate: it runs Python there, and the run is slower than it could be. Our
layers and kernels have none, so a break comes from the model. It is reported, with the reason.
"""

from typing import Any

import torch
from torch import nn


def compile_model(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the forward of the whole model in place, for batches of changing lengths. Files and names stay as they are."""
    torch._dynamo.utils.counters.clear()
    model.compile(dynamic=True, backend=backend)


def is_compiled(model: nn.Module) -> bool:
    return model._compiled_call_impl is not None


def graph_breaks() -> dict[str, int]:
    """{reason: how often}, since the last call of `compile_model`."""
    counters: Any = torch._dynamo.utils.counters
    return {str(reason).strip().splitlines()[0]: int(count) for reason, count in counters["graph_break"].items()}
