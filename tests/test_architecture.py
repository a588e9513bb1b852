"""The packages and their folders: who may import whom, and how large a file, a function and a folder may be."""

import ast
import re
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("kernels", "loralib", "adapters", "training", "multitask", "distill", "tutorials")
FILES = sorted(p for package in ORDER for p in (ROOT / package).rglob("*.py"))
LESSON_CODE = ("rendered", "exercises", "solutions")


def is_command(path: Path) -> bool:
    return path.name == "__main__.py" or path.stem.endswith("_command") or path.is_relative_to(ROOT / "kernels" / "bench")


COMMANDS = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if is_command(path)}


@cache
def imports(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, at any depth of its code."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the package they come from"
            result |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return result


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_up_only(path):
    space = path.relative_to(ROOT).parts[0]
    later = ORDER[ORDER.index(space) + 1 :]
    if is_command(path):
        return
    wrong = sorted(m for m in imports(path) if m.split(".")[0] in later)
    assert not wrong, f"{path.relative_to(ROOT)} imports {wrong} from a later package"


def folder_of(name: str) -> str:
    """The sub-folder in which a module lies; a module of no sub-folder stands for itself."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("package", ORDER[:-1])
def test_imports_between_folders_have_one_direction(package):
    """`CycleError` names the folders that import each other."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES if p.relative_to(ROOT).parts[0] == package}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        if path.stem not in ("__init__", "__main__"):
            graph.setdefault(folder_of(name), set()).update(folder_of(used) for used in imports(path) if used in names)
    for folder, used in graph.items():
        used -= {folder, package}
    assert list(TopologicalSorter(graph).static_order())


FOLDERS = sorted(
    {p.parent for package in (*ORDER[:-1], "tests") for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts}
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_small_folders(folder):
    files = [path.name for path in folder.iterdir() if path.is_file() and path.suffix not in (".pyc", ".safetensors")]
    assert len(files) <= 15, f"{folder.name} holds {len(files)} files: {sorted(files)}"
    if folder.parent != ROOT and folder.name not in ("golden", "bare_machine"):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert text, f"{folder.name}/__init__.py says in one line what a reader finds there"
        assert folder.parent.name not in ORDER or len(text.splitlines()) == 1 or folder.name == "bench"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_imports_a_command(path):
    if is_command(path):
        return
    assert not imports(path) & COMMANDS


@pytest.mark.parametrize("path", [p for p in FILES if "tutorials" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_small_rooms(path):
    text = path.read_text()
    assert text.count("\n") <= 300, "a file is one idea: at most 300 lines"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "every module says what it is for"
    long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert not long, f"functions over 60 lines: {long}"


def test_functions_are_short():
    """Half of them have at most 10 lines, and nine of ten at most 25."""
    trees = [ast.parse(path.read_text()) for path in FILES if "tutorials" not in path.parts]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    assert lengths[len(lengths) // 2] <= 10 and lengths[9 * len(lengths) // 10] <= 25


def test_test_files_are_short_too():
    long = [path.name for path in (ROOT / "tests").rglob("*.py") if path.read_text().count("\n") > 300]
    assert long == []


def test_layers_know_no_variant_by_name():
    """What a variant computes is said in its own file; a layer asks the variant."""
    variants = {"Dora", "Pissa", "Ia3", "Vera", "Swappable"}
    for path in (ROOT / "loralib" / "layers").glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & variants and "kind ==" not in path.read_text(), path


def test_one_step_of_training_fits_on_a_screen():
    tree = ast.parse((ROOT / "training" / "loop" / "step.py").read_text())
    [step] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "step"]
    assert (step.end_lineno or 0) - step.lineno + 1 <= 40


def test_only_commands_and_reports_print():
    talkers = {"counting.py", "command_line.py"}  # print_trainable_parameters, by its name; the help of every command
    for path in FILES:
        if is_command(path) or path.name in talkers or "tutorials" in path.parts:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path


def test_shapes_are_checked_in_every_module_that_states_them():
    """And in no other: the check costs a call of each function as much as a small tensor operation."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    checked = re.search(r"--jaxtyping-packages=(\S+)", options)[1].split(",")
    packages = ("kernels", "loralib", "adapters", "training", "multitask", "distill")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    stating = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in files
        if "from jaxtyping" in path.read_text()
    ]
    assert sorted(checked) == sorted([*stating, "checker.check"])
