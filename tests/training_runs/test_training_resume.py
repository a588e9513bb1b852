"""A run that was killed, stopped or finished: the same bits as if nothing had happened, and nothing lost."""

import os
import signal
import threading
import time
from pathlib import Path

import kill_and_resume
import pytest
import torch
from command import SERVER, Started, run_code, wait_for_rows

from training import train_model
from training.loop import loop
from training.loop.checkpoint import CheckpointError, TrainableWeights, load_checkpoint, read_checkpoint, save_checkpoint
from training.loop.interrupt import stop_requests
from training.loop.processes import make_accelerator
from training.loop.progress import Progress
from training.loop.randomness import random_states, seeded, set_random_states
from training.runs.run_folder import RunError, RunFolder, read_rows

ROOT = Path(__file__).parents[2]
SHORT = {"steps": 6, "eval_every": 3, "save_every": 2, "eval_rows": 20, "train_rows": 30, "trackers": ""}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The trace of the run that nobody kills."""
    out = tmp_path_factory.mktemp("whole")
    kill_and_resume.train(out)
    return kill_and_resume.trace(out)


@pytest.mark.parametrize("moment", kill_and_resume.MOMENTS)
@pytest.mark.fault
def test_a_killed_run_ends_with_the_bits_of_the_whole_one(moment, whole, tmp_path):
    process = SERVER.Process(target=kill_and_resume.killed_child, args=(tmp_path, moment))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert checkpoint.exists() == (moment != kill_and_resume.MOMENTS[0])
    assert kill_and_resume.check_readable(tmp_path).startswith("at step")
    kill_and_resume.train(tmp_path)
    weights, rows = kill_and_resume.trace(tmp_path)
    assert rows == whole[1] and weights == whole[0]
    assert not checkpoint.exists(), "a finished run needs no checkpoint"


@pytest.mark.fault
def test_that_run_would_notice_what_a_checkpoint_must_carry(whole, tmp_path, monkeypatch):
    """Leave the random states out of a resume, and the rows differ: the test above can fail."""
    die_after(monkeypatch, 38)
    with pytest.raises(KeyError):
        kill_and_resume.train(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("training.loop.checkpoint.set_random_states", lambda states: None)
    kill_and_resume.train(tmp_path)
    assert kill_and_resume.trace(tmp_path)[1][31:] != whole[1][31:]


def die_after(monkeypatch, step):
    keep = RunFolder.keep

    def failing(folder, row):
        keep(folder, row)
        if row["step"] == step:
            raise KeyError("the machine goes down")

    monkeypatch.setattr(RunFolder, "keep", failing)


@pytest.mark.fault
def test_rows_behind_the_checkpoint_come_again_once(tmp_path, monkeypatch):
    die_after(monkeypatch, 5)
    with pytest.raises(KeyError):
        train_model("topic", out=str(tmp_path), **SHORT)
    assert [r["step"] for r in read_rows(tmp_path / "rows.jsonl")] == [0, 1, 2, 3, 4, 5]
    (tmp_path / "rows.jsonl").open("a").write('{"step": 6, "lo')  # half a line, as a crashed machine may leave
    monkeypatch.undo()
    result = train_model("topic", out=str(tmp_path), **SHORT)
    assert [r["step"] for r in result.rows] == [r["step"] for r in read_rows(tmp_path / "rows.jsonl")] == list(range(7))


@pytest.mark.fault
def test_ctrl_c_saves_says_so_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "run"
    words = [
        "--task",
        "topic",
        "--steps",
        "4000",
        "--eval-rows",
        "20",
        "--save-every",
        "100000",
        "--trackers",
        "",
        "--out",
        str(out),
    ]
    with Started(1, "-m", "training", *words) as started:
        wait_for_rows(out, 6)
        started.send(signal.SIGINT)
        done = started.wait(60)
    assert done.returncode == 130 and "all saved: the same command goes on" in done.stderr and "Traceback" not in done.stderr
    step = read_checkpoint(out / "checkpoint.safetensors")["parts"]["progress"]["step"]
    assert read_rows(out / "rows.jsonl")[-1]["step"] == step > 0
    with Started(1, "-m", "training", *words) as started:
        wait_for_rows(out, step + 5)
        started.send(signal.SIGTERM)  # what a cluster sends
        done = started.wait(60)
    assert f"going on after step {step}" in done.stdout + done.stderr and done.returncode == 130


@pytest.mark.fault
def test_two_processes_in_one_folder_the_second_is_refused(tmp_path):
    accelerator = make_accelerator()
    first = RunFolder(tmp_path, {"a": 1}, "", False, accelerator)
    code = (
        "from pathlib import Path; from training.runs.run_folder import RunFolder; "
        "from training.loop.processes import make_accelerator; "
        f"RunFolder(Path({str(tmp_path)!r}), {{'a': 1}}, '', False, make_accelerator())"
    )
    done = run_code(code)
    assert done.returncode != 0 and "in use by another process" in done.stderr
    first.close()
    RunFolder(tmp_path, {"a": 1}, "", False, accelerator).close()


@pytest.mark.fault
def test_other_settings_are_refused_and_restart_starts_over(tmp_path):
    train_model("topic", out=str(tmp_path), **SHORT)
    with pytest.raises(RunError, match=r"steps was 6 and is 7.*--restart"):
        train_model("topic", out=str(tmp_path), **SHORT | {"steps": 7})
    (tmp_path / "notes.txt").write_text("mine")
    again = train_model("topic", out=str(tmp_path), **SHORT | {"steps": 7}, restart=True)
    assert again.steps == 7 and [r["step"] for r in again.rows] == list(range(8))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("method", ["lora", "full", "head"])
@pytest.mark.parametrize("task", ["nli", "data2text"])
def test_a_finished_run_is_read_not_trained(method, task, tmp_path, monkeypatch):
    settings = SHORT | {"method": method, "samples": 1, "max_new_tokens": 5}
    first = train_model(task, out=str(tmp_path), **settings)
    monkeypatch.setattr(loop, "train", None)
    again = train_model(task, out=str(tmp_path), **settings)
    skip = ("rows", "model", "tokenizer")
    assert {k: v for k, v in vars(again).items() if k not in skip} == {k: v for k, v in vars(first).items() if k not in skip}
    text = first.tokenizer("anna was in oslo .", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again.model.eval()(**text).logits, first.model.eval()(**text).logits)


def test_early_stop_and_best_weights(tmp_path):
    """A learning rate that destroys the model: the best evaluation is the first, and its weights are the ones kept."""
    settings = {
        "steps": 60,
        "eval_every": 5,
        "patience": 2,
        "eval_rows": 100,
        "learning_rate": 0.5,
        "schedule": "constant_with_warmup",
    }
    result = train_model("sentiment", out=str(tmp_path), keep="best", warmup_share=0.1, trackers="", **settings)
    scores = {r["step"]: r["accuracy"] for r in result.rows[1:] if "accuracy" in r}
    assert result.best_step == max(scores, key=lambda s: (scores[s], -s)) and result.metric == scores[result.best_step]
    assert result.steps == result.best_step + 10 < 60
    again = train_model("sentiment", out=str(tmp_path), keep="best", warmup_share=0.1, trackers="", **settings)
    text = again.tokenizer("the day was lovely .", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again.model.eval()(**text).logits, result.model(**text).logits)


def test_progress_judges_by_direction():
    weights = TrainableWeights(torch.nn.Linear(1, 1))
    for higher, scores, best, stops in ((True, [1.0, 2.0, 2.0, 1.0], 2.0, True), (False, [3.0, 1.0, 2.0, 0.5], 0.5, False)):
        progress = Progress(higher, True)
        for progress.step, score in enumerate(scores, 1):
            progress.judge(score, 2, weights)
        assert (progress.best, progress.stopped) == (best, stops)
    with pytest.raises(FloatingPointError, match="score of the evaluation is nan"):
        Progress(True, True).judge(float("nan"), None, weights)
    with pytest.raises(ValueError, match="no score"):
        Progress(True, True).judge(None, None, weights)


# ---------------------------------------------------------------- checkpoints


class Part:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "a": (1, 2.5, None, True, "x"),
        3: [torch.arange(3), {"t": torch.tensor(0.1, dtype=torch.float64)}],
        "inf": float("inf"),
    }
    path, accelerator = tmp_path / "c.safetensors", make_accelerator()
    save_checkpoint(path, {"part": Part(state)}, accelerator)
    back = Part(None)
    load_checkpoint(path, {"part": back}, accelerator)
    assert back.state["a"] == state["a"] and back.state["inf"] == state["inf"] and isinstance(back.state["a"], tuple)
    assert torch.equal(back.state[3][0], state[3][0]) and torch.equal(back.state[3][1]["t"], state[3][1]["t"])
    with pytest.raises(TypeError, match="set cannot be part of a checkpoint"):
        save_checkpoint(path, {"part": Part({"x": {1}})}, accelerator)
    with pytest.raises(CheckpointError, match="this run needs"):
        load_checkpoint(path, {"other": back}, accelerator)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
@pytest.mark.fault
def test_damaged_checkpoints_say_what_to_do(damage, tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"part": Part({"x": torch.zeros(100)})}, make_accelerator())
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[12] ^= 0xFF
    path.write_bytes({"cut": content[:-50], "flip": content, "empty": b"", "text": b"hello, this is text"}[damage])
    with pytest.raises(CheckpointError, match="--restart"):
        read_checkpoint(path)


@pytest.mark.fault
def test_weights_of_another_model_are_refused_and_nothing_is_changed():
    ours, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)
    before = ours.weight.detach().clone()
    with pytest.raises(ValueError, match="expected"):
        TrainableWeights(ours).load_state_dict(TrainableWeights(other).state_dict())
    with pytest.raises(ValueError, match="not in both"):
        TrainableWeights(ours).load_state_dict({})
    assert torch.equal(ours.weight, before)


def test_random_states_are_borrowed_and_given_back():
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))

    with seeded(3):
        first = draw()
        states = random_states()
        second = draw()
        set_random_states(states)
        assert draw() == second != first
    before = random_states()
    with seeded(3):
        assert draw() == first
    again = draw()
    set_random_states(before)
    assert draw() == again


def test_one_signal_asks_and_the_second_acts():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job that was started in the background ignores it
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = []
    thread = threading.Thread(target=lambda: result.append(stop_requests().__enter__().wanted))
    thread.start()
    thread.join()
    assert result == [False]
