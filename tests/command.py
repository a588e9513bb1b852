"""A command in a process of its own, without some seven seconds of imports each time.

A server process (multiprocessing's forkserver) imports the packages once, starts no thread, and forks for every command. A few
tests still start a fresh Python, among them one for each way in: `python -m training`, `torchrun`, a lesson.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
TRAINING = [f"training.{path.stem}" for path in (ROOT / "training").glob("*.py") if "__" not in path.stem]
SERVER.set_forkserver_preload([*TRAINING, "multitask.run", "distill.run"])


def run_module(module: str, *words, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -m module words`, from the project's root."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = SERVER.Process(target=_child, args=(module, [str(word) for word in words], out, err))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"{module} {words}: not done after {timeout} s\n{out.read_text()}{err.read_text()}")
        return subprocess.CompletedProcess([module, *words], process.exitcode or 0, out.read_text(), err.read_text())


def _child(module: str, words: list[str], out: Path, err: Path) -> None:
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY), stream.fileno())
    os.chdir(ROOT)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
