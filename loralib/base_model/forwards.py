"""Forward methods that lie on a module itself, and keep the class of the time when they were stored there."""

from types import MethodType

from torch import nn


def stored_forwards(module: nn.Module) -> dict[str, MethodType]:
    """Forward methods that are kept on the module itself, bound to its class of that time.

    accelerate's hooks (`device_map`, offloading) keep the original one as `_old_forward` and call it. ValueError where `forward`
    was replaced by something that calls none: LoRA acts through the class, and would never run.
    """
    stored = {name: module.__dict__[name] for name in ("forward", "_old_forward") if name in module.__dict__}
    own_methods = {name: f for name, f in stored.items() if isinstance(f, MethodType) and f.__self__ is module}
    if stored and not own_methods:
        raise ValueError(
            f"the forward of this {type(module).__name__} was replaced by {stored['forward']!r}, so LoRA in it would never run: "
            "remove the replacement (del module.forward), inject, and put it back around the new forward"
        )
    return own_methods


def rebind_forward(module: nn.Module) -> None:
    """After the class has changed: what was kept of the old class's forward becomes the new class's."""
    for name, method in stored_forwards(module).items():
        module.__dict__[name] = MethodType(getattr(type(module), method.__func__.__name__), module)
