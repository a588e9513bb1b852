"""An error for an adapted module that is never called.

LoRA, and a head that is saved whole, act through `forward`. Where a parent reads the weight of a child past its forward, or
bypasses the child, nothing would happen and nothing would be said. So the first forward of each parent is watched: when it has
ended without a call of an adapted child, and its class says nowhere `self.CHILD(`, it raises. A call that only did not happen
this time (an image tower without images, an expert without tokens) is waited for.

The cost is one check at the end of a parent's first forward, after which the hook is gone, and the test of a flag in each forward
of an adapted module. Under `torch.compile` nothing is watched: the first eager forward is.
"""

from collections.abc import Iterable

import torch
from torch import nn

from loralib.base_model.class_source import calls_child

HANDLE = "_never_called_check"


class NeverCalledError(RuntimeError):
    """An adapted module has no effect, because the module around it never calls it."""


def mark_called(module: nn.Module) -> None:
    """For the forward of an adapted module: it was called."""
    if not torch.compiler.is_compiling():
        module.__dict__["called"] = True


def watch(model: nn.Module, paths: Iterable[str]) -> None:
    """Watch the first forward of the parents of these modules. A list of modules has no forward, and is not watched."""
    for path in paths:
        parent = model.get_submodule(path.rpartition(".")[0])
        model.get_submodule(path).__dict__["called"] = False
        if HANDLE not in parent.__dict__ and not isinstance(parent, nn.ModuleList | nn.ModuleDict):
            parent.__dict__[HANDLE] = parent.register_forward_hook(_check)


def unwatch(model: nn.Module) -> None:
    """Wait for nothing more. A model that is compiled should not change afterwards: a hook that goes would compile it again."""
    for module in model.modules():
        if HANDLE in module.__dict__:
            module.__dict__.pop(HANDLE).remove()
        if getattr(module, "called", True) is False:
            module.__dict__["called"] = True


def _check(parent: nn.Module, args, output) -> None:
    """After the parent's forward. A function of the file, with nothing bound to it, so that a copied model checks itself."""
    if torch.compiler.is_compiling():
        return
    waiting = [name for name, child in parent._modules.items() if getattr(child, "called", True) is False]
    never = [name for name in waiting if not calls_child(parent, name)]
    if never:
        raise NeverCalledError(_message(parent, never))
    if not waiting:
        parent.__dict__.pop(HANDLE).remove()


def _message(parent: nn.Module, never: list[str]) -> str:
    twins = [path for name in never for path in _twins(parent, parent._modules[name])]
    instead = f" The same weight is used in {', '.join(twins)}: adapt it there." if twins else ""
    return (
        f"{type(parent).__name__} ran without calling {', '.join(never)}, so what is adapted there has no effect: its weight is "
        f"read past forward(), or not used. Leave it out (exclude_modules={never}).{instead}"
    )


def _twins(parent: nn.Module, child: nn.Module | None) -> list[str]:
    """Paths of further embeddings with the weight of an embedding."""
    plain = getattr(child, "original", child)
    if not isinstance(plain, nn.Embedding):
        return []
    others = [(path, m) for path, m in parent.named_modules() if isinstance(m, nn.Embedding) and m.weight is plain.weight]
    return [path for path, module in others if module is not plain]
