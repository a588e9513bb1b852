"""The parts of the benchmark: order, time budget and records of a sweep, its worker, its command line; the arithmetic of floors.

The whole of it runs in test_kernels_bare_machine.py, on tiny shapes in the interpreter.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kernels.bench import machine, options
from kernels.bench.gpu import kernel_tests, records, report
from kernels.bench.gpu import summary as group_summary
from kernels.bench.gpu.contest import Contest, GpuCase, Line, hold, worst
from kernels.bench.gpu.sweep import Sweep, plan, sweep
from kernels.bench.gpu.targets import TARGETS, importance
from kernels.bench.gpu.worker import Worker, WorkerFailed
from kernels.bench.timing import summary
from kernels.formulas import lora_augmented
from kernels.formulas.lora_matmul import lora_matmul_reference
from kernels.roofline import Ceilings

ROOT = Path(__file__).parents[2]
CASE = GpuCase("lora", "forward", 2, 3, 4, 16)


@pytest.fixture(autouse=True)
def no_competitor_is_imported(monkeypatch):
    """A report asks which are installed, by importing them; that takes seconds."""
    monkeypatch.setattr(machine, "not_compared", list)


def line(case: GpuCase = CASE, ours: float = 1.0) -> Line:
    times = {"bare": summary([1.0, 1.0]), "addmm": summary([2.0, 2.0]), "triton": summary([ours, ours])}
    return Line(case, times, {"triton": 1e-7}, 0.5, "bare", "addmm", "triton")


class TestSweep:
    def test_every_target_has_a_case_and_those_come_first(self):
        cases = [case for _, case in plan(["lora", "nf4", "grouped"], full=True)]
        wanted = [any(target.wanted(case) for target in TARGETS) for case in cases]
        assert wanted == sorted(wanted, reverse=True) and 10 < sum(wanted) < 25
        assert all(any(target.wanted(case) for case in cases) for target in TARGETS)
        assert importance(cases[-1]) == 2

    def test_a_case_that_fails_costs_no_other_and_is_named(self, tmp_path):
        result, visited = Sweep("some GPU", Ceilings(1, 1)), []

        def measure(name, case):
            if case.r == 8:
                raise ValueError("too small\nand more")
            return line(case)

        sweep(result, [("lora", GpuCase("lora", "forward", 2, 3, 4, r)) for r in (16, 8, 64)], measure, visited.append)
        assert [one.case.r for one in result.lines] == [16, 64] and [one is None for one in visited] == [False, True, False]
        assert "## Failed\n\n- lora forward 2×4→3 r=8: ValueError: too small\n" in report.report(result, tmp_path, plots=False)

    def test_no_case_starts_when_its_time_is_over(self, tmp_path):
        result = Sweep("some GPU", Ceilings(1, 1))
        slow = lambda name, case: time.sleep(0.3) or line(case)  # noqa: E731
        sweep(result, [("lora", CASE)] * 4, slow, deadline=time.monotonic() + 0.5)
        assert len(result.lines) == 1 and len(result.left_out) == 3  # a second one would end after the deadline
        assert "## Left out: the time was over\n\n- lora forward 2×4→3 r=16" in report.report(result, tmp_path, plots=False)

    def test_nothing_measured_is_a_report_too(self, tmp_path):
        assert "Nothing was measured" in report.report(Sweep("some GPU"), tmp_path)

    def test_rows_are_on_disk_after_every_case(self, tmp_path):
        rows = records.RowFile(tmp_path / "rows.csv", "some GPU", torch.bfloat16)
        for count in (1, 2):
            rows.append(line())
            with (tmp_path / "rows.csv").open(newline="") as file:
                table = list(csv.reader(file))
            assert len(table) == 1 + 3 * count and {len(row) for row in table} == {len(records.COLUMNS)}

    def test_the_dispatchers_table_keeps_what_it_knew(self, tmp_path):
        """Other GPUs, other dtypes, and shapes that this run did not reach; the same shape is replaced."""
        path, other = tmp_path / "measured.json", {"bfloat16": {"lora both": [[1, 2, 3, 0.5]]}}
        path.write_text(json.dumps({"Other GPU": other, "some GPU": {"float32": {"lora forward": [[2, 3, 4, 9], [1, 3, 4, 9]]}}}))
        records.remember(line(), "some GPU", torch.float32, path)
        records.remember(line(GpuCase("lora", "both", 2, 3, 4, 16, dropout=0.1)), "some GPU", torch.float32, path)
        known = json.loads(path.read_text())
        assert known == {"Other GPU": other, "some GPU": {"float32": {"lora forward": [[1, 3, 4, 9], [2, 3, 4, 0.5]]}}}


class TestSummary:
    def folder(self, path, times):
        """rows.csv with {(tokens, contender): microseconds} of LoRA's forward; the limit is 2 microseconds."""
        path.mkdir()
        shape = {"operation": "lora", "mode": "forward", "N": 3, "K": 4, "r": 16, "dropout": 0.0, "adapters": 1, "floor_us": 2.0}
        with (path / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["M", "contender", "median_us", *shape])
            writer.writeheader()
            writer.writerows({"M": M, "contender": name, "median_us": us} | shape for (M, name), us in times.items())
        return path

    def test_a_group_has_its_range_and_the_newer_run_wins(self, tmp_path):
        new = self.folder(tmp_path / "new", {(1, "triton"): 4, (1, "addmm"): 8, (1, "bare"): 4})
        old_times = {(1, "triton"): 99, (1, "addmm"): 1, (16, "triton"): 5, (16, "addmm"): 4, (16, "peft"): 2, (64, "triton"): 8}
        old = self.folder(tmp_path / "old", old_times)
        lines = group_summary.write([new, old]).splitlines()
        assert "| LoRA forward, 1 and 16 tokens | 2 | 0.50 to 1.25 | 2.50 | 1.00 | 40% to 50% |" in lines
        assert "| LoRA forward, 64 and 512 tokens | 1 | – | – | – | 25% |" in lines
        assert len([text for text in lines if text.startswith("| ")]) == 3, "groups without a case are left out"
        assert (new / "summary.md").read_text() == "\n".join(lines) + "\n"

    def test_the_committed_summary_is_that_of_the_committed_rows(self, tmp_path):
        source = ROOT / "kernels/results/nvidia-h200"
        copies = [shutil.copytree(source, tmp_path / "new"), source / "first_run"]
        made, committed = group_summary.write(copies).splitlines(), (source / "summary.md").read_text().splitlines()
        assert made[1:] == committed[1:], "only the first line, with the command, may differ"


