"""The tasks by name: what their columns are called, what kind of answer they want, and how it is scored."""

from dataclasses import dataclass

from training.data.world_tasks import TAGS, WORLD_TASKS


@dataclass(frozen=True)
class TaskSpec:
    """One task. `kind`: classification, regression, multilabel (any number of labels a row, as 0 and 1), tagging, qa, generation
    (a prompt and its completion) or text."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """columns that the model reads: one text, or a pair"""
    target: str
    """column of the answer; for plain text the text itself"""
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    hub: tuple[str, ...] = ()
    """arguments of `datasets.load_dataset` when no folder is given"""
    prompt_end: str = ""
    """generation: written between the prompt and its completion"""

    @property
    def higher_is_better(self) -> bool:
        return self.metric != "loss"

    @property
    def is_language_modelling(self) -> bool:
        """Whether the model's answer is text, token by token."""
        return self.kind in ("generation", "text")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inputs, self.target)))


def _glue(name: str, *inputs: str, labels=("0", "1"), metric="accuracy", kind="classification") -> TaskSpec:
    return TaskSpec(name, kind, inputs, "label", labels, metric, ("nyu-mll/glue", name))


def _data_to_text(name: str, hub: tuple[str, ...] = ()) -> TaskSpec:
    inputs = ("meaning_representation",)
    return TaskSpec(name, "generation", inputs, "human_reference", metric="loss", hub=hub, prompt_end=" =>")


_NLI = ("entailment", "neutral", "contradiction")
_UPOS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM")
_UPOS += ("VERB", "X")

TASKS = {
    spec.name: spec
    for spec in (
        TaskSpec("topic", "classification", ("sentence",), "label", ("music", "sport", "food", "science")),
        TaskSpec("sentiment", "classification", ("sentence",), "label", ("bad", "good")),
        TaskSpec("nli", "classification", ("premise", "hypothesis"), "label", _NLI),
        TaskSpec("tagging", "tagging", ("tokens",), "tags", TAGS, "span_f1"),
        # context first, as the small world's remarks follow their passage
        TaskSpec("qa", "qa", ("context", "question"), "answers", metric="exact_match"),
        _data_to_text("data2text"),
        _glue("sst2", "sentence", labels=("negative", "positive")),
        _glue("cola", "sentence", labels=("unacceptable", "acceptable"), metric="matthews"),
        _glue("mrpc", "sentence1", "sentence2", labels=("not_equivalent", "equivalent"), metric="f1"),
        _glue("rte", "sentence1", "sentence2", labels=("entailment", "not_entailment")),
        _glue("qnli", "question", "sentence", labels=("entailment", "not_entailment")),
        _glue("qqp", "question1", "question2", labels=("not_duplicate", "duplicate"), metric="f1"),
        _glue("mnli", "premise", "hypothesis", labels=_NLI),
        _glue("stsb", "sentence1", "sentence2", labels=("score",), metric="pearson_spearman", kind="regression"),
        TaskSpec("sick", "classification", ("premise", "hypothesis"), "label", _NLI),
        _data_to_text("e2e_nlg", ("tuetschek/e2e_nlg",)),
        TaskSpec("squad", "qa", ("question", "context"), "answers", metric="f1", hub=("rajpurkar/squad",)),
        TaskSpec("ud_pos", "tagging", ("tokens",), "upos", _UPOS),
        TaskSpec("text", "text", ("text",), "text", metric="loss", hub=("Salesforce/wikitext", "wikitext-2-raw-v1")),
        TaskSpec("prompt", "generation", ("prompt",), "completion", metric="loss"),
    )
}


def find_task(name: str) -> TaskSpec:
    """The task of that name. ValueError for others, with those there are."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; there are {', '.join(TASKS)}")
    return TASKS[name]


def is_world(task: str) -> bool:
    return task in WORLD_TASKS
