"""A program in a process of its own, without some seven seconds of imports each time.

A server process (multiprocessing's forkserver) imports the packages once, starts no thread, and forks for every program. A few
tests still start a fresh Python, among them one for each way in: `python -m training`, `torchrun`, `accelerate launch`, a lesson.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
TRAINING = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "training").rglob("*.py") if "__" not in path.stem
]
SERVER.set_forkserver_preload([*TRAINING, "multitask.runs.run", "distill.runs.run"])


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
    """`torchrun --nproc-per-node count words` on the CPU, and of 1: `python words` (a file, `-m` module, or `-c` code)."""
    with Started(count, *words) as started:
        return started.wait(timeout)


class Started:
    """The processes of a program that runs, to be used with `with`: all have ended at the end of it."""

    def __init__(self, count: int, *words):
        self.program, self.folder, port = [str(word) for word in words], tempfile.TemporaryDirectory(), free_port()
        self.out, self.err = Path(self.folder.name, "out"), Path(self.folder.name, "err")
        self.out.touch()
        self.err.touch()
        given = [surroundings(rank, count, port) if count > 1 else {} for rank in range(count)]
        self.ranks = [SERVER.Process(target=_child, args=(self.program, more, self.out, self.err)) for more in given]
        for rank in self.ranks:
            rank.start()

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *error) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()
        self.folder.cleanup()

    def send(self, signal_number: int) -> None:
        for rank in self.ranks:
            os.kill(rank.pid, signal_number)

    def wait(self, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        """What all ranks said together. When one fails, the others are stopped, as torchrun does."""
        codes, out, err = _wait(self.ranks, timeout), self.out.read_text(), self.err.read_text()
        if None in codes and not any(codes):
            raise TimeoutError(f"{self.program}: not done after {timeout} s\n{out}{err}")
        return subprocess.CompletedProcess(self.program, next(filter(None, codes), 0), out, err)


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


def wait_for_rows(out: Path, count: int, timeout: float = 120) -> None:
    """Until the run in the folder `out` has written so many rows."""
    rows, deadline = out / "rows.jsonl", time.monotonic() + timeout
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= count):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{rows} has fewer than {count} rows after {timeout} s")
        time.sleep(0.05)


def surroundings(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun gives the processes of one machine."""
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a Python of its own starts with
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