class TestWorker:
    def test_a_process_that_dies_or_hangs_is_one_failed_case(self):
        worker = Worker("cpu")
        try:
            with pytest.raises(WorkerFailed, match="ended with status 3"):
                worker.call(os._exit, 3, seconds=20)
            with pytest.raises(WorkerFailed, match="no answer in 0 s"):
                worker.call(time.sleep, 20, seconds=0.1)
            with pytest.raises(WorkerFailed, match="ValueError: "):
                worker.call(math.sqrt, -1.0, seconds=20)
            assert worker.call(math.sqrt, 4.0, seconds=20) == 2.0
        finally:
            worker.close()


def test_what_the_tests_said_is_read_from_their_logs(tmp_path):
    log = tmp_path / "tests-0.log"
    log.write_text("tests/a.py::b[x y] PASSED [ 50%]\ntests/a.py::c FAILED [100%]\nERROR tests/d.py - ImportError\ntests/a.py::")
    result = kernel_tests.read([log], ["tests-0.log is not complete"], 1.0)
    assert not result.ok and result.counts == {"PASSED": 1, "FAILED": 1}
    assert result.failing == ["tests/a.py::c failed", "tests/d.py: cannot be collected"]
    assert "**Not all tests passed.** 1 failed, 1 passed in 1 s." in result.lines() and len(result.lines()) == 4
    log.write_text("tests/a.py::b PASSED [100%]")
    assert kernel_tests.read([log], [], 1.0).ok and not kernel_tests.read([], [], 1.0).ok


