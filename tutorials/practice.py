"""Exercises: your file, our solution, and one check for both.

`exercises/NN_name.py` holds functions to write, `solutions/NN_name.py` the same functions written, and
`exercises/check_NN.py` one function `check_<name>(module)` for each of them.
"""

import importlib.util
import inspect
import traceback
from pathlib import Path
from types import ModuleType

from tutorials.lessons import HERE, find


def command(number: str, solutions: bool = False) -> int:
    """Check each exercise of a lesson and say how it went; 0 when all pass."""
    number = find(number).number
    known = checks(number)  # first: a check of kernels turns Triton's interpreter on
    module = load(exercise_file(number, solutions))
    failed = 0
    for name, check in known.items():
        verdict = try_one(module, check)
        failed += verdict != "right"
        print(f"{name}: {verdict}")
    return int(failed > 0)


def try_one(module: ModuleType, check) -> str:
    """right, not written yet, or what is wrong: a failed check, or where the code stopped."""
    try:
        check(module)
    except NotImplementedError:
        return "not written yet"
    except AssertionError as error:
        return f"not right: {error}"
    except Exception as error:
        if isinstance(error.__cause__, NotImplementedError):  # as Triton's interpreter hands it on
            return "not written yet"
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"stopped: {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
    return "right"


def checks(number: str) -> dict:
    """{exercise: its check}, in the file's order."""
    module = load(HERE / "exercises" / f"check_{number}.py")
    return {n.removeprefix("check_"): f for n, f in vars(module).items() if n.startswith("check_") and inspect.isfunction(f)}


def exercise_file(number: str, solutions: bool = False) -> Path:
    """The file of a lesson's exercises, or of its solutions. ValueError when there is not exactly one."""
    folder = HERE / ("solutions" if solutions else "exercises")
    found = sorted(folder.glob(f"{number}_*.py"))
    if len(found) != 1:
        raise ValueError(f"lesson {number}: expected one file {folder.name}/{number}_*.py, found {[p.name for p in found]}")
    return found[0]


def load(path: Path) -> ModuleType:
    """Import a file by its path (its name starts with a digit, so `import` cannot)."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
