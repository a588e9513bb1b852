"""Where a benchmark ran: device, driver and revision for its rows, and which competitors are installed."""

import platform
import subprocess
from functools import cache
from importlib import import_module

import torch

COMPETITORS = {"peft": "peft", "bitsandbytes": "bitsandbytes", "liger_kernel": "liger-kernel"}
"""module → name for pip"""
NOTHING_TO_COMPARE = {
    "liger_kernel": "it has no LoRA, 4-bit or multi-adapter matmul (its operations are listed in liger_kernel/ops/__init__.py)"
}
"""competitors that would be measured if they had one of our operations"""


@cache
def obstacle(module: str) -> str | None:
    """Why a competitor cannot be compared on this machine, or None. It is imported: being installed is not enough."""
    if module in NOTHING_TO_COMPARE:
        return NOTHING_TO_COMPARE[module]
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return f"not installed (pip install {COMPETITORS[module]})"
        return f"cannot be imported: {error}"
    except Exception as error:  # a library that is built for another CUDA raises what it likes
        return f"cannot be imported: {type(error).__name__}: {first_line(error)}"
    return None


def not_compared() -> list[str]:
    """One line for each competitor that this machine cannot measure, with the reason."""
    reasons = {module: obstacle(module) for module in COMPETITORS}
    return [f"{module}: {reason}" for module, reason in reasons.items() if reason]


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"


def driver() -> str:
    return _answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], "none")


def revision() -> str:
    """The commit, with -dirty after it where files differ."""
    return _answer(["git", "describe", "--always", "--dirty"], "unknown")


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""


def _answer(command: list[str], otherwise: str) -> str:
    """The first line that a program writes; `otherwise` where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return otherwise
    return done.stdout.split("\n")[0] or otherwise
