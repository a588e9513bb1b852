"""Runs test files of a copy of the tree, each in a forked process, so that packages are imported once and not for each mutant.

This process imports what the project needs, but nothing of the project, and starts no thread. A child imports the project from
the copy, where one file may have another source. It never reads old bytecode of that file, nor leaves new bytecode behind.
"""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ("kernels", "loralib", "adapters", "training", "multitask", "distill", "tutorials")
MODELS = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5")
LIMIT = 240
"""seconds that one test file may take: several times what the slowest of them needs on a busy laptop"""
OPTIONS = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=ci"]
MARKERS = "not slow and not tutorial and not real and not gpu"
PASSED = (0, 5)  # 5: nothing left to run
NO_SUCH_TEST = 4
LATE = 1000
STARTERS = {"run_module", "run_code", "run_ranks", "subprocess", "own_process", "torchrun"}
"""names by which a test starts processes, which would import all packages again"""


@dataclass(frozen=True)
class Job:
    """Test files to run one after the other until one fails, with another source for `path`."""

    tests: tuple[str, ...]
    path: str
    source: str


@dataclass(frozen=True)
class Outcome:
    result: str
    """`survived`, `killed by`, `timeout in`, or `FAILS WITHOUT THE MUTATION:`"""
    test: str
    seconds: float
    output: str


@dataclass
class Worker:
    """A copy of the tree, and the process that runs one test file in it.

    A test that fails, or does not end, has to pass on the unchanged copy: otherwise it says nothing about the mutation.
    """

    folder: Path
    sound: set[str] = field(default_factory=set)
    """tests that were seen to pass on the unchanged tree"""
    job: Job | None = None
    waiting: list[str] = field(default_factory=list)
    outcome: tuple[str, str] | None = None
    """result and test of the failure that is being checked"""
    pid: int = 0
    begun: float = 0.0
    limit: float = 0.0

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def _failed(self) -> Path:
        return self.folder / "failed.txt"

    def start(self, job: Job) -> None:
        self.job, self.waiting, self.begun, self.outcome = job, list(job.tests), time.monotonic(), None
        self._write(job.path, job.source)
        self._fork(self.waiting[0])

    def poll(self) -> Outcome | None:
        """None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        late = not pid and time.monotonic() > self.limit
        if not pid and not late:
            return None
        if late:
            self.stop()
        else:
            self._signal()  # helpers of a test that outlived it
        code = LATE if late else os.waitstatus_to_exitcode(status)
        self.pid = 0
        return self._after_check(code) if self.outcome else self._after_file(code)

    def stop(self) -> None:
        if self.pid:
            self._signal()
            os.waitpid(self.pid, 0)

    def _after_file(self, code: int) -> Outcome | None:
        assert self.job is not None
        if code in PASSED and len(self.waiting) > 1:
            self.waiting.pop(0)
            self._fork(self.waiting[0])
            return None
        self._write(self.job.path, (ROOT / self.job.path).read_text())
        if code in PASSED:
            return self._end("survived", "")
        name = self._failed.read_text() if self._failed.exists() else self.waiting[0]  # a whole file: it cannot be imported
        self.outcome = ("timeout in", self.waiting[0]) if code == LATE else ("killed by", name)
        if self.outcome[1] in self.sound:
            return self._end(*self.outcome)
        self._fork(self.outcome[1])
        return None

    def _after_check(self, code: int) -> Outcome | None:
        assert self.outcome is not None
        function, parameters, _ = self.outcome[1].partition("[")
        if code == NO_SUCH_TEST and parameters:  # the mutation changes which parameters there are
            self.outcome = (self.outcome[0], function)
            self._fork(function)
            return None
        if code not in PASSED:
            return self._end("FAILS WITHOUT THE MUTATION:", self.outcome[1])
        self.sound.add(self.outcome[1])
        return self._end(*self.outcome)

    def _end(self, result: str, test: str) -> Outcome:
        self.job = None
        return Outcome(result, test, time.monotonic() - self.begun, self._output()[-3000:])

    def _output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _write(self, path: str, source: str) -> None:
        """Bytecode is outcome by size and second of the source, which two mutants may share."""
        target = self.tree / path
        target.write_text(source)
        for bytecode in target.parent.glob(f"__pycache__/{target.stem}.*"):
            bytecode.unlink()

    def _fork(self, test: str) -> None:
        self.limit = time.monotonic() + LIMIT
        self._failed.unlink(missing_ok=True)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _child(self.tree, self.folder, test, keep_bytecode=self.outcome is not None)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)  # in both processes, so that neither has to wait for the other


class Watcher:
    """A plugin of pytest: leaves out tests that start processes themselves, and writes down the one that fails or crashes."""

    def __init__(self, failed: Path):
        self.failed, self.stopped = failed, False

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [item for item in items if not STARTERS & set(item.function.__code__.co_names)]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.failed.write_text(nodeid)  # stays when the process dies in it

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "teardown" and report.passed and not self.stopped:
            self.failed.unlink()
        self.stopped = self.stopped or report.failed


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Worker]]:
    """Workers, each with a copy of the tree as it is now."""
    _import_packages()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o755)  # some tests run a process without rights, which has to import the copy
        sound: set[str] = set()
        workers = [Worker(_copy_tree(Path(folder, str(i))), sound) for i in range(count)]
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


def _child(tree: Path, folder: Path, test: str, keep_bytecode: bool) -> None:
    """Never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        os.chdir(tree)
        shutil.rmtree(".hypothesis", ignore_errors=True)  # counterexamples of other mutants
        sys.path[:] = [str(tree), *(p for p in sys.path if not p.startswith(str(ROOT)) or ".venv" in p)]
        if not keep_bytecode:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        del sys.modules["__main__"].__file__  # multiprocessing would run that file again in processes that it spawns
        import pytest

        code = pytest.main([*OPTIONS, "-m", MARKERS, test], plugins=[Watcher(folder / "failed.txt")])
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
