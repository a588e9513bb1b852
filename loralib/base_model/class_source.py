"""What the source of a module's class says about its children: are they called, or is their weight read past their forward?"""

import inspect
import re
from functools import lru_cache

from torch import nn


@lru_cache(maxsize=512)  # to find a class, `inspect` parses its whole file: 40 ms for each layer of a model
def source_of(kind: type) -> str:
    """The text of a class, or none where its file is not there."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def source_with_bases(kind: type) -> str:
    """The text of a class and of the classes it inherits from, without torch's own."""
    return "".join(source_of(base) for base in kind.__mro__ if not base.__module__.startswith(("torch.", "builtins")))


def calls_child(parent: nn.Module, name: str) -> bool:
    """Whether `self.NAME(` stands in the parent's class or its bases."""
    return re.search(rf"\bself\.{re.escape(name)}\(", source_with_bases(type(parent))) is not None


def reads_weight_of_child(parent: nn.Module, name: str) -> bool:
    """Whether the parent's class reads `self.NAME.weight`, and nowhere calls the child."""
    reads = re.search(rf"\bself\.{re.escape(name)}\.weight\b", source_with_bases(type(parent))) is not None
    return reads and not calls_child(parent, name)
