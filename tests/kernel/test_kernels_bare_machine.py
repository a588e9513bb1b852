"""A rented GPU machine: no tyro, datasets, bitsandbytes, beartype, pytest-timeout, and nothing can be installed there.

`bare_machine/sitecustomize.py` hides them. One rehearsal of `session --tiny` runs every step, also the tests of the kernels.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_here import ON_GPU, needs_triton

ROOT = Path(__file__).parents[2]


def bare(*words: object, more: str = "") -> subprocess.CompletedProcess[str]:
    """A fresh Python without the hidden packages, and without those in `more`."""
    here = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "bare_machine"), "NOT_INSTALLED": more}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=here, capture_output=True, text=True, timeout=280)


def test_the_packages_are_hidden_in_child_processes_too():
    """Otherwise the other tests here would pass on any machine."""
    asks = "from importlib.util import find_spec; print(find_spec('tyro'), find_spec('torch') is None)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {asks!r}])"
    assert bare("-c", child).stdout.split() == ["None", "False"]
    assert "PackageNotFoundError" in bare("-c", "from importlib.metadata import version; version('pytest-timeout')").stderr
    assert "ModuleNotFoundError: No module named 'tyro'" in bare("-c", "import tyro").stderr


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal")
    return bare("-m", "kernels.bench", "session", "--tiny", "--rounds", 1, "--out", out), out


@pytest.mark.long
@pytest.mark.skipif(ON_GPU, reason="on a GPU the session itself runs")
class TestRehearsal:
    pytestmark = needs_triton()

    def test_it_runs_to_its_end_with_the_tests_of_the_kernels(self, rehearsal):
        done, out = rehearsal
        log = (out / "tests-0.log").read_text()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + log[-3000:]
        assert "5 passed in" in (out / "report.md").read_text()
        assert "beartype is not installed: shapes and types are not checked" in log

    def test_every_case_has_its_rows_and_every_form_was_right(self, rehearsal):
        with (rehearsal[1] / "rows.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["operation"] for row in rows} == {"lora", "nf4", "nf4_decode", "nf4_lora", "grouped"}
        both = {row["contender"]: row for row in rows if (row["operation"], row["mode"], row["M"]) == ("lora", "both", "2")}
        assert list(both) == ["bare", "triton", "addmm", "augmented", "peft", "lorafusion form, ours", "unsloth form, ours"]
        assert all(float(row["error"]) < 1e-6 for name, row in both.items() if name != "bare")
        dropout = {row["contender"]: row["error"] for row in rows if row["dropout"] == "0.1"}
        assert set(dropout) == {"bare", "triton", "addmm", "peft", "lorafusion form, ours"}
        assert float(dropout["lorafusion form, ours"]) < 1e-6

    def test_the_report_names_what_was_not_compared_and_has_its_plots(self, rehearsal):
        text = (rehearsal[1] / "report.md").read_text()
        assert "bitsandbytes: not installed (pip install bitsandbytes)" in text and "liger_kernel: it has no LoRA" in text
        assert "peft: " not in text and "Failed" not in text and "Left out" not in text
        assert "| 8 eight adapters" in text and "not measured" in text
        assert all((rehearsal[1] / f"{name}.png").stat().st_size > 5000 for name in ("time", "peak", "ratio"))

    def test_it_remembers_the_ratios_beside_its_report(self, rehearsal):
        """Those of the interpreter mean nothing: the table in kernels/ is left alone."""
        known = json.loads((rehearsal[1] / "measured.json").read_text())
        ((device, tables),) = known.items()
        names = {"lora forward", "lora both", "nf4 forward", "nf4_lora forward", "nf4_lora both", "grouped forward"}
        assert device.endswith("CPU") and set(tables["float32"]) == names
        assert device not in json.loads((ROOT / "kernels" / "measured.json").read_text())


def test_all_on_a_cpu_names_every_missing_competitor(tmp_path):
    """Without peft too: what remains is timed, and a dash stands where a competitor is missing."""
    words = ("-m", "kernels.bench", "all", "--tiny", "--device", "cpu", "--threads", 1, "--rounds", 1, "--out", tmp_path)
    done = bare(*words, more="peft")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("`python -m kernels.bench all --tiny --device cpu --threads 1 --rounds 1 --out ")
    assert all(f"not compared: {name}: not installed" in page for name in ("peft", "bitsandbytes"))
    tables = [line for line in page.splitlines() if line.startswith(("| 16×24→40", "| quantize", "| dequantize", "| 3 × 2"))]
    assert len(tables) == 8 and all("–" in line and line in done.stdout for line in tables)
