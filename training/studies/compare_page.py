"""The page of a comparison: quality with its spread, costs, step times, verdicts, storage, and one chart."""

import statistics
from pathlib import Path

from matplotlib import pyplot as plt

from training.data.tasks import find_task
from training.reports.paired import clearly_better, paired_gap, spread
from training.reports.records import COLOURS, file_size, markdown_table, save_figure, use_style
from training.runs.own_process import command_line
from training.runs.step_time import ratios
from training.studies.compare import TUNING_SEED, Compared, kept_gain

TASK_COUNTS = (1, 10, 50, 100)
Times = dict[str, list[float]]


def page(rows: list[Compared], tried: dict, times: Times, chart: str, words: str) -> str:
    """The whole report as Markdown. `words` is the command that made it."""
    by_label = {row.label: row for row in rows}
    first = rows[0].results[0]
    seeds = len(rows[0].results)
    settings = by_label["full"].settings
    return f"""# {first["task"]} with {"/".join(Path(first["model_name"]).parts[-2:])}: every way to adapt, side by side

`{words}`

{seeds} paired seeds; {settings.steps} steps of {settings.batch_size * settings.accumulation} rows; texts of at most
{settings.max_length} tokens; `±` is the standard deviation over the seeds.{_tuned(tried)}

## Quality

{quality_table(rows)}

{verdicts(rows)}

## Cost

{cost_table(rows, times)}

- **trained**: parameters that train, with the head ({_heads(rows)}). **optimizer**: its state, counted;
  gradients take half of that.
- **activations**: what autograd keeps for backward on one batch. **peak**: of a process that ran this row alone.
- **steps per step of full**: one process, the same batch, every row in turn; median of the rounds (20 % to 80 %).

## What N tasks cost in storage

{storage_table(rows)}

The base is stored once for the adapters; full fine-tuning stores a whole model for each task. Sizes of the files as written.

![quality and memory]({chart})

## The commands of the rows

Seed {settings.seed}; the other seeds differ in `--seed` and `--out`.

```
{chr(10).join(command_line(row.settings) for row in rows)}
```
"""


def quality_table(rows: list[Compared]) -> str:
    """Metric, kept gain, train-test gap, texts and forgetting where they were measured."""
    by_label = {row.label: row for row in rows}
    first = rows[0].results[0]
    texts, other = bool(first["texts"]), "other_loss" in rows[0].after[0]
    name = first["metric_name"]
    header = ["", f"test {name}", "share of full's gain", f"train {name}", "train − test"]
    header += ["BLEU", "chrF", "ROUGE-L"] * texts + ["loss on other text"] * other
    lines = []
    for row in rows:
        train = [a["train_metric"] for a in row.after]
        gap = [a - b for a, b in zip(train, row.values("metric"), strict=True)]
        share = kept_gain(row, by_label["untouched"], by_label["full"])
        cells = [row.label, spread(row.values("metric")), f"{100 * statistics.mean(share):.0f} %", spread(train), spread(gap)]
        if texts:
            scores = [r["texts"] for r in row.results]
            cells += [spread([s[key] for s in scores], digits) for key, digits in (("bleu", 1), ("chrf", 1), ("rouge_l", 3))]
        if other:
            cells.append(spread([a["other_loss"] for a in row.after]))
        lines.append(cells)
    return markdown_table(header, lines)


def verdicts(rows: list[Compared]) -> str:
    """Every row against full fine-tuning, by the rule of `paired.py`."""
    full = next(row for row in rows if row.label == "full")
    higher = find_task(full.settings.task).higher_is_better
    if len(full.results) < 2:
        return "One seed: no verdict."
    lines = ["Verdict (the mean paired difference to full is more than two standard errors from zero, or it does not count):", ""]
    for row in rows:
        if row is full:
            continue
        values, best = row.values("metric"), full.values("metric")
        mean, error = paired_gap(values, best, higher)
        word = "no difference that counts"
        if clearly_better(best, values, higher):
            word = "**full is better**"
        elif clearly_better(values, best, higher):
            word = "**better than full**"
        lines.append(f"- {row.label}: {word} ({mean:+.3f}, standard error {error:.3f}; + is better)")
    return "\n".join(lines)


