"""The name traps: transformers looks for an import called `kernels`, and three PyPI packages share our folders' names."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_init_holds_a_docstring_and_nothing_else():
    body = ast.parse((ROOT / "kernels" / "__init__.py").read_text()).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


def test_importing_kernels_loads_nothing():
    heavy = in_a_fresh_process("import sys, kernels; print([m for m in ('torch', 'triton', 'transformers') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_transformers_works_beside_our_kernels():
    out = in_a_fresh_process("from transformers import LlamaConfig, LlamaForCausalLM; import kernels; print(kernels.__file__)")
    assert Path(out.strip().splitlines()[-1]) == ROOT / "kernels" / "__init__.py"


@pytest.mark.parametrize("name", ["kernels", "adapters", "loralib"])
def test_no_package_of_our_folders_names_is_installed(name):
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
        pytest.fail(f"{name} {version} is installed and shares the name of our folder: pip uninstall {name}")


def test_the_projects_version_stays_far_below_the_one_transformers_looks_for():
    line = next(x for x in (ROOT / "pyproject.toml").read_text().splitlines() if x.startswith("version"))
    major, minor, *_ = (int(x) for x in line.split('"')[1].split("."))
    assert (major, minor) < (0, 10)


def test_no_committed_file_names_a_registry_host_or_a_path_of_the_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    leak = re.compile("python" + r"hosted|pypi" + r"\.org|npm" + r"js\.|(?<![\w.])/(ro" + "ot|wo" + "rk|ho" + "me)/")
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ""} and path.is_file():
            assert not leak.search(path.read_text(errors="replace")), name
