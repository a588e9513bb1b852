"""The checks that turn a run which learns nothing into an error: no trainable weight, no gradient, a loss that is not finite."""

import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands read this file before they have parsed their arguments
    from torch import nn


class NoGradientError(RuntimeError):
    """Something that trains is not part of what is computed."""


def trainable_parameters(model: "nn.Module") -> "list[nn.Parameter]":
    """The parameters for an optimizer. ValueError when there are none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no trainable parameter: inject an adapter or unfreeze a part first")
    return parameters


LARGEST_REST = 0.5
"""of the trained parameters: what a base has besides what it answers with (BigBird's pooler, Longformer's global attention)"""


def assert_all_got_gradients(
    model: "nn.Module",
    without_gradient: Container[str] = (),
    needed: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """After the first backward: every trainable parameter has a gradient, except those of `without_gradient`.

    without_gradient: names of parameters that this step does not use.

    needed: None, all; else the paths of modules that must learn, such as a new head: others may be
    without a gradient where it reaches the lowest layer all the same: no graph was cut, they are not used. They are
    named to `say`, and no optimizer moves them. NoGradientError with the names otherwise.
    """
    without = {n: p for n, p in model.named_parameters() if p.requires_grad and p.grad is None and n not in without_gradient}
    if without and needed is not None and _may_rest(model, without, needed):
        say(f"{len(without)} tensors are no part of the answer and stay as they are: {', '.join(list(without)[:3])}")
        return
    if without:
        names = list(without)
        raise NoGradientError(
            f"{len(without)} trainable parameters got no gradient, e.g. {names[:3]}: they are not part of the forward, "
            "or the graph was cut (no_grad, detach, reentrant checkpointing). Freeze them or connect them"
        )


def _may_rest(model: "nn.Module", without: Mapping[str, "nn.Parameter"], needed: Sequence[str]) -> bool:
    if any(f".{path}." in f".{name}" for name in without for path in needed):
        return False
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    numbers = {name: int(match[1]) for name in trained if (match := re.search(r"\.(\d+)\.", name))}
    lowest = {name for name, number in numbers.items() if number == min(numbers.values())}
    lowest |= {name for name in trained if "embed" in name or name.split(".")[-2:-1] in (["wte"], ["shared"])}
    if not any(trained[name].grad is not None for name in lowest):
        return False
    return sum(p.numel() for p in without.values()) <= LARGEST_REST * sum(p.numel() for p in trained.values())


def assert_finite(value: float, step: int, name: str = "loss") -> None:
    """FloatingPointError naming the step when the loss (or what `name` says) is NaN or infinite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"the {name} is {float(value)} at step {step}: lower the learning rate, or check the data")
