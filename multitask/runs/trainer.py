"""The multitask trainer: rows of several tasks, one model, the one loop of `training`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from multitask.balancing.balancing import expected_update, make_balancing
from multitask.data.data_manager import MultitaskDataManager
from multitask.model.multitask_model import MultitaskModel, Scores
from multitask.runs.interference import Interference
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import OBJECTIVE, Learner, MultitaskSteps
from training.evaluation.evaluation import HeldOut
from training.loop import loop, processes
from training.loop.progress import Progress
from training.loop.randomness import seeded
from training.models.methods import default_learning_rate


class MultitaskTrainer:
    """Trains `model` in place; `settings` say how examples are sampled, losses weighed and steps made.

    After `train`, `interference` holds what was measured between the tasks (settings.analyze_interference).
    A trainer with other losses brings its own `learner` and `steps_type`.
    """

    steps_type: type[MultitaskSteps] = MultitaskSteps

    def __init__(
        self,
        model: MultitaskModel,
        tokenizer: Any,
        settings: MultitaskSettings | None = None,
        accelerator: Accelerator | None = None,
    ):
        if not isinstance(settings, MultitaskSettings) or not isinstance(model, MultitaskModel):
            raise TypeError(
                f"MultitaskTrainer({type(model).__name__}, {type(tokenizer).__name__}, {type(settings).__name__}): expected "
                "MultitaskTrainer(MultitaskModel, tokenizer, MultitaskSettings(...)); `multitask.run_multitask` makes all three"
            )
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.accelerator = accelerator or processes.make_accelerator(settings.mixed_precision)
        kinds = [spec.kind for spec in model.tasks.values()]
        self.balancing = make_balancing(settings.loss_weighting, kinds, settings.weights(), **settings.balancing_options())
        self.interference: Interference | None = None

    @property
    def learning_rate(self) -> float:
        s = self.settings
        method = "fusion" if s.members else "full" if s.task_adapters == "none" else s.task_adapters
        return s.learning_rate or default_learning_rate(method, self.model)

    def learner(self) -> Learner:
        """The model with its losses, as the steps want it."""
        return Learner(self.model, self.balancing)

    def manager(self, features: dict[str, list[dict]]) -> MultitaskDataManager:
        """The stream of batches of a run on these rows."""
        s = self.settings
        return MultitaskDataManager(
            features,
            self.model.tasks,
            self.tokenizer,
            s.batch_size,
            s.batching == "mixed",
            s.seed,
            s.accumulation,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            kind=s.task_sampling,
            temperature=s.temperature if s.task_sampling == "temperature" else 1.0,
            cap=s.max_examples,
            draws=s.steps,
        )

    def expected_update(self, manager: MultitaskDataManager) -> dict[str, float]:
        """Each task's part of an average step's update: its chance of being sampled times its weight at present."""
        weights = {task: self.balancing.static[k] * self.balancing.weight(k) for k, task in enumerate(self.model.names)}
        return expected_update(manager.sampler.probabilities(), weights)

    def train(
        self,
        features: dict[str, list[dict]],
        eval_sets: dict[str, HeldOut] | None = None,
        compute_metrics_fn: Scores | None = None,
        on_row: Callable[[dict], None] = lambda row: None,
        checkpoint: Path | None = None,
        before_save: Callable[[], None] = lambda: None,
    ) -> Progress:
        """All steps. features: encoded training examples by task; eval_sets: rows to score at each evaluation.

        compute_metrics_fn(task, held_out, guesses) takes the place of the tasks' own scores. Every step makes a row: see
        `loop.train` and `MultitaskSteps`. Raises as the loop does.
        """
        learner, data = self.learner(), self.manager(features)
        if self.settings.analyze_interference:
            self.interference = Interference(learner, features, self.tokenizer, self.settings.seed)
        options = {"checkpoint": checkpoint, "before_save": before_save}
        with seeded(self.settings.seed + 1000 * self.accelerator.process_index):
            loop_settings = self._loop_settings(bool(eval_sets))
            steps = self.steps_type(learner, data, OBJECTIVE, loop_settings, self.accelerator, **options)
            return loop.run(steps, lambda: self._evaluate(eval_sets or {}, compute_metrics_fn), on_row)

    def _evaluate(self, eval_sets: dict[str, HeldOut], compute_metrics_fn: Scores | None) -> dict[str, float]:
        options = {"accelerator": self.accelerator, "compute_metrics_fn": compute_metrics_fn}
        scoress = self.model.evaluate_all_tasks(eval_sets, self.tokenizer, **options)
        row = {f"{task}/{name}": value for task, scores in scoress.items() for name, value in scores.items()}
        mains = [scoress[task].get(spec.metric) for task, spec in self.model.tasks.items() if task in scoress]
        # `mean_score` chooses the best weights of one run. It says nothing about single tasks, whose scores differ in kind
        if mains and None not in mains:  # a function of the user's own may give other names
            row["mean_score"] = sum(m for m in mains if m is not None) / len(mains)
        return row | (self.interference.measure() if self.interference else {})

    def _loop_settings(self, has_scores: bool) -> loop.LoopSettings:
        names = ("steps", "schedule", "warmup_share", "weight_decay", "max_grad_norm", "eval_every", "save_every", "keep")
        if self.settings.keep == "best" and not has_scores:
            raise ValueError("keep='best' needs rows to evaluate on")
        options: dict[str, Any] = {name: getattr(self.settings, name) for name in names}
        options["needed"] = ("heads",)
        return loop.LoopSettings(learning_rate=self.learning_rate, watch="mean_score", higher_is_better=True, **options)
