"""An error for bottleneck adapters whose places never run, so that they change nothing and learn nothing.

A hook on the model looks after each pass whether the places ran, and is gone when all have. A place may be left out of a pass
(layers that are dropped at random in training), so it is waited for; but not for ever, and not where no place ran at all.
"""

from typing import Any

import torch
from torch import nn

from adapters.bottleneck.site import Site
from loralib.base_model.never_called import NeverCalledError

HANDLE, PASSES = "_never_ran_check", "_passes_with_adapters"
PATIENCE = 50
"""passes after which a place that never ran is an error"""


def watch_sites(model: nn.Module) -> None:
    """Check the passes of this model until every place has run."""
    for module in model.modules():
        if isinstance(module, Site):
            module.ran = False
    model.__dict__[PASSES] = 0
    if HANDLE not in model.__dict__:
        model.__dict__[HANDLE] = model.register_forward_hook(_check)


def _check(model: nn.Module, args: tuple, output: Any) -> None:
    if torch.compiler.is_compiling():
        return
    active = {path: site for path, site in model.named_modules() if isinstance(site, Site) and site.active is not None}
    never = [path.rpartition(".")[0] for path, site in active.items() if not site.ran]
    model.__dict__[PASSES] += 1
    if never and (len(never) == len(active) or model.__dict__[PASSES] >= PATIENCE):
        raise NeverCalledError(
            f"{type(model).__name__} ran {model.__dict__[PASSES]} times without calling {', '.join(never[:3])} "
            f"({len(never)} of {len(active)} places): the adapters there have no effect"
        )
    if active and not never:
        model.__dict__.pop(HANDLE).remove()
