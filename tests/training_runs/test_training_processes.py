"""Two gloo processes against one: the same global batches give the same losses, weights and results."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import two_processes
from command import Started, run_ranks, wait_for_rows

from training.loop.checkpoint import saved_step
from training.runs.run_folder import read_result, read_rows

ROOT = Path(__file__).parents[2]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def accelerate(count, *words):
    """The same as people start it: `accelerate launch`. Without a GPU `--multi_gpu` means only: several processes, no MPI."""
    options = ("--multi_gpu", "--num_processes", count, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no")
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--main_process_port", 0, *words]
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)


def test_two_processes_equal_one_over_50_steps(tmp_path):
    """33 rows in batches of 8: the last row of an epoch is one row for two processes."""
    done = run_ranks(2, "tests/programs/two_processes.py", "37,33", 8, 50, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for rows in (37, 33):
        two_processes.main(rows, 8, 50, tmp_path / f"1-{rows}.json")
        one, two = (json.loads((tmp_path / f"{count}-{rows}.json").read_text()) for count in (1, 2))
        assert two["ranks_equal"] and one["rows"][-1] == {"raised": 1} and two["rows"][-1] == {"raised": 2}
        a, b = one["rows"][:-1], two["rows"][:-1]
        assert len(a) == len(b) == 50 and [r["tokens"] for r in a] == [r["tokens"] for r in b]
        assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], abs=1e-9), rows
        assert [r["grad_norm"] for r in a] == pytest.approx([r["grad_norm"] for r in b], abs=1e-9), rows
        assert one["weights"] == pytest.approx(two["weights"], abs=1e-9), rows


@pytest.mark.parametrize("start", [run_ranks, pytest.param(accelerate, marks=pytest.mark.long)], ids=["forked", "accelerate"])
def test_the_command_under_two_processes_gives_the_losses_of_one(start, tmp_path):
    """In float32: 50 steps on texts of unequal lengths, with an epoch that ends in a part of a batch, no dropout."""
    words = ["--task", "data2text", "--train-rows", "103", "--steps", "50", "--eval-every", "25", "--eval-rows", "31"]
    for count in (1, 2):
        out = ("--batch-size", 16 // count, "--score-texts", 7, "--max-new-tokens", 20, "--out", tmp_path / str(count))
        done = (start if count == 2 else run_ranks)(count, "-m", "training", *words, *out)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("| data2text | lora |") == 1, "only the main process speaks"
    a, b = (read_rows(tmp_path / str(count) / "rows.jsonl") for count in (1, 2))
    assert len(a) == len(b) == 51 and [r.get("tokens") for r in a] == [r.get("tokens") for r in b]
    for name in ("loss", "eval_loss", "bleu"):
        assert [r[name] for r in a if name in r] == pytest.approx([r[name] for r in b if name in r], abs=1e-5)
    results = [read_result(tmp_path / str(count)) for count in (1, 2)]
    assert results[0]["samples"] == results[1]["samples"] and len(results[0]["samples"]) == 3
    assert results[0]["texts"] == pytest.approx(results[1]["texts"], abs=1e-9)


@pytest.mark.parametrize("torchrun", [False, pytest.param(True, marks=pytest.mark.long)], ids=["forked", "torchrun"])
@pytest.mark.fault
def test_two_processes_stop_together_and_go_on_bit_for_bit(torchrun, tmp_path):
    """SIGTERM reaches the ranks at different steps; they agree on one, and each gets its own dropout back."""
    words = ["-m", "training", "--task", "topic", "--steps", "100", "--lora-dropout", "0.2", "--train-rows", "40"]
    words += ["--batch-size", "4", "--eval-rows", "20", "--save-every", "1000", "--trackers", "", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_ranks(2, *words, whole).returncode == 0
    text = (stopped_torchrun if torchrun else stopped_ranks)(parts, *words, parts)
    step = saved_step(parts / "checkpoint.safetensors")
    assert 20 <= step < 100 and "the same command goes on" in text
    assert run_ranks(2, *words, parts).returncode == 0
    a, b = ([{k: v for k, v in r.items() if k != "seconds"} for r in read_rows(f / "rows.jsonl")] for f in (whole, parts))
    assert a == b


def stopped_ranks(out, *words):
    with Started(2, *words) as started:
        wait_for_rows(out, 21)
        started.send(signal.SIGTERM)
        return started.wait(100).stderr


def stopped_torchrun(out, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, 21)
    process.terminate()
    return process.communicate(timeout=100)[1]


def test_lora_layers_in_fsdp_learn_what_the_whole_model_learns(tmp_path):
    """Not our loop, which refuses FSDP: the layers alone, in float64."""
    done = run_ranks(2, "tests/programs/fully_sharded.py", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["trained"] == 2 * 7 * 3 and result["moved"] > 1e-5
    assert result["worst"] < 1e-12