def cost_table(rows: list[Compared], times: Times) -> str:
    speed = ratios(times, "full") if times else {}
    lines = []
    for row in rows:
        first = row.results[0]
        low, middle, high = speed.get(row.label, (0.0, 0.0, 0.0))
        lines.append(
            (
                row.label,
                f"{first['trainable']:,}",
                file_size(first["file_bytes"]),
                file_size(first["optimizer_bytes"]),
                file_size(first["saved_bytes"]),
                file_size(statistics.median(row.values("peak_bytes"))),
                f"{middle:.2f} ({low:.2f} to {high:.2f})" if middle else "",
                f"{first['learning_rate']:g}" if first["steps"] else "",
            )
        )
    header = ("", "trained", "file", "optimizer", "activations", "peak", "steps per step of full", "learning rate")
    return markdown_table(header, lines)


def storage_table(rows: list[Compared]) -> str:
    """Bytes on disk for N tasks: a model each, or one base and an adapter each."""
    whole = next(row for row in rows if row.label == "full").results[0]["file_bytes"]
    lines = []
    for row in rows:
        size = row.results[0]["file_bytes"]
        if row.label == "full":
            lines.append((row.label, *(file_size(n * size) for n in TASK_COUNTS), "1×"))
        elif size:
            totals = [whole + n * size for n in TASK_COUNTS]
            lines.append((row.label, *map(file_size, totals), f"{TASK_COUNTS[-1] * whole / totals[-1]:.0f}×"))
    return markdown_table(("", *(f"N = {n}" for n in TASK_COUNTS), f"smaller at {TASK_COUNTS[-1]}"), lines)


def draw(rows: list[Compared], path: Path) -> Path:
    """Quality against what trains, and where the memory of a training step goes."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    name, higher = rows[0].results[0]["metric_name"], find_task(rows[0].settings.task).higher_is_better
    for i, row in enumerate(rows[1:]):
        values = row.values("metric")
        error = statistics.stdev(values) if len(values) > 1 else 0.0
        x, label = row.results[0]["trainable"], row.label.replace("LoRA ", "")
        left.errorbar(x, statistics.mean(values), error, marker="o", capsize=3, color=COLOURS[row.method])
        place = {"xytext": (5, 9 if i % 2 else -14), "textcoords": "offset points", "fontsize": 8}  # in turn above and below
        left.annotate(label, (x, statistics.mean(values)), color=COLOURS[row.method], **place)
    left.axhline(statistics.mean(rows[0].values("metric")), color=COLOURS["untouched"], linestyle="--")
    left.annotate("untouched", (0.02, statistics.mean(rows[0].values("metric"))), xycoords=("axes fraction", "data"), fontsize=8)
    left.margins(x=0.25)
    left.set(xscale="log", xlabel="trained parameters", ylabel=f"{name} ({'higher' if higher else 'lower'} is better)")
    left.set_title("quality against what trains (± 1 std)")
    _memory(right, rows[1:])
    return save_figure(figure, path)


def _memory(panel, rows: list[Compared]) -> None:
    whole = next(row for row in rows if row.label == "full").results[0]["trainable"] * 4
    parts = {
        "weights": [whole + (r.method == "lora") * 4 * r.results[0]["trainable"] for r in rows],
        "gradients": [4 * r.results[0]["trainable"] for r in rows],
        "optimizer": [r.results[0]["optimizer_bytes"] for r in rows],
        "activations": [r.results[0]["saved_bytes"] for r in rows],
    }
    bottom = [0.0] * len(rows)
    for (name, sizes), colour in zip(parts.items(), ("#BBBBBB", "#56B4E9", "#E69F00", "#009E73"), strict=True):
        sizes = [size / 1e6 for size in sizes]
        panel.barh([r.label for r in rows], sizes, left=bottom, label=name, color=colour)
        bottom = [a + b for a, b in zip(bottom, sizes, strict=True)]
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.set(xlabel="MB of one training step, counted")
    panel.set_title("LoRA saves gradients and optimizer, not activations")
    panel.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.18), columnspacing=1.0)


def _tuned(tried: dict) -> str:
    if not tried:
        return " Each method has its default learning rate."
    lines = [
        f"- {method}: " + ", ".join(f"{rate:g} → {score:.3f}" for rate, score in scores.items())
        for method, scores in tried.items()
    ]
    start = f"Each method has the best learning rate of these, tried on seed {TUNING_SEED}, which is not one of the compared:"
    return "\n\n".join(("", start, "\n".join(lines)))


def _heads(rows: list[Compared]) -> str:
    head = next((r.results[0]["head_parameters"] for r in rows if r.method == "lora"), 0)
    return f"{head:,} parameters in the LoRA rows" if head else "there is none here"
