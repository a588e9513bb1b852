"""A distillation as a page: student beside teacher, how alike they are, what it cost, and the losses over the steps."""

from pathlib import Path

from matplotlib import pyplot as plt

from loralib.files.save_and_load import write_atomic
from training.loop.costs import costs_line
from training.reports.read_counts import counts_table
from training.reports.records import draw_curves, file_size, markdown_table, save_figure, use_style

SMOOTH = 20
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
NAMES = {
    "bleu": "BLEU of continued test prompts",
    "chrf": "chrF",
    "agreement": "answers on which both agree",
    "kl_to_teacher": "KL(teacher, student), nats",
    "rmse_to_teacher": "root mean square distance to the teacher",
    "ece": "calibration error",
    "kl_to_truth": "KL(truth, student), nats",
}


def write_report(folder: Path, result: dict, rows: list[dict], key: str) -> Path:
    """report.md and its pictures; returns the page's path."""
    title = f"{result['task']}: student {result['start_metric']:.3f} → {result['metric']:.3f}"
    draw_curves(rows, key, title, folder / "curves.png", result["teacher_metric"])
    draw_terms(rows, folder / "terms.png")
    write_atomic(folder / "report.md", (page(result) + "\n![curves](curves.png)\n\n![terms](terms.png)\n").encode())
    return folder / "report.md"


def page(result: dict) -> str:
    """The table, and what the run cost."""
    name = result["metric_name"]
    lines = [(name, f"{result['metric']:.4f}", f"{result['teacher_metric']:.4f}")]
    lines += [(f"{name} before", f"{result['start_metric']:.4f}", "")]
    if result["ceiling"] is not None:
        lines += [(f"{name}, best possible", f"{result['ceiling']:.4f}", f"{result['ceiling']:.4f}")]
    for key, label in NAMES.items():
        if key in result:
            teacher_value = result.get(f"teacher_{key}")
            lines.append((label, f"{result[key]:.4f}", "" if teacher_value is None else f"{teacher_value:.4f}"))
    lines += [("parameters", f"{result['parameters']:,}", f"{result['teacher_parameters']:,}")]
    share = result["teacher_seconds"] / max(result["train_seconds"], 1e-9)
    return (
        f"# {result['task']}: a student by {' '.join(result['losses'])}\n\n"
        f"{markdown_table(('', 'student', 'teacher'), lines)}\n\n"
        f"{result['labelled_rows']:,} rows with labels, {result['transfer_rows']:,} without; {result['steps']} steps at learning "
        f"rate {result['learning_rate']:g}, seed {result['seed']}.\n{result['train_seconds']:.0f} s in steps, "
        f"{100 * share:.0f} % of it asking the teacher; peak memory of the process {file_size(result['peak_bytes'])}, "
        f"student {file_size(result['file_bytes'])} on disk.\n"
        + costs_line(result)
        + (f"\n## What was read\n\n{counts_table(result['data'])}\n" if result.get("data") else "")
    )


def draw_terms(rows: list[dict], path: Path) -> Path:
    """Every term's loss over the steps, smoothed; each times its weight, so that the curves add up to what is minimised."""
    use_style()
    figure, panel = plt.subplots()
    names = sorted({key.removeprefix("loss/") for row in rows for key in row if key.startswith("loss/")})
    for name, colour in zip(names, PALETTE * len(names), strict=False):
        points = [(r["step"], r[f"loss/{name}"] * r[f"weight/{name}"]) for r in rows if f"loss/{name}" in r]
        smooth = [sum(v for _, v in points[max(0, i - SMOOTH + 1) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(points))]
        panel.plot([step for step, _ in points], smooth, color=colour, label=name)
    panel.set(title=f"weight × loss of each term, mean of its last {SMOOTH} steps", xlabel="step", ylabel="loss")
    panel.set_ylim(bottom=0)
    panel.legend()
    return save_figure(figure, path)
