"""The tasks by name: what their columns are called, what kind of answer they want, and how it is scored."""

from dataclasses import dataclass

from training.world_tasks import TAGS, WORLD_TASKS


@dataclass(frozen=True)
class TaskSpec:
    """One task. `kind`: classification, regression, tagging, qa or generation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """columns that the model reads: one text, or a pair"""
    target: str
    """column of the answer"""
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    hub: tuple[str, ...] = ()
    """arguments of `datasets.load_dataset` when no folder is given"""

    @property
    def higher_is_better(self) -> bool:
        return self.metric != "loss"


def _glue(name: str, *inputs: str, labels=("0", "1"), metric="accuracy", kind="classification") -> TaskSpec:
    return TaskSpec(name, kind, inputs, "label", labels, metric, ("nyu-mll/glue", name))


_NLI = ("entailment", "neutral", "contradiction")

TASKS = {
    spec.name: spec
    for spec in (
        TaskSpec("topic", "classification", ("sentence",), "label", ("music", "sport", "food", "science")),
        TaskSpec("sentiment", "classification", ("sentence",), "label", ("bad", "good")),
        TaskSpec("nli", "classification", ("premise", "hypothesis"), "label", _NLI),
        TaskSpec("tagging", "tagging", ("tokens",), "tags", TAGS, "span_f1"),
        TaskSpec("qa", "qa", ("context", "question"), "answers", metric="exact_match"),
        TaskSpec("data2text", "generation", ("meaning_representation",), "human_reference", metric="loss"),
        _glue("sst2", "sentence", labels=("negative", "positive")),
        _glue("cola", "sentence", metric="matthews"),
        _glue("mrpc", "sentence1", "sentence2", metric="f1"),
        _glue("rte", "sentence1", "sentence2", labels=("entailment", "not_entailment")),
        _glue("qnli", "question", "sentence", labels=("entailment", "not_entailment")),
        _glue("qqp", "question1", "question2", metric="f1"),
        _glue("mnli", "premise", "hypothesis", labels=_NLI),
        _glue("stsb", "sentence1", "sentence2", labels=("score",), metric="pearson_spearman", kind="regression"),
        TaskSpec("sick", "classification", ("premise", "hypothesis"), "label", _NLI),
        TaskSpec(
            "e2e_nlg",
            "generation",
            ("meaning_representation",),
            "human_reference",
            metric="loss",
            hub=("tuetschek/e2e_nlg",),
        ),
    )
}


def is_world(task: str) -> bool:
    return task in WORLD_TASKS
