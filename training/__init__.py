"""RUNS: data, base models, the one loop, metrics and records."""

from training.run import TrainResult, TrainSettings, train_model

__all__ = ["TrainResult", "TrainSettings", "train_model"]
