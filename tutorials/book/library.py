"""Pages of the library, from its source: every public class and function with signature and docstring, then the whole file.

Files are read with `ast`, so nothing is imported: Triton's kernels need no GPU here, and a page cannot differ from its source.
"""

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from loralib.lazy import imported_names
from tutorials.lessons import ROOT
from tutorials.sources import PACKAGES

ROOMS = PACKAGES[:-1]
SHOWN = re.compile(r"(`[^`]+`|(?<![\w*])\*\w+\*(?![\w*]))")
"""what a docstring may mark: `code`, and *one* word"""
SIGN = re.compile(r"([\\*_\[\]<>$#|~^{}])")
FENCE = "~" * 8


def pages() -> dict[str, str]:
    """{path: Markdown}: `library.md`, a page for each room, and one for each of its files (`loralib/layers/linear.py.md`)."""
    rooms = "\n".join(f"{room} <{room}/index>" for room in ROOMS)
    listed = "\n\n".join(f"[{room}]({room}/index.md): {_first(ROOT / room / '__init__.py')}" for room in ROOMS)
    contents = f":::{{toctree}}\n:hidden:\n\n{rooms}\n:::"
    found = {"library.md": f"# The library\n\nA room imports only from rooms above it in this list.\n\n{listed}\n\n{contents}\n"}
    for room in ROOMS:
        files = sorted((ROOT / room).rglob("*.py"))
        found[f"{room}/index.md"] = room_page(room, files)
        found |= {f"{_name(file)}.md": module_page(file) for file in files}
    return found


def room_page(room: str, files: list[Path]) -> str:
    """What a package is for, the names that it offers at the top, and a list of its files."""
    start = ROOT / room / "__init__.py"
    blocks = [f"# {room}", prose(_docstring(start))]
    offered = [f"{{py:obj}}`{name} <{module}.{name}>`" for name, module in imported_names(start).items()]
    if offered:
        blocks += [f"## `import {room}`", " · ".join(offered)]
    for title, chosen in (("Files", False), ("Commands", True)):
        rows = [_row(file, room) for file in files if is_command(file) is chosen and file != start]
        blocks += [f"## {title}", "\n".join(rows)] if rows else []
    return "\n\n".join(blocks) + "\n"


def module_page(path: Path) -> str:
    """One file: what it is for, its public names, its text."""
    tree, name = _with_full_names(ast.parse(path.read_text()), path), _name(path)
    module = _module(path)
    room = "../" * (name.count("/") - 1) + "index.md"
    blocks = [f"# {module}", f"[{name.split('/')[0]}]({room})", prose(ast.get_docstring(tree) or "")]
    objects = [] if is_command(path) else [describe(node) for node in tree.body if _is_public(node)]
    blocks += [f":::{{py:module}} {module}\n:::", *objects, "## Source", source(path)]
    return "\n\n".join(["---\norphan: true\n---", *blocks]) + "\n"


def source_page(path: Path) -> str:
    """A file outside the library (a lesson, an exercise, a test, a table): its text, left out of the search."""
    return f"---\norphan: true\nnosearch: true\n---\n\n# {_name(path)}\n\n{source(path)}\n"


def source(path: Path) -> str:
    language = {".py": "python"}.get(path.suffix, "text")
    return f"{FENCE}{{code-block}} {language}\n:linenos:\n\n{path.read_text().rstrip()}\n{FENCE}"


def is_command(path: Path) -> bool:
    """The same rule as in `tests/test_architecture.py`: what is run, not imported."""
    return path.name == "__main__.py" or path.stem.endswith("_command") or path.is_relative_to(ROOT / "kernels" / "bench")


def describe(node: ast.stmt) -> str:
    """A class or a function as a directive of Sphinx's Python domain."""
    if isinstance(node, ast.ClassDef):
        body = [prose(ast.get_docstring(node) or ""), *_fields(node), *(_method(x) for x in node.body if _is_public(x))]
        return _directive("py:class", node.name + _constructor(node), "\n\n".join(filter(None, body)), depth=4)
    assert isinstance(node, ast.FunctionDef)
    return _directive("py:function", node.name + signature(node), prose(ast.get_docstring(node) or ""))


