"""The model behind a handle: `torch.compile` and DistributedDataParallel give back a wrapper, whose paths have a prefix."""

from torch import nn

WRAPPED = ("_orig_mod", "module")
"""where torch.compile, and DistributedDataParallel and its kin, keep the model"""


def bare_model(handle: nn.Module) -> nn.Module:
    """The model itself: a wrapper has nothing of its own but one module, under one of the known names."""
    while set(handle._modules) and set(handle._modules) <= set(WRAPPED) and not handle._parameters:
        inner = next(iter(handle._modules.values()))
        if len(handle._modules) != 1 or inner is None:
            break
        handle = inner
    return handle
