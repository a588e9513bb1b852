"""RUNS: data, base models, the one loop, metrics and records."""

from training.result import TrainResult
from training.run import train_model
from training.settings import TrainSettings

__all__ = ["TrainResult", "TrainSettings", "train_model"]
