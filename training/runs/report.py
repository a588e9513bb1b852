"""Several runs side by side, read from their folders: finished ones with their results, others with how far they are."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt

from training.reports.paired import spread
from training.reports.records import COLOURS, file_size, markdown_table, save_figure, use_style
from training.runs.run_folder import CONFIG, ROWS, RunError, read_config, read_result, read_rows

SMOOTH = 20  # steps averaged in the chart


@dataclass(frozen=True)
class Run:
    """One run folder's content; `result` is None for a run that is not finished."""

    folder: Path
    config: dict
    rows: list[dict]
    result: dict | None

    @property
    def group(self) -> tuple:
        """What runs share that differ in nothing but the seed and the folder."""
        own = ("seed", "out", "restart", "trackers", "train_checksum", "evaluation_checksum", "frozen_checksum")
        return tuple((k, str(v)) for k, v in sorted(self.config.items()) if k not in own)


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in these folders, themselves or one level below. ValueError for a path without any.

    Files next to run folders, such as `runs/*` gives them, are left out if there is a folder.
    """
    runs, paths = [], list(paths)
    folders_given = [path for path in paths if path.is_dir()]
    for path in folders_given or paths:
        folders = [path] if (path / CONFIG).exists() else sorted(p.parent for p in path.glob(f"*/{CONFIG}"))
        folders = [f for f in folders if (f / ROWS).exists()]
        if not folders:
            raise ValueError(f"{path}: no run here; expected a folder with {CONFIG} and {ROWS}, or one that holds such folders")
        runs += [Run(f, read_config(f), read_rows(f / ROWS), read_result(f)) for f in folders]
    return runs


def report_page(runs: list[Run]) -> str:
    """Every run in a row, then the means over seeds, then what is not finished. Markdown."""
    done = [r for r in runs if r.result]
    parts = []
    if done:
        parts.append("## Every run")
        parts.append(markdown_table(("run", *HEADER), [(r.folder.name, *_own_cells(r)) for r in done]))
    groups: dict[tuple, list[Run]] = {}
    for run in done:
        groups.setdefault(run.group, []).append(run)
    several = [g for g in groups.values() if len(g) > 1]
    if several:
        parts.append("## Mean ± standard deviation over seeds")
        lines = [*_untouched(several), *map(_cells, several)]
        parts.append(markdown_table(MEANS, [(*reversed(line[:2]), *line[2:]) for line in lines]))
    for run in runs:
        if not run.result:
            step = run.rows[-1]["step"] if run.rows else 0
            parts.append(f"{run.folder}: not finished, {step} of {run.config.get('steps', '?')} steps")
    return "\n\n".join(parts) + "\n"


def _own_cells(run: Run) -> tuple[str, ...]:
    try:
        return _cells([run])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.folder}: its result.json is damaged, or of a run that `python -m training` did not make "
            f"({type(error).__name__}: {error})"
        ) from error


def _untouched(groups: list[list[Run]]) -> list[tuple[str, ...]]:
    """What the models wrote before any training: a row per task and base, where texts were scored."""
    rows = {}
    for run in (group[0] for group in groups):
        result = run.result or {}
        if result.get("texts_before"):
            before = {"start_metric": result["start_metric"], "metric": result["start_metric"], "loss": result["start_metric"]}
            same = {**result, **before, "texts": result["texts_before"], "method": "untouched", "steps": 0, "trainable": 0}
            cells = list(_cells([Run(run.folder, run.config, run.rows, same)]))
            cells[HEADER.index("seeds")] = cells[HEADER.index("file")] = ""
            rows[result["task"], result["model_name"]] = tuple(cells)
    return list(rows.values())


SCORES = ("loss", "BLEU", "chrF", "ROUGE-L")
HEADER = ("task", "method", "seeds", "steps", "metric", "before", "after", *SCORES, "trained", "file", "peak")
MEANS = ("method", "task", *HEADER[2:])


def _cells(group: list[Run]) -> tuple[str, ...]:
    results = [r.result for r in group if r.result]
    first = results[0]
    scores = [
        _spread([r["texts"][name] for r in results if name in r["texts"]], digits)
        for name, digits in (("bleu", 1), ("chrf", 1), ("rouge_l", 3))
    ]
    return (
        first["task"],
        first["method"],
        ", ".join(str(r["seed"]) for r in results),
        _spread([r["steps"] for r in results], 0),
        first["metric_name"],
        _spread([r["start_metric"] for r in results], 3),
        _spread([r["metric"] for r in results], 3),
        _spread([r["loss"] for r in results], 3),
        *scores,
        f"{first['trainable']:,}",
        file_size(first["file_bytes"]),
        file_size(max(r["peak_bytes"] for r in results)),
    )


def _spread(values: list[float], digits: int) -> str:
    return spread(values, digits) if values else ""


def draw_losses(runs: list[Run], path: Path) -> Path:
    """Training losses over steps, each the mean of the last steps; one colour per method, one line per run."""
    use_style()
    figure, panel = plt.subplots()
    named = set()
    for run in runs:
        losses = [(r["step"], r["loss"]) for r in run.rows if "loss" in r]
        if not losses:
            continue
        method = str(run.config["method"])
        mean = [statistics.mean(v for _, v in losses[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(losses))]
        label = None if method in named else method
        named.add(method)
        panel.plot([s for s, _ in losses], mean, color=COLOURS.get(method, COLOURS["random"]), label=label, linewidth=1.2)
    panel.set(title=f"training loss, mean of {SMOOTH} steps", xlabel="step", ylabel="loss")
    panel.legend()
    return save_figure(figure, path)
