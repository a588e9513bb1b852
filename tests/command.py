"""A program in a process of its own, without some seven seconds of imports each time.

A server process (multiprocessing's forkserver) imports the packages once, starts no thread, and forks for every program. A few
tests still start a fresh Python, among them one for each way in: `python -m training`, `torchrun`, `accelerate launch`, a lesson.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
TRAINING = [f"training.{path.stem}" for path in (ROOT / "training").glob("*.py") if "__" not in path.stem]
SERVER.set_forkserver_preload([*TRAINING, "multitask.run", "distill.run"])


def run_module(module: str, *words, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -m module words`, from the project's root."""
    return run_ranks(1, "-m", module, *words, timeout=timeout)


def run_code(code: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -c code`, from the project's root."""
    return run_ranks(1, "-c", code, timeout=timeout)


def run_fresh(code: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -c code` from the project's root, in a Python that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def run_ranks(count: int, *words, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node count words` on the CPU, and of 1: `python words` (a file, `-m` module, or `-c` code).

    What all ranks say comes together. When one fails, the others are stopped, as torchrun does.
    """
    program, port = [str(word) for word in words], free_port()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        given = [surroundings(rank, count, port) if count > 1 else {} for rank in range(count)]
        ranks = [SERVER.Process(target=_child, args=(program, more, out, err)) for more in given]
        for rank in ranks:
            rank.start()
        codes = _wait(ranks, timeout)
        if None in codes and not any(codes):
            raise TimeoutError(f"{program}: not done after {timeout} s\n{out.read_text()}{err.read_text()}")
        return subprocess.CompletedProcess(program, next(filter(None, codes), 0), out.read_text(), err.read_text())


def _wait(ranks: list, timeout: float) -> list[int | None]:
    """The exit codes when all are done, one has failed, or the time is over; then the others are killed, and theirs is None."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and not any(rank.exitcode for rank in ranks):
        alive = [rank for rank in ranks if rank.is_alive()]
        if not alive:
            break
        alive[0].join(0.05)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.join()
    return codes


def surroundings(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells the processes of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _child(program: list[str], given: dict[str, str], out: Path, err: Path) -> None:
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())
    os.chdir(ROOT)
    os.environ.update(given)
    kind, *rest = program
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = program
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = program
        runpy.run_path(kind, run_name="__main__")
