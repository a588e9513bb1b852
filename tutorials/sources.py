"""Which project files a lesson depends on, and their hashes: a rendered page is fresh as long as none of them changed.

Imports are found with `ast`, nothing is executed. Data that lies beside a module in a folder of the same name counts too
(`training/models/base_models.py` and `training/models/base_models/`).
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from tutorials.lessons import ROOT

PACKAGES = ("kernels", "loralib", "adapters", "training", "multitask", "distill", "tutorials")


def project_files(start: Path, root: Path = ROOT) -> list[Path]:
    """`start` and every file of the project that it imports, directly or through others; sorted after `start`."""
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported_files(path, root)
    return [start, *sorted(seen - {start}), *_data_of(sorted(seen))]


def imported_files(path: Path, root: Path = ROOT) -> list[Path]:
    """The project files that one file imports, with the `__init__.py` of each package on the way."""
    names: set[str] = set()
    for node in _import_statements(path.read_text()):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path, root)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return sorted({file for name in names for file in _files_of(name, root)})


def fingerprints(start: Path, root: Path = ROOT) -> dict[str, str]:
    """{path from the root: SHA-256} of a lesson's project files."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in project_files(start, root)
    }


def fingerprint(start: Path, root: Path = ROOT) -> str:
    """One SHA-256 of a lesson and of every project file that it uses: their paths and contents."""
    return hashlib.sha256(repr(sorted(fingerprints(start, root).items())).encode()).hexdigest()


@cache
def _import_statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    """Cached: lessons share most of their files."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def _absolute(node: ast.ImportFrom, path: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(root).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


@cache
def _files_of(name: str, root: Path) -> list[Path]:
    """Cached: without this, the 44 pages ask the file system for the same names again and again."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    found = [root.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    found.append(root.joinpath(*parts).with_suffix(".py"))
    return [file for file in found if file.is_file()]


def _data_of(modules: list[Path]) -> list[Path]:
    folders = [path.with_suffix("") for path in modules if path.with_suffix("").is_dir()]
    return sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in (".json", ".safetensors"))
