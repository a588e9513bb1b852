"""Which task helps which, by training: learn the source, then go on with the target from the source's backbone (Vu et al. 2020).

A cell is (score after the source - score alone) / score alone. The diagonal is the control: the target itself as source, so what
more steps on the same rows give. A source helps if its cell is above that.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from multitask.model.files import load_multitask
from multitask.runs.interference import transfer_gains
from multitask.runs.run import TRAINED, run_multitask
from multitask.runs.settings import MultitaskSettings
from multitask.studies.compare import alone
from training.data.tasks import find_task
from training.models.sealed import whole_folder
from training.reports.paired import clearly_better

BACKBONE = "backbone"


@dataclass(frozen=True)
class Transfer:
    """Scores seed by seed: of each target alone, and of (target after source)."""

    alone: dict[str, list[float]]
    after: dict[tuple[str, str], list[float]]

    def gains(self) -> dict[tuple[str, str], float]:
        """{(source, target): relative gain}, means over the seeds."""
        seeds = range(len(next(iter(self.alone.values()))))
        gainss = [
            transfer_gains({t: v[i] for t, v in self.alone.items()}, {p: v[i] for p, v in self.after.items()}) for i in seeds
        ]
        return {pair: statistics.mean(gains[pair] for gains in gainss) for pair in self.after}

    def verdict(self, source: str, target: str) -> str:
        """`helps`, `hurts` or "" against the target's own second training, by the rule of `training.reports.paired`."""
        transferred, direct, up = self.after[source, target], self.after[target, target], find_task(target).higher_is_better
        if source == target or len(transferred) < 2:
            return ""
        return "helps" if clearly_better(transferred, direct, up) else "hurts" if clearly_better(direct, transferred, up) else ""


def measure_transfer(settings: MultitaskSettings, seeds: int, out: Path, say: Callable[[str], None]) -> Transfer:
    """K + K² runs of `settings.steps` steps for each seed; finished ones are read from disk.

    ValueError where a target alone scores 0, so that no gain is defined.
    """
    tasks = list(settings.specs())
    transfer = Transfer({task: [] for task in tasks}, {(source, target): [] for target in tasks for source in tasks})
    for seed in range(settings.seed, settings.seed + seeds):
        base, folder = replace(settings, seed=seed), out / f"seed-{seed}"
        for task in tasks:
            transfer.alone[task].append(_score(alone(base, task, base.steps, folder / task), say))
            if not transfer.alone[task][-1]:
                raise ValueError(
                    f"task {task!r} alone scores 0 after {base.steps} steps: no relative gain is defined. Raise steps"
                )
            _keep_backbone(folder / task, base.restart)
        for source, target in transfer.after:
            start = replace(base, model=str(folder / source / BACKBONE), layers=None, random_weights=False)
            transfer.after[source, target].append(_score(alone(start, target, base.steps, folder / f"{source}-{target}"), say))
    return transfer


def _score(settings: MultitaskSettings, say: Callable[[str], None]) -> float:
    result = run_multitask(settings)["tasks"][settings.tasks]
    say(f"{'/'.join(settings.folder().parts[-2:])}: {result['metric_name']} {result['metric']:.4f}")
    return result["metric"]


def _keep_backbone(run: Path, anew: bool) -> None:
    """The backbone of a finished run as a folder of transformers, without heads; whole, or not at all."""
    if anew or not (run / BACKBONE).exists():
        model, tokenizer, _ = load_multitask(run / TRAINED)
        with whole_folder(run / BACKBONE) as partial:
            tokenizer.save_pretrained(partial)
            model.backbone.save_pretrained(partial)
