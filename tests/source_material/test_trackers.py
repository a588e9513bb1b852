"""wandb and MLflow without a network, in an environment of their own that also sees the packages of this one."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKERS = ("wandb", "mlflow-skinny")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of the new environment. Skips where the package registry cannot be reached."""
    folder = tmp_path_factory.mktemp("trackers") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (own / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--prefix", folder, *TRACKERS]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"wandb and mlflow cannot be installed here: {done.stderr.splitlines()[-1]}")
    return python


def loss_rows(folder: Path) -> list[tuple[float, int]]:
    """(loss, step) of the run's own file."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()[1:]]
    return [(row["loss"], i + 1) for i, row in enumerate(rows)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_wandb_and_mlflow_get_the_rows_of_a_run_of_each_trainer(python, tmp_path):
    """`training` goes first: its model is the teacher of `distill`."""
    words = {
        "training": "--task sentiment --method full",
        "multitask": "--tasks sentiment,topic",
        "distill": f"--teacher {tmp_path / 'training' / 'adapter'} --student copy:1",
    }
    for program, own in words.items():
        out = tmp_path / program
        surroundings = os.environ | {
            "WANDB_MODE": "offline",
            "MLFLOW_TRACKING_URI": (tmp_path / f"mlruns-{program}").as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }
        shared = f"--steps 3 --eval-every 3 --eval-rows 20 --trackers wandb,mlflow,tensorboard --out {out}"
        command = [python, "-m", program, *own.split(), *shared.split()]
        done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        [logged] = (tmp_path / f"mlruns-{program}").glob("*/*/metrics/loss")
        lines = [line.split() for line in logged.read_text().splitlines()]
        assert [(float(value), int(step)) for _, value, step in lines] == loss_rows(out), program
        by_task = list(logged.parent.glob("loss.sentiment"))
        assert len(by_task) == (program == "multitask"), "MLflow cannot keep `loss` and `loss/sentiment`"
        [offline] = out.glob("wandb/offline-run-*/run-*.wandb")
        assert offline.stat().st_size > 0 and list(out.rglob("events.out.tfevents.*")), program
