"""RUNS: data, base models, the one loop, metrics and records."""

from training.run import TrainResult, train_model
from training.settings import TrainSettings

__all__ = ["TrainResult", "TrainSettings", "train_model"]
