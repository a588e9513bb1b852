"""The checks that turn a run which learns nothing into an error: no trainable weight, no gradient, a loss that is not finite."""

import math
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands read this file before they have parsed their arguments
    from torch import nn


class NoGradientError(RuntimeError):
    """Something that trains is not part of what is computed."""


def trainable_parameters(model: "nn.Module") -> "list[nn.Parameter]":
    """The parameters for an optimizer. ValueError when there are none."""
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ValueError(f"{type(model).__name__} has no trainable parameter: inject an adapter or unfreeze a part first")
    return found


def assert_all_got_gradients(model: "nn.Module", resting: Container[str] = ()) -> None:
    """After the first backward: every trainable parameter has a gradient, but for those that rest in this step.

    NoGradientError with the names of those without.
    """
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and n not in resting]
    if without:
        raise NoGradientError(
            f"{len(without)} trainable parameters got no gradient, e.g. {without[:3]}: they are not part of the forward, "
            "or the graph was cut (no_grad, detach, reentrant checkpointing). Freeze them or connect them"
        )


def assert_finite(value: float, step: int, name: str = "loss") -> None:
    """FloatingPointError naming the step when the loss (or what `name` says) is NaN or infinite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"the {name} is {float(value)} at step {step}: lower the learning rate, or check the data")
