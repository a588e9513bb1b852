"""TASKS: heads, sampling, loss balancing, interference and the multitask trainer."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from multitask.balancing.balancing import expected_update, make_balancing
    from multitask.balancing.gradients import GRADIENT_METHODS
    from multitask.balancing.weightings import METHODS
    from multitask.data.data_manager import MultitaskDataManager
    from multitask.data.sampling import RowStream, TaskSampler, task_probabilities
    from multitask.model.files import load_multitask, save_multitask
    from multitask.model.multitask_model import MultitaskModel
    from multitask.model.task_heads import (
        ClassificationHead,
        MultiLabelHead,
        QuestionAnsweringHead,
        RegressionHead,
        TaskHeads,
        TokenClassificationHead,
    )
    from multitask.model.zero_shot_classes import zero_shot
    from multitask.runs.run import run_multitask
    from multitask.runs.settings import MultitaskSettings
    from multitask.runs.trainer import MultitaskTrainer
    from multitask.studies.comparison import delta_m, gap_closed
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "GRADIENT_METHODS",
    "METHODS",
    "ClassificationHead",
    "MultiLabelHead",
    "MultitaskDataManager",
    "MultitaskModel",
    "MultitaskSettings",
    "MultitaskTrainer",
    "QuestionAnsweringHead",
    "RegressionHead",
    "RowStream",
    "TaskHeads",
    "TaskSampler",
    "TokenClassificationHead",
    "delta_m",
    "expected_update",
    "gap_closed",
    "load_multitask",
    "make_balancing",
    "run_multitask",
    "save_multitask",
    "task_probabilities",
    "zero_shot",
]
