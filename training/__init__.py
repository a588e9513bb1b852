"""RUNS: data, base models, the one loop, metrics and records.

The three names below are loaded when they are first used, so that `training.records` (tables and plots) can be imported
where `datasets` is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.result import TrainResult
    from training.run import train_model
    from training.settings import TrainSettings

__all__ = ["TrainResult", "TrainSettings", "train_model"]

MODULE_OF = {"TrainResult": "training.result", "train_model": "training.run", "TrainSettings": "training.settings"}


def __getattr__(name: str) -> object:
    if name not in MODULE_OF:
        raise AttributeError(f"module 'training' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(MODULE_OF[name]), name)
