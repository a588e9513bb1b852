"""The GPU benchmark, run in the interpreter on tiny shapes; the K-augmented yardstick; the arithmetic of floors."""

import csv
import json
import math

import pytest
import torch
from command import run_module
from triton_here import DEVICE, needs_triton

from kernels import lora_augmented
from kernels.bench import dora, gpu_report, gpu_sweep
from kernels.bench.contest import Contest, GpuCase, hold, worst
from kernels.lora_matmul import lora_matmul_reference
from kernels.roofline import Ceilings

OTHER = {"bfloat16": {"lora both": [[1, 2, 3, 0.5]]}}


@pytest.fixture(scope="module")
def small_sweep():
    return gpu_sweep.sweep(["lora", "nf4", "grouped"], DEVICE, torch.float32, 2, full=False)


class TestSweep:
    pytestmark = needs_triton()

    def test_every_operation_is_measured_and_reported(self, small_sweep, tmp_path):
        assert not small_sweep.failed, small_sweep.failed
        assert {line.case.operation for line in small_sweep.lines} == {"lora", "nf4", "nf4_decode", "nf4_lora", "grouped"}
        text = gpu_report.report(small_sweep, tmp_path)
        assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in gpu_report.PLOTS)
        assert "peft" in text and "| 8 eight adapters" in text and "not measured" in text
        gpu_sweep.write_rows(small_sweep, torch.float32, tmp_path / "rows.csv")
        with (tmp_path / "rows.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 1 + sum(len(line.times) for line in small_sweep.lines)
        assert {len(row) for row in rows} == {len(gpu_sweep.COLUMNS)}

    def test_the_dispatchers_table_keeps_what_it_knew(self, small_sweep, tmp_path):
        path = tmp_path / "measured.json"
        path.write_text(json.dumps({"Other GPU": OTHER}))
        gpu_sweep.write_measured(small_sweep, torch.float32, path)
        known = json.loads(path.read_text())
        assert known["Other GPU"] == OTHER
        mine = known[small_sweep.device]["float32"]
        assert set(mine) == {"lora forward", "lora both", "nf4 forward", "nf4_lora forward", "nf4_lora both", "grouped forward"}
        assert all(ratio > 0 for rows in mine.values() for *_, ratio in rows)

    def test_a_case_that_fails_is_a_line_of_the_report(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpu_sweep.gpu_lora, "SCALING", "not a number")
        sweep = gpu_sweep.sweep(["lora"], DEVICE, torch.float32, 1, full=False)
        assert not sweep.lines and len(sweep.failed) == 4
        assert "## Failed" in gpu_report.report(sweep, tmp_path)


def test_a_wrong_kernel_is_not_timed():
    case = GpuCase("lora", "forward", 2, 2, 2, 1)
    for errors in ({"a": 0.1, "b": 0.001}, {"a": float("nan"), "b": 0.001}, {"b": 0.001}, {"a": 0.1}):
        contest = Contest(case, {"a": [], "b": []}, errors, bare="a", baseline="b", ours="a")
        with pytest.raises(RuntimeError, match="nothing was timed"):
            hold(contest, Ceilings(1, 1), 1, "cpu")
    assert math.isnan(worst([0.1, float("nan"), 0.2])) and worst([0.1, 0.3]) == 0.3


def test_floors_of_the_kernel_notes():
    """Section 2.2 of the notes: 8192 tokens, 4096 → 4096, r = 16, at 790 TFLOP/s and 4.3 TB/s; and 2.5: a packed weight."""
    notes = Ceilings(4.3e12, 790e12)
    bare = GpuCase("lora", "forward", 8192, 4096, 4096)
    assert 1e6 * notes.floor(bare.flops, bare.moved()) == pytest.approx(347.95, rel=1e-3)
    packed = GpuCase("nf4", "forward", 1, 14336, 4096, weight_bits=4.127)
    assert 1e6 * notes.floor(packed.flops, packed.moved()) == pytest.approx(7.04, rel=2e-2)


@pytest.mark.parametrize("r", [1, 8])
def test_the_augmented_form_is_lora(r):
    """One wider product gives the layer's output and all its gradients, to the rounding of float64."""
    g = torch.Generator().manual_seed(0)
    x, W, A, B, dy = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((20, 12), (9, 12), (r, 12), (9, r), (20, 9)))
    leaves = [t.clone().requires_grad_() for t in (x, A, B)]
    wanted = lora_matmul_reference(leaves[0], W, None, *leaves[1:], 0.5)
    wide_x, wide_W = lora_augmented.room_behind(x, r), lora_augmented.augment_weight(W, B)
    torch.testing.assert_close(lora_augmented.augmented_forward(wide_x, wide_W, A, 0.5), wanted.detach())
    gradients = torch.autograd.grad(wanted, leaves, dy)
    for found, exact in zip(lora_augmented.augmented_backward(dy, wide_x, wide_W, A, 0.5), gradients, strict=True):
        torch.testing.assert_close(found, exact)


def test_builds_refuses_what_it_would_not_use():
    done = run_module("kernels.bench", "builds", "--device", "cpu", "--rounds", 3)
    assert done.returncode != 0 and "not --device, --rounds" in done.stderr


def test_the_command_on_a_cpu_writes_its_table_beside_its_command(tmp_path):
    done = run_module("kernels.bench", "dora", "--device", "cpu", "--threads", 1, "--rounds", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("`python -m kernels.bench dora --device cpu --threads 1 --rounds 1")
    table = [line for line in page.splitlines() if line.startswith("| 2048×")]
    assert len(table) == len(dora.SHAPES) and all(line in done.stdout for line in table)
