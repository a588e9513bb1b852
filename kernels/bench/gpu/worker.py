"""Measurements in a process of their own: a compiler that aborts, or a kernel that breaks the GPU's context, costs one case.

Triton's compiler can abort the whole process, and after an illegal memory access every CUDA call of a process fails. The worker
is then replaced by a new one, and the failed case has a reason like any other.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

from kernels.bench.machine import first_line


class WorkerFailed(RuntimeError):
    """A call in the worker raised, or its process ended, or it gave no answer in time."""


class Worker:
    """`call` runs a function of a module in the worker's process. The process starts with the first call."""

    def __init__(self, device: str):
        self.device = device
        # a forked child starts at once, but cannot use CUDA
        self._context: Any = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
        self._process: Any = None

    def call(self, function: Callable, *arguments: object, seconds: float) -> Any:
        """The function's result; WorkerFailed says what it raised, how its process ended, or that time was over."""
        if self._process is None:
            self._pipe, child_end = self._context.Pipe()
            self._process = self._context.Process(target=serve, args=(child_end, self._pipe, self.device), daemon=True)
            self._process.start()
            child_end.close()  # so that the death of the worker is the end of the pipe
        self._pipe.send((function, arguments))
        try:
            if not self._pipe.poll(seconds):
                self.close()
                raise WorkerFailed(f"no answer in {seconds:.0f} s: its process was ended")
            result, failure, usable = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            status = self._process.exitcode
            self.close()
            raise WorkerFailed(f"the process that measured it ended with status {status}") from None
        if not usable:
            self.close()
        if failure:
            raise WorkerFailed(failure)
        return result

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def serve(pipe, other_end, device: str) -> None:
    """The worker's loop: (function, arguments) in; (result, failure, whether this process can go on) out."""
    other_end.close()  # else a worker whose parent was killed would wait for ever
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        result, failure = None, ""
        try:
            result = function(*arguments)
        except Exception as error:  # any failure of a kernel is a result
            failure = f"{type(error).__name__}: {first_line(error)}"
        pipe.send((result, failure, usable(device)))


def usable(device: str) -> bool:
    """Whether the GPU still answers this process; frees what the case left."""
    if device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
