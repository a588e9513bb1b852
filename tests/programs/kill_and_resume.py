"""Kill runs of all three trainers with SIGKILL at random moments: `python tests/programs/kill_and_resume.py --kills 20`.

Each run must end with the very bits of the run that nobody killed, and with its rows apart from times; and the run folder must
be readable after every kill. Exit status 1 otherwise. The test suite uses the same run with three chosen moments.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
MOMENTS = ("before the first checkpoint", "during a write", "after a checkpoint")
# everything that a checkpoint must carry: dropout (random states), best weights, a decaying rate, an epoch that does not divide
RUN = {
    "method": "lora",
    "lora_dropout": 0.1,
    "steps": 60,
    "train_rows": 50,
    "accumulation": 2,
    "batch_size": 4,
    "save_every": 15,
    "eval_every": 20,
    "eval_rows": 40,
    "keep": "best",
    "samples": 0,
}


def train(out: Path):
    """The run, in this process."""
    from training import train_model

    return train_model("sentiment", out=str(out), **RUN)


def start(out: Path, moment: str = "", trainer: str = "training") -> subprocess.Popen:
    """The run in a process of its own; with a `moment` it kills itself there."""
    command = [sys.executable, __file__, "--child", str(out), "--at", moment, "--trainer", trainer]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def killed_child(out: Path, moment: str) -> None:
    """For a forked process: the run, which kills itself at the moment."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    die_at(moment)
    train(out)


def die_at(moment: str) -> None:
    """Arrange for this process to be killed at that moment."""
    from training.loop import checkpoint
    from training.runs.run_folder import RunFolder

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    keep, write, saves = RunFolder.keep, checkpoint.write_atomic, []

    def killing_keep(folder, row):
        keep(folder, row)
        if row["step"] == {MOMENTS[0]: 7, MOMENTS[2]: 38}.get(moment):
            die()

    def killing_write(path, content):
        saves.append(path)
        if moment == MOMENTS[1] and len(saves) == 2:
            Path(path.parent, f".{path.name}.half").write_bytes(content[: len(content) // 2])
            die()
        write(path, content)

    RunFolder.keep, checkpoint.write_atomic = killing_keep, killing_write


def trace(out: Path, trainer: str = "training") -> tuple:
    """What must be equal: the weights' bytes, and the rows without their times."""
    if trainer != "training":
        return trainers().trace(out)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    return weights, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def check_readable(out: Path, trainer: str = "training") -> str:
    """Raises when anything in the folder of a killed run cannot be read; says how far the run was."""
    if trainer != "training":
        return trainers().readable(out)
    from training.loop.checkpoint import FILE, saved_step
    from training.runs.report import find_runs, report_page
    from training.runs.run_folder import CONFIG, ROWS

    if not (out / CONFIG).exists() or not (out / ROWS).exists():
        return "before its folder was set up"
    runs = find_runs([out])
    report_page(runs)
    saved = f"of step {saved_step(out / FILE)}" if (out / FILE).exists() else "none"
    return f"at step {runs[0].rows[-1]['step'] if runs[0].rows else 0}, checkpoint {saved}"


def wait_for(path: Path, process: subprocess.Popen, since: float = 0.0) -> float:
    """Until the file is there (written after `since`) or the process has ended; returns the time."""
    while process.poll() is None and not (path.exists() and path.stat().st_mtime > since):
        time.sleep(0.005)
    return time.time()


def trainers():
    """Short runs of the others: 90 steps, so that a kill has something to meet."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import trainers

    return trainers


def main(kills: int, seed: int, trainer: str) -> int:
    rng, done, wrong, runs = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        if trainer == "distill":
            trainers().prepare(Path(folder))
        out = Path(folder) / "whole"
        process = start(out, trainer=trainer)
        begun = wait_for(out / "config.json", process)
        whole = wait_for(out / "result.json", process) - begun
        if process.wait():
            raise SystemExit("the run without a kill failed")
        expected = trace(out, trainer)
        print(f"{trainer}: the run that nobody kills takes {whole:.1f} s from its first file to its last", flush=True)
        while done < kills:
            runs += 1
            out = Path(folder) / f"run{runs}"
            for _ in range(rng.randint(1, 3)):
                begun = time.time()
                process = start(out, trainer=trainer)
                wait_for(out / "config.json", process, begun)  # the imports take longer than the run
                time.sleep(rng.uniform(0, whole))
                process.kill()
                if process.wait() == -signal.SIGKILL and not (out / "result.json").exists():
                    done += 1
                    print(f"kill {done}, run {runs}: {check_readable(out, trainer)}", flush=True)
            process = start(out, trainer=trainer)
            if process.wait():
                print(process.stderr.read().decode())  # pyright: ignore[reportOptionalMemberAccess]
            equal = process.returncode == 0 and trace(out, trainer) == expected
            wrong += not equal
            print(f"run {runs}: {'same bits, same rows' if equal else 'DIFFERENT'}", flush=True)
    print(f"{trainer}: {done} kills in {runs} runs: {runs - wrong} ended with the very bits of the whole run, {wrong} did not")
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trainer", choices=("training", "multitask", "distill"), help="only this one")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--at", default="", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child and wanted.trainer != "training":
        trainers().run(wanted.trainer, wanted.child, steps=90, save_every=15, eval_every=20)
    elif wanted.child:
        die_at(wanted.at)
        train(wanted.child)
    else:
        names = [wanted.trainer] if wanted.trainer else ["training", "multitask", "distill"]
        sys.exit(max([main(wanted.kills, wanted.seed, name) for name in names]))
