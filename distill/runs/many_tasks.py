"""Several teachers, one student for all their tasks: the multitask trainer with the teachers' answers beside the labels.

    loss_k = λ · CE(labels) + (1 - λ) · T² KL(teacher_k ‖ student)

λ rises from 0 to 1 over the run (teacher annealing, Clark et al. 2019, BAM, section 3): the student ends on the labels and may
pass its teachers. With a constant λ it is the distillation of MT-DNN (Liu et al. 2019). Sampling, balancing, mixed batches and
everything else stay those of `multitask`.
"""

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.losses.states import answer_logits
from distill.losses.terms import soft_sum
from distill.teacher.rows import same_tokens
from distill.teacher.teacher import Teacher
from multitask.data.mixed_batches import MixedBatch
from multitask.model.files import CARD, load_multitask
from multitask.model.multitask_model import OneTask
from multitask.model.task_heads import Answer
from multitask.runs.steps import Learner, MultitaskSteps
from multitask.runs.trainer import MultitaskTrainer
from training.data.batching import Batch
from training.models.base_models import window
from training.models.trained import load_trained


class DistilledLearner(Learner):
    """A Learner whose tasks have teachers; a task without one learns from its labels alone."""

    def __init__(self, model: Any, balancing: Any, teachers: dict[str, Teacher], temperature: float, share: tuple[float, float]):
        super().__init__(model, balancing)
        strange = sorted(set(teachers) - set(model.names))
        if strange or not teachers:
            raise ValueError(f"teachers for {sorted(teachers)}: expected some of the tasks {', '.join(model.names)}")
        self.teachers, self.temperature, self.share, self.progress = teachers, temperature, share, 0.0
        """share: of the labels, at the first and the last step"""

    def mean_loss(self, k: int, answer: Answer, rows: dict[str, Tensor], batch: MixedBatch, count: int) -> Tensor:
        hard, task = super().mean_loss(k, answer, rows, batch, count), self.model.names[k]
        if task not in self.teachers:
            return hard
        labels = self.share[0] + (self.share[1] - self.share[0]) * self.progress
        return labels * hard + (1 - labels) * self._soft(task, answer, rows | self._types(k, batch)) / count

    def _types(self, k: int, batch: MixedBatch) -> Batch:
        """The token types, which separate an example's first text from its second, where the teacher of task number `k` reads
        them."""
        [model, *_] = self.teachers[self.model.names[k]].models
        known = isinstance(model, OneTask) or "token_type_ids" in inspect.signature(model.forward).parameters
        name = "token_type_ids"
        return {name: batch[name][batch["task_ids"] == k]} if name in batch and known else {}

    def _soft(self, task: str, answer: Answer, rows: Batch) -> Tensor:
        teacher, kind = self.teachers[task].answers(rows), self.model.tasks[task].kind
        student = answer_logits(kind, answer, rows)
        value = soft_sum(kind, "mse" if kind == "regression" else "kd", student, teacher, self.temperature)
        return value / 2 if kind == "qa" else value  # first and last token: their mean, as in the hard loss


class DistilledSteps(MultitaskSteps):
    """Steps that tell the learner how far the run is."""

    learner: DistilledLearner

    def losses(self, batch: Batch, counts: list[float], step: int) -> tuple[Any, dict[str, Any]]:
        self.learner.progress = (step - 1) / max(self.settings.steps - 1, 1)
        return super().losses(batch, counts, step)


class DistilledTrainer(MultitaskTrainer):
    """The multitask trainer with teachers; see `DistilledLearner`."""

    steps_type = DistilledSteps

    def __init__(self, *args: Any, teachers: dict[str, Teacher], temperature: float, share: tuple[float, float]):
        super().__init__(*args)
        self.teachers, self.temperature, self.share = teachers, temperature, share

    def learner(self) -> Learner:
        for teacher in self.teachers.values():
            teacher.to(self.accelerator.device)
        return DistilledLearner(self.model, self.balancing, self.teachers, self.temperature, self.share)


def load_teacher(task: str, folder: Path, tokenizer: Any, limit: int | None = None) -> Teacher:
    """The teacher of one task, from a run of `training` or of `multitask`. ValueError where it cannot teach this student.

    limit: the most tokens that it will be asked about.
    """
    if (folder / CARD).exists():
        model, its_tokenizer, _ = load_multitask(folder)
        if task not in model.tasks:
            raise ValueError(f"{folder}: a model of {', '.join(model.names)}, which does not know {task}")
        task_model, spec, most = model.for_task(task), model.tasks[task], window(model.backbone, its_tokenizer)
    else:
        trained = load_trained(folder)
        task_model, its_tokenizer, spec = trained.base.model, trained.base.tokenizer, trained.spec
        most = window(task_model, its_tokenizer)
        if spec.name != task:
            raise ValueError(f"{folder}: trained for {spec.name}, expected a teacher of {task}")
    if not same_tokens(its_tokenizer, tokenizer):
        raise ValueError(f"{folder}: the teacher of {task} has another tokenizer than the student")
    if limit is not None and most < limit:
        raise ValueError(f"{folder}: the teacher of {task} reads {most} tokens, fewer than max_length={limit}: lower max_length")
    return Teacher([task_model], spec.kind)