def signature(node: ast.FunctionDef, skip_first: bool = False) -> str:
    arguments = node.args
    if skip_first:
        places = arguments.posonlyargs or arguments.args
        places.pop(0)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returned}"


def _with_full_names(tree: ast.Module, path: Path) -> ast.Module:
    """The tree with the library's types under their full names in annotations, so that each links to the right page.

    A name that the file gives to a type (`Factors = dict[str, Tensor]`) is written out: two files may give the same name.
    """
    aliases = {
        node.targets[0].id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Subscript)
    }
    for name in [x for x in _annotated(tree) if x.id in aliases]:
        name.id = aliases[name.id]
    known = {name: _module(path) for name in _classes(path)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (file := ROOT / f"{node.module.replace('.', '/')}.py").is_file():
            known |= {alias.name: node.module for alias in node.names if alias.name in _classes(file)}
    for name in [x for x in _annotated(tree) if x.id in known]:
        name.id = f"{known[name.id]}.{name.id}"
    return tree


def _annotated(tree: ast.Module) -> Iterator[ast.Name]:
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            yield from (x for x in ast.walk(part) if isinstance(x, ast.Name)) if part else ()


@cache
def _classes(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and _is_public(node)}


def prose(docstring: str) -> str:
    """A docstring as Markdown: `code` and *one* word stay, an indented paragraph is shown as typed, other signs are signs."""
    blocks = []
    for block in re.split(r"\n\s*\n", docstring.strip("\n")):
        if re.search(r"^ {4}", block, re.MULTILINE):
            blocks.append(f"{FENCE}text\n{textwrap.dedent(block)}\n{FENCE}")
        else:
            pieces = SHOWN.split(block)
            blocks.append("".join(p if i % 2 else SIGN.sub(r"\\\1", p) for i, p in enumerate(pieces)))
    return "\n\n".join(blocks)


def _constructor(node: ast.ClassDef) -> str:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return signature(item, skip_first=True).partition(" -> ")[0] if not item.returns else _without_return(item)
    return ""


def _without_return(node: ast.FunctionDef) -> str:
    node.returns = None
    return signature(node, skip_first=True)


def _method(node: ast.stmt) -> str:
    if not isinstance(node, ast.FunctionDef):
        return ""
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    text = prose(ast.get_docstring(node) or "")
    if marks & {"property", "cached_property"}:
        kind = f":type: {json.dumps(ast.unparse(node.returns))}\n" if node.returns else ""
        return _directive("py:property", node.name, kind + "\n" + text)
    options = "".join(f":{mark}:\n" for mark in ("classmethod", "staticmethod") if mark in marks)
    return _directive("py:method", node.name + signature(node, "staticmethod" not in marks), options + "\n" + text)


def _fields(node: ast.ClassDef) -> list[str]:
    """The annotated fields of a class, with the docstring that follows each."""
    found = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)) or item.target.id.startswith("_"):
            continue
        value = f":value: {json.dumps(ast.unparse(item.value))}\n" if item.value else ""
        told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        options = f":type: {json.dumps(ast.unparse(item.annotation))}\n{value}"
        found.append(_directive("py:attribute", item.target.id, f"{options}\n{prose(str(told))}"))
    return found


def _directive(kind: str, argument: str, body: str, depth: int = 3) -> str:
    fence, escaped = ":" * depth, argument.replace("\\", "\\\\")
    return f"{fence}{{{kind}}} {escaped}\n{body}\n{fence}"


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def _row(file: Path, room: str) -> str:
    name = file.relative_to(ROOT / room).as_posix()
    return f"- [{name}]({name}.md): {_first(file)}"


def _first(file: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    return prose(_docstring(file).split("\n\n")[0].replace("\n", " "))


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _module(path: Path) -> str:
    return _name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
