"""One task, every way to adapt: untouched, the head alone, LoRA at several ranks, all weights. Paired seeds, a process each.

What is compared is the same but for the method: rows, order of batches, steps, evaluation. Each method may choose its
learning rate from the same factors, on a seed of its own that is not one of the compared (`tune`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loralib.files.save_and_load import write_atomic
from training.data.data import evaluation_split, first_rows, load_task, some_rows
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.base_models import load_base, window
from training.models.methods import apply_method, default_learning_rate
from training.models.trained import load_trained
from training.runs.method_configs import adapter_config
from training.runs.own_process import train_in_own_process
from training.runs.result import metric_key
from training.runs.run_folder import TRAINED, read_settings
from training.runs.settings import TrainSettings

TUNING_SEED = 1000
AFTER = "after.json"
OTHER_ROWS = 400  # texts of other text to read: 400 paragraphs


@dataclass(frozen=True)
class Plan:
    """The rows of a comparison, by label, each with the settings of its first seed."""

    rows: dict[str, TrainSettings]
    seeds: int

    @property
    def folder(self) -> Path:
        return Path(next(iter(self.rows.values())).out or "").parent


@dataclass(frozen=True)
class Compared:
    """What one row measured: the results of its seeds, and what was read from the trained weights afterwards."""

    label: str
    settings: TrainSettings
    results: list[dict]
    after: list[dict]
    """{train_metric: on training examples, other_loss: on other text} for each seed"""

    @property
    def method(self) -> str:
        return self.settings.method

    def values(self, name: str) -> list[float]:
        return [r[name] for r in self.results]


def make_plan(base: TrainSettings, ranks: tuple[int, ...], seeds: int, out: Path) -> Plan:
    """The scale alpha / r is the same at every rank, so that one rank's learning rate suits the others. A model that writes
    text has no head of its own: there that row is left out."""
    scale = base.lora_alpha / base.r
    rows = {"untouched": replace(base, method="untouched")}
    if not find_task(base.task).is_language_modelling:
        rows["head"] = replace(base, method="head")
    rows |= {f"LoRA r={r}": replace(base, method="lora", r=r, lora_alpha=scale * r) for r in ranks}
    rows["full"] = replace(base, method="full")
    return Plan({label: replace(s, out=str(out / f"{_slug(label)}-0"), trackers="") for label, s in rows.items()}, seeds)


def tune(plan: Plan, base: TrainSettings, factors: tuple[float, ...], say: Callable[[str], None]) -> tuple[Plan, dict]:
    """Give each method the best of its default learning rate times `factors` (LoRA: found at the middle rank).

    A single factor is taken without a trial. Returns the new plan, and what each rate reached.
    """
    tried: dict[str, dict[float, float]] = {}
    if factors == (1.0,):
        return plan, tried
    better = max if find_task(base.task).higher_is_better else min
    chosen: dict[str, float] = {}
    ranks = sorted(s.r for s in plan.rows.values() if s.method == "lora")
    middle = {s.method: s for s in plan.rows.values() if s.method != "lora" or s.r == ranks[len(ranks) // 2]}
    for method, settings in middle.items():
        if method == "untouched":
            continue
        default = default_learning_rate(method, load_base(find_task(base.task), base.model).model)
        rates = [float(f"{factor * default:.2g}") for factor in factors]
        if len(rates) == 1:
            chosen[method] = rates[0]
            continue
        for rate in rates:
            out = str(plan.folder / f"tune-{method}-{rate:g}")
            options = {"learning_rate": rate, "seed": TUNING_SEED, "out": out, "score_texts": 0, "samples": 0}
            result = train_in_own_process(replace(settings, **options))
            tried.setdefault(method, {})[rate] = result["metric"]
            say(f"tuning {method}: learning rate {rate:g} gives {result['metric_name']} {result['metric']:.4f}")
        chosen[method] = better(tried[method], key=tried[method].__getitem__)
    return Plan({label: replace(s, learning_rate=chosen.get(s.method)) for label, s in plan.rows.items()}, plan.seeds), tried


def check_plan(plan: Plan, other_text: str | None) -> None:
    """Everything that could fail later, before the first run: the data, the model, LoRA's modules, the other text."""
    first = next(iter(plan.rows.values()))
    spec = find_task(first.task)
    load_task(spec, first.data_dir, first.seed, first.train_rows)
    for settings in plan.rows.values():
        base = load_base(spec, settings.model)
        apply_method(settings.method, base, spec, adapter_config(settings))
    if other_text is not None:
        if not spec.is_language_modelling:
            raise ValueError(f"other_text is for models that write text: {first.task} has a head that knows only its labels")
        load_task(find_task("text"), other_text)


def run_plan(plan: Plan, train_rows: int, other_text: str | None, say: Callable[[str], None]) -> list[Compared]:
    """Run all rows, seed by seed, so that a disturbance of the machine meets every row."""
    compared: dict[str, Compared] = {label: Compared(label, s, [], []) for label, s in plan.rows.items()}
    for seed in range(plan.seeds):
        for label, settings in plan.rows.items():
            folder = Path(settings.out or "").with_name(f"{_slug(label)}-{seed}")
            run_settings = replace(settings, seed=settings.seed + seed, out=str(folder))
            result = train_in_own_process(run_settings)
            compared[label].results.append(result)
            compared[label].after.append(_after(folder, run_settings, train_rows, other_text))
            say(f"seed {run_settings.seed}: {label}: {result['metric_name']} {result['metric']:.4f}")
    return list(compared.values())


def _after(folder: Path, settings: TrainSettings, train_rows: int, other_text: str | None) -> dict:
    """Metric on training examples, and loss on other text; kept beside the run, so that a second start need not do it again."""
    path, asked = folder / AFTER, {"rows": train_rows, "other": other_text}
    if path.exists() and (scores_after := read_settings(path)).get("asked") == asked:
        return scores_after
    trained = load_trained(folder / TRAINED)
    spec, tokenizer, model = trained.spec, trained.base.tokenizer, trained.base.model
    limit = min(trained.max_length, window(model, tokenizer))
    rows = first_rows(load_task(spec, settings.data_dir, settings.seed, settings.train_rows)["train"], train_rows)
    accelerator = make_accelerator()
    model.to(accelerator.device)
    scores = evaluate(model, HeldOut(spec, rows, encode(rows[:], spec, tokenizer, limit)), tokenizer, accelerator)
    scores_after = {"asked": asked, "train_metric": scores[metric_key(spec)], "train_loss": scores["eval_loss"]}
    if other_text is not None:
        text = find_task("text")
        data = load_task(text, other_text)
        other = some_rows(data[evaluation_split(data, text, other_text)], OTHER_ROWS, text, other_text)
        held_out = HeldOut(text, other, encode(other[:], text, tokenizer, limit))
        scores_after["other_loss"] = evaluate(model, held_out, tokenizer, accelerator)["eval_loss"]
    write_atomic(path, (json.dumps(scores_after) + "\n").encode())
    return scores_after


def kept_gain(row: Compared, untouched: Compared, full: Compared) -> list[float]:
    """Which share of full fine-tuning's gain over the untouched model this row reaches, seed by seed."""
    start, top, row_values = (np.asarray(r.values("metric")) for r in (untouched, full, row))
    return ((row_values - start) / (top - start)).tolist()


def _slug(label: str) -> str:
    return label.lower().replace(" ", "-").replace("=", "")
