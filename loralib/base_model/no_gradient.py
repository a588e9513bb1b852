"""A warning for adapted modules that get no gradient: they would train nothing, and no error would say so.

Such a module did not run (a pooler that the head does not use, cross-attention in a decoder that stands alone, an image tower
without images), or its output reaches the loss only through a choice (an index, a top-k), which has no gradient. Each trained
module reports its first gradient that is not zero. After a few passes of the whole model the modules that have reported none are
named, once.

The cost is one look at the gradient of each adapted module until its first one that is not zero, and a call of a Python function
in the other backward passes of these first ones.
"""

import warnings
from functools import partial

import torch
from torch import nn

from loralib.base_model.handles import bare_model

STATE = "_waiting_for_gradients"
PASSES = 5
"""forward passes before the warning; layers that are dropped at random, and tasks that take turns, have their turn"""


class NoGradientWarning(UserWarning):
    """Adapted modules got no gradient; `paths` names all of them."""

    def __init__(self, message: str, paths: tuple[str, ...]):
        super().__init__(message)
        self.paths = paths


class _State:
    """What a model waits for."""

    def __init__(self, waiting: set[str]):
        self.waiting, self.arrived, self.passes = waiting, False, 0
        self.handles: list = []


def watch_gradients(model: nn.Module, parameters: dict[str, nn.Parameter], others: list[nn.Parameter]) -> None:
    """Wait for the first gradient of each of these parameters ({path of the adapted module: its B, or what it has instead}).

    others: what trains beside them. A gradient there says that a backward has come, and is not waited for.
    """
    model = bare_model(model)
    forget_gradients(model)
    if not parameters:
        return
    state = model.__dict__[STATE] = _State(set(parameters))
    state.handles = [p.register_post_accumulate_grad_hook(partial(_arrived, state, path)) for path, p in parameters.items()]
    state.handles += [p.register_post_accumulate_grad_hook(partial(_arrived, state, "")) for p in others]
    state.handles.append(model.register_forward_pre_hook(_count))


def forget_gradients(model: nn.Module) -> None:
    """Wait for nothing more."""
    state = bare_model(model).__dict__.pop(STATE, None)
    for handle in state.handles if state else ():
        handle.remove()


def _arrived(state: _State, path: str, parameter: torch.Tensor) -> None:
    state.arrived = True
    if path in state.waiting and parameter.grad is not None and (parameter.is_meta or parameter.grad.any()):
        state.waiting.discard(path)


def _count(model: nn.Module, args: tuple) -> None:
    """Before each pass. A function of the file, with nothing bound to it, so that a copied model counts its own passes."""
    state = model.__dict__.get(STATE)
    if torch.compiler.is_compiling() or state is None:
        return
    state.passes += 1
    if state.passes <= PASSES and (state.waiting or not state.arrived):
        return
    forget_gradients(model)
    if state.arrived and state.waiting:
        paths = tuple(sorted(state.waiting))
        warnings.warn(
            NoGradientWarning(
                f"{type(model).__name__}: {len(paths)} adapted modules got no gradient in {PASSES} passes, and train nothing: "
                f"{', '.join(paths[:4])}{', ...' if len(paths) > 4 else ''}. They did not run, or no gradient passes their "
                "output. If this is not meant, feed what they need; else leave them out with exclude_modules",
                paths,
            ),
            stacklevel=3,
        )
