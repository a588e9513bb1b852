"""TASKS: heads, sampling, loss balancing, interference and the multitask trainer."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from multitask.balancing import expected_update, make_balancing
    from multitask.comparison import delta_m, gap_closed
    from multitask.data_manager import MultitaskDataManager
    from multitask.files import load_multitask, save_multitask
    from multitask.gradients import GRADIENT_METHODS
    from multitask.multitask_model import MultitaskModel
    from multitask.run import run_multitask
    from multitask.sampling import RowStream, TaskSampler, task_probabilities
    from multitask.settings import MultitaskSettings
    from multitask.task_heads import (
        ClassificationHead,
        MultiLabelHead,
        QuestionAnsweringHead,
        RegressionHead,
        TaskHeads,
        TokenClassificationHead,
    )
    from multitask.trainer import MultitaskTrainer
    from multitask.weightings import METHODS
    from multitask.zero_shot_classes import zero_shot
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