def test_a_wrong_kernel_is_not_timed():
    case = GpuCase("lora", "forward", 2, 2, 2, 1)
    known = ({"a": 0.1, "b": 0.001}, {"a": math.nan, "b": 0.001}, {"b": 0.001}, {"a": 0.1}, {"a": math.nan, "b": math.nan})
    for errors in known:
        contest = Contest(case, {"a": [], "b": []}, errors, bare="a", baseline="b", ours="a")
        with pytest.raises(RuntimeError, match="nothing was timed"):
            hold(contest, Ceilings(1, 1), 1, "cpu")
    assert math.isnan(worst([0.1, float("nan"), 0.2])) and worst([0.1, 0.3]) == 0.3


@pytest.mark.parametrize("error", [0.1, math.nan])
def test_a_wrong_competitor_is_named_and_not_timed(error, tmp_path):
    runs, errors = {name: [lambda: None] for name in "abc"}, {"a": 0.001, "b": 0.001, "c": error}
    result = hold(Contest(CASE, runs, errors, bare="b", baseline="b", ours="a"), Ceilings(1, 1), 1, "cpu")
    assert set(result.times) == {"a", "b"} and set(result.refused) == {"c"}
    text = report.report(Sweep("some GPU", Ceilings(1, 1), [result]), tmp_path, plots=False)
    assert f"lora forward 2×4→3 r=16: c: error {error:.1e}, not timed" in text


def test_floors_of_the_kernel_notes():
    """Section 2.2 of the notes: 8192 tokens, 4096 → 4096, r = 16, at 790 TFLOP/s and 4.3 TB/s; and 2.5: a packed weight."""
    notes = Ceilings(4.3e12, 790e12)
    bare = GpuCase("lora", "forward", 8192, 4096, 4096)
    assert 1e6 * notes.floor(bare.flops, bare.moved()) == pytest.approx(347.95, rel=1e-3)
    packed = GpuCase("nf4", "forward", 1, 14336, 4096, weight_bits=4.127)
    assert 1e6 * notes.floor(packed.flops, packed.moved()) == pytest.approx(7.04, rel=2e-2)


@pytest.mark.parametrize("r", [1, 8])
def test_the_augmented_form_is_lora(r):
    """One wider matmul gives the layer's output and all its gradients, to the rounding of float64."""
    g = torch.Generator().manual_seed(0)
    x, W, A, B, dy = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((20, 12), (9, 12), (r, 12), (9, r), (20, 9)))
    leaves = [t.clone().requires_grad_() for t in (x, A, B)]
    wanted = lora_matmul_reference(leaves[0], W, None, *leaves[1:], 0.5)
    wide_x, wide_W = lora_augmented.room_behind(x, r), lora_augmented.augment_weight(W, B)
    torch.testing.assert_close(lora_augmented.augmented_forward(wide_x, wide_W, A, 0.5), wanted.detach())
    gradients = torch.autograd.grad(wanted, leaves, dy)
    for result, exact in zip(lora_augmented.augmented_backward(dy, wide_x, wide_W, A, 0.5), gradients, strict=True):
        torch.testing.assert_close(result, exact)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("builds --device cpu --rounds 3", "builds does not use --device cpu --rounds 3; expected builds [-h] [--out OUT]"),
        ("dora --remember", "dora does not use --remember"),
        ("session --threads 1", "session does not use --threads 1"),
        ("all --rounds 0", "argument --rounds: invalid positive int value: '0'"),
        ("session --minutes nan", "argument --minutes: invalid positive float value: 'nan'"),
        ("speed", "invalid choice: 'speed'"),
    ],
)
def test_a_wrong_command_line_is_refused(words, text, capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(words.split())
    assert stopped.value.code == 2 and text in capsys.readouterr().err


def test_the_command_line_is_read_without_torch():
    """`--help` answers at once. A module that is loaded too early would also decide too early whether Triton interprets."""
    code = """import runpy, sys
sys.argv = ["bench", "all", "--help"]
try:
    runpy.run_module("kernels.bench", run_name="__main__")
except SystemExit:
    print([name for name in ("torch", "triton", "numpy", "tyro", "rich") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert "--remember" in done.stdout
