"""RUNS: data, base models, the one loop, metrics and records."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from training.runs.result import TrainResult
    from training.runs.run import train_model
    from training.runs.settings import TrainSettings
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = ["TrainResult", "TrainSettings", "train_model"]
