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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_wandb_and_mlflow_get_the_rows_of_a_run(python, tmp_path):
    surroundings = os.environ | {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    words = "--task sentiment --steps 3 --eval-every 3 --eval-rows 20 --trackers wandb,mlflow,tensorboard --out"
    command = [python, "-m", "training", *words.split(), tmp_path / "run"]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()[1:]]
    [logged] = (tmp_path / "mlruns").glob("*/*/metrics/loss")
    lines = [line.split() for line in logged.read_text().splitlines()]
    assert [(float(value), int(step)) for _, value, step in lines] == [(loss, i + 1) for i, loss in enumerate(losses)]
    [offline] = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert offline.stat().st_size > 0 and list((tmp_path / "run").rglob("events.out.tfevents.*"))
