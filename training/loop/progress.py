"""How far a run is, and which of its evaluations was the best: early stopping and the weights to keep."""

from dataclasses import dataclass, field

from torch import Tensor

from training.loop.checkpoint import TrainableWeights
from training.loop.checks import assert_finite
from training.loop.costs import Costs


@dataclass
class Progress:
    """Part of a checkpoint, so that a run that goes on stops and keeps exactly as an uninterrupted one."""

    higher_is_better: bool
    keeps_best: bool
    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    """evaluations since the best one"""
    stopped: bool = False
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer_bytes: int = 0
    """of the optimizer's state, counted at the end"""
    costs: Costs | None = None
    """seconds and tokens of all steps"""

    def judge(self, score: float | None, patience: int | None, weights: TrainableWeights) -> None:
        """Take in one evaluation. ValueError when best weights or early stopping are asked for and there is no score;
        FloatingPointError for a score that is not finite, which would compare as neither better nor worse."""
        if score is None:
            if patience is not None or self.keeps_best:
                raise ValueError("the evaluation has no score to watch: early stopping and keep='best' need one")
            return
        assert_finite(score, self.step, "score of the evaluation")
        better = self.best is None or (score > self.best if self.higher_is_better else score < self.best)
        if better:
            self.best, self.best_step, self.waited = score, self.step, 0
            if self.keeps_best:
                self.best_weights = {name: p.clone() for name, p in weights.state_dict().items()}
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience

    def state_dict(self) -> dict:
        names = ("step", "best", "best_step", "waited", "stopped", "best_weights")
        state = {name: getattr(self, name) for name in names}
        return state if self.costs is None else state | {"costs": self.costs.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            if name != "costs":
                setattr(self, name, value)
        if self.costs is not None and "costs" in state:
            self.costs.load_state_dict(state["costs"])
