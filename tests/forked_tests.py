"""Runs test files of a copy of the tree, each in a forked process, so that packages are imported once and not for each mutant.

This process imports what the project needs, but nothing of the project, and starts no thread. A child imports the project from
the copy, where one file may have another source. It never reads old bytecode of that file, nor leaves new bytecode behind.
"""

import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ("kernels", "loralib", "adapters", "training", "multitask", "distill", "tutorials")
MODELS = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5")
OPTIONS = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=ci"]
MARKERS = "not slow and not tutorial and not real and not gpu"
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """Test files to run one after the other until one fails, with another source for `path`."""

    tests: tuple[str, ...]
    path: str | None
    source: str
    limits: dict[str, float]
    """seconds for each test file"""


@dataclass(frozen=True)
class Outcome:
    result: str
    """`survived`, `killed by` or `timeout in`"""
    test: str
    seconds: float
    output: str


@dataclass
class Worker:
    """A copy of the tree, and the process that runs one test file in it."""

    folder: Path
    job: Job | None = None
    waiting: list[str] = field(default_factory=list)
    pid: int = 0
    begun: float = 0.0
    file_begun: float = 0.0

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def start(self, job: Job) -> None:
        self.job, self.waiting, self.begun = job, list(job.tests), time.monotonic()
        if job.path:
            self._write(job.path, job.source)
        self._next_file()

    def poll(self) -> Outcome | None:
        """None while it runs."""
        assert self.job is not None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() - self.file_begun < self.job.limits.get(self.waiting[0], 900):
                return None
            self.stop()
            return self._end("timeout in", self.waiting[0])
        self._signal()  # helpers of a test that outlived it
        if os.waitstatus_to_exitcode(status):
            failed = FAILURE.search(self.output())
            return self._end("killed by", failed[1] if failed else self.waiting[0])
        self.waiting.pop(0)
        if not self.waiting:
            return self._end("survived", "")
        self._next_file()
        return None

    def stop(self) -> None:
        if self.pid:
            self._signal()
            os.waitpid(self.pid, 0)

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _end(self, result: str, test: str) -> Outcome:
        assert self.job is not None
        if self.job.path:
            self._write(self.job.path, (ROOT / self.job.path).read_text())
        self.pid, self.job, begun = 0, None, self.begun
        return Outcome(result, test, time.monotonic() - begun, self.output()[-3000:])

    def _write(self, path: str, source: str) -> None:
        """Bytecode is found by size and second of the source, which two mutants may share."""
        target = self.tree / path
        target.write_text(source)
        for bytecode in target.parent.glob(f"__pycache__/{target.stem}.*"):
            bytecode.unlink()

    def _next_file(self) -> None:
        assert self.job is not None
        self.file_begun = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _child(self.tree, self.folder / "output.txt", self.waiting[0], keep_bytecode=self.job.path is None)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)  # in both processes, so that neither has to wait for the other


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Worker]]:
    """Workers, each with a copy of the tree as it is now."""
    _import_packages()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workers = [Worker(_copy_tree(Path(folder, str(i)))) for i in range(count)]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.stop()


def run(jobs: list[Job], workers: list[Worker]) -> Iterator[tuple[Job, Outcome]]:
    """The outcomes of all jobs, as they end."""
    waiting, free, busy = list(jobs), list(workers), []
    while waiting or busy:
        while waiting and free:
            busy.append(free.pop())
            busy[-1].start(waiting.pop(0))
        time.sleep(0.02)
        for worker in list(busy):
            job, outcome = worker.job, worker.poll()
            if outcome is not None:
                busy.remove(worker)
                free.append(worker)
                yield job, outcome


def _copy_tree(folder: Path) -> Path:
    """What git knows of the project, as it is now; and beside it the shared folder, as the tests expect it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / "tree" / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return folder


def _import_packages() -> None:
    """Everything that tests import besides the project; afterwards as if the project had never been imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    torch.set_num_threads(1)
    names = ["torch._dynamo", "triton", "triton.language", "peft", "bitsandbytes", "accelerate", "datasets", "scipy.stats"]
    names += ["sklearn.metrics", "sacrebleu", "rouge_score.rouge_scorer", "hypothesis", "beartype", "jaxtyping", "pytest"]
    names += ["matplotlib.pyplot", "_hypothesis_pytestplugin", "tyro", "rich.console", "torch.utils.tensorboard"]
    for name in [*names, *(f"transformers.models.{m}.modeling_{m}" for m in MODELS)]:
        __import__(name)
    for name in list(sys.modules):
        if name.split(".")[0] in PROJECT:
            del sys.modules[name]
    gc.freeze()  # pytest collects garbage after each run: not what was here before


def _child(tree: Path, output: Path, test: str, keep_bytecode: bool) -> None:
    """Never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        os.chdir(tree)
        shutil.rmtree(".hypothesis", ignore_errors=True)  # counterexamples of other mutants
        sys.path[:] = [str(tree), *(p for p in sys.path if not p.startswith(str(ROOT)) or ".venv" in p)]
        if not keep_bytecode:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        code = pytest.main([*OPTIONS, "-m", MARKERS, test])
        foreign = [n for n, m in sys.modules.items() if n.split(".")[0] in PROJECT and not _is_below(m, tree)]
        if foreign:
            print(f"ERROR {foreign}: not imported from the copy of the tree")
            code = 71
        sys.stdout.flush()
    finally:
        os._exit(code)


def _is_below(module: object, tree: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or Path(file).is_relative_to(tree)
