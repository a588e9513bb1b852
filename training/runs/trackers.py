"""A run's rows sent to TensorBoard, wandb or MLflow, through accelerate's trackers. The run folder keeps them all anyway."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

PROJECT = "peft-from-scratch"


def _tensorboard(folder: Path, step: int) -> GeneralTracker:
    # what a killed run logged after its checkpoint is purged, as the run logs it again
    return TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else None)


def _wandb(folder: Path, step: int) -> GeneralTracker:
    return WandBTracker(PROJECT, dir=str(folder), name=folder.name)


class DottedMLflowTracker(MLflowTracker):
    """Logs `loss/nli` as `loss.nli`: MLflow keeps each metric in a file of that name, and `loss` cannot be a folder too."""

    def log(self, values: dict, step: int | None, **kwargs) -> None:
        super().log({name.replace("/", "."): value for name, value in values.items()}, step, **kwargs)


def _mlflow(folder: Path, step: int) -> GeneralTracker:
    return DottedMLflowTracker(PROJECT, run_name=folder.name)


KNOWN: dict[str, Callable[[Path, int], GeneralTracker]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def tracker_names(wanted: str) -> list[str]:
    """`"tensorboard,wandb"` as a list; "" is none. ValueError for an unknown tracker or one that is not installed."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in KNOWN:
            raise ValueError(f"tracker {name!r} is unknown; there are {', '.join(KNOWN)}")
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # None: a folder of that name, such as wandb's own logs
            raise ValueError(f"tracker {name!r} is not installed: pip install {name}, or choose --trackers tensorboard")
    return names


class Trackers:
    """The open trackers of one run; made on the main process only."""

    def __init__(self, names: list[str], folder: Path, settings: dict, step: int = 0):
        self.open = [KNOWN[name](folder, step) for name in names]
        for tracker in self.open:
            tracker.start()
            if step == 0 and not isinstance(tracker, TensorBoardTracker):  # there it adds a run of its own to the charts
                tracker.store_init_configuration({k: v for k, v in settings.items() if v is not None})

    def keep(self, row: dict) -> None:
        values = {k: v for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        for tracker in self.open:
            tracker.log(values, step=row["step"])

    def finish(self) -> None:
        for tracker in self.open:
            tracker.finish()
