"""The eight tasks of GLUE (without WNLI) in one table: each with its own metric, a floor to judge it by, and their average."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.data import evaluation_split, load_task, some_rows
from training.data.tasks import find_task
from training.evaluation.metrics import label_scores
from training.reports.paired import spread
from training.reports.records import markdown_table
from training.runs.own_process import train_in_own_process
from training.runs.settings import TrainSettings

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")  # in the order of the leaderboard


@dataclass(frozen=True)
class Entry:
    """One task of the benchmark. `ran` is the task that was run: another one where it stands in."""

    task: str
    ran: str
    train_rows: int
    test_rows: int
    floor: float
    """the metric of always giving the training set's most frequent answer"""
    results: list[dict]

    def values(self, name: str) -> list[float]:
        return [r[name] for r in self.results]


def data_folder(root: Path, task: str) -> Path:
    """`root/TASK` or `root/glue/TASK`. FileNotFoundError with what is there and how to let another task stand in."""
    for folder in (root / task, root / "glue" / task):
        if folder.is_dir():
            return folder
    there = sorted(p.name for parent in (root, root / "glue") if parent.is_dir() for p in parent.iterdir() if p.is_dir())
    raise FileNotFoundError(f"{root}: no folder for {task}; there are {there}. --stand-in {task}=OTHER runs another task for it")


def plan_tasks(tasks: tuple[str, ...], stand_in: tuple[str, ...]) -> dict[str, str]:
    """{task: the task to run for it}. ValueError for a name that is no task, or stands in for nothing that is asked for."""
    names = GLUE if tasks == ("all",) else tasks
    pairs = [pair.partition("=") for pair in stand_in]
    wrong = [name for name in names if name not in GLUE] + [a for a, _, b in pairs if a not in names or not b]
    if wrong:
        raise ValueError(f"tasks {list(names)} with stand-ins {list(stand_in)}: {wrong} is not among {', '.join(GLUE)}")
    others = {a: find_task(b).name for a, _, b in pairs}
    return {name: others.get(name, name) for name in names}


def run_benchmark(
    tasks: dict[str, str], base: TrainSettings, root: Path | None, seeds: int, out: Path, say: Callable[[str], None]
) -> list[Entry]:
    """Every task in a process of its own; what is finished is read, what was stopped goes on."""
    plans = []
    for task, ran in tasks.items():  # all data first: a missing folder is reported before hours of work
        spec = find_task(ran)
        folder = None if root is None else str(data_folder(root, ran))
        data = load_task(spec, folder, base.seed, base.train_rows)
        split = evaluation_split(data, spec, folder)
        test = some_rows(data[split], base.eval_rows, spec, folder)
        floor = _floor(list(data["train"][spec.target]), list(test[spec.target]), spec.metric)
        settings = replace(base, task=ran, data_dir=folder, trackers="", score_texts=0)
        plans.append((Entry(task, ran, len(data["train"]), len(test), floor, []), settings))
    for entry, settings in plans:
        for seed in range(seeds):
            where = out / f"{entry.task}-{base.method}-{seed}"
            result = train_in_own_process(replace(settings, seed=base.seed + seed, out=str(where)))
            entry.results.append(result)
            say(f"{entry.task}: {result['metric_name']} {result['start_metric']:.3f} → {result['metric']:.3f}")
    return [entry for entry, _ in plans]


def benchmark_page(entries: list[Entry], base: TrainSettings, words: str) -> str:
    """The table with its average, what was run, and the command, as Markdown."""
    lines = []
    for entry in entries:
        first = entry.results[0]
        name = entry.task if entry.ran == entry.task else f"{entry.task} ({entry.ran} stands in)"
        lines.append(
            (
                name,
                first["metric_name"],
                f"{entry.floor:.3f}",
                spread(entry.values("start_metric")),
                spread(entry.values("metric")),
                f"{entry.train_rows:,}",
                f"{entry.test_rows:,}",
                f"{sum(entry.values('seconds')) / len(entry.results):.0f}",
            )
        )
    means = [sum(v) / len(v) for v in zip(*(entry.values("metric") for entry in entries), strict=True)]
    floor = sum(entry.floor for entry in entries) / len(entries)
    lines.append(("**average**", "", f"{floor:.3f}", "", f"**{spread(means)}**", "", "", ""))
    header = ("task", "metric", "floor", "before", "after", "training examples", "test examples", "seconds")
    first = entries[0].results[0]
    return f"""# GLUE with {"/".join(Path(first["model_name"]).parts[-2:])}, {base.method}

`{words}`

{base.steps} steps of {base.batch_size * base.accumulation} rows of at most {base.max_length} tokens,
{len(entries[0].results)} seed(s), {first["trainable"]:,} trained parameters (first task,
with its head), learning rate {first["learning_rate"]:g}.

{markdown_table(header, lines)}

- **floor**: always the most frequent answer of the training set (for stsb a constant, whose correlation counts as 0).
- **before**: the pretrained base under a new, random head. **seconds**: of all training steps, without the evaluations.
"""


def _floor(train: list, test: list, metric: str) -> float:
    most = Counter(train).most_common(1)[0][0]
    return label_scores([most] * len(test), test, metric)[metric]
