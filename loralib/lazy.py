"""Names of a package that are imported when they are first used, so that `python -m PACKAGE --help` answers at once.

An `__init__.py` imports its names under `if TYPE_CHECKING:`, where editors and type checkers read them, and takes its
`__getattr__` from here (PEP 562). No name may be that of a module of the package: the module would hide it.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, init_file: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package: it imports a name on first use. AttributeError for a name that the file does not import."""
    module_of = imported_names(Path(init_file))

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name]), name)
        setattr(sys.modules[package], name, value)  # the next use finds it without this function
        return value

    return get


def imported_names(init_file: Path) -> dict[str, str]:
    """{name: module} of the `from MODULE import NAME` lines in the file's `if` blocks."""
    blocks = [node for node in ast.parse(init_file.read_text()).body if isinstance(node, ast.If)]
    lines = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: line.module or "" for line in lines for alias in line.names}
