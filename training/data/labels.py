"""What the number of a label means: names in the data, in a model's config and in the task are compared, never assumed.

The same names in another order are put into the task's order. Other names are reported. Names that only number the labels
(`LABEL_0`, `1`) say nothing, so the order of the task is taken for them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, List
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from loralib.layers.heads import saved_modules
from training.data.tasks import TaskSpec

LABELLED = ("classification", "multilabel", "tagging")
"""the kinds of task whose answers have names"""


def are_names(labels: Sequence[str]) -> bool:
    """Whether the labels have names, and not just numbers such as LABEL_0 or 1."""
    return bool(labels) and not all(re.fullmatch(r"(label_?)?\d+", label, re.IGNORECASE) for label in labels)


def order_of(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """For each wanted label its place in `found`; None where the names differ. Upper and lower case mean the same."""
    places = {name.lower(): i for i, name in enumerate(names)}
    if len(names) != len(wanted) or set(places) != {name.lower() for name in wanted}:
        return None
    return [places[name.lower()] for name in wanted]


def config_names(config) -> list[str]:
    """The names of the labels in a transformers config, in their order."""
    return [str(name) for _, name in sorted((getattr(config, "id2label", None) or {}).items(), key=lambda item: int(item[0]))]


# ---------------------------------------------------------------- data


def in_task_order(rows: Dataset, spec: TaskSpec, where: str) -> Dataset:
    """The rows with their label numbers in the task's order, where the file names its labels (ClassLabel).

    ValueError where rows have a label whose name is none of the task's.
    """
    feature = rows.features.get(spec.target)
    feature = getattr(feature, "feature", feature)  # of a list: the tags of a sentence
    if (
        spec.kind not in LABELLED
        or not isinstance(feature, ClassLabel)
        or not (are_names(feature.names) and are_names(spec.labels))
    ):
        return rows
    places = {name.lower(): i for i, name in enumerate(spec.labels)}
    number = {i: places.get(name.lower()) for i, name in enumerate(feature.names)}
    if all(i == place for i, place in number.items()):
        return rows
    values = rows[spec.target][:]
    used = {label for value in values for label in (value if isinstance(value, list) else [value])}
    strange = sorted(feature.names[i] for i in used if i in number and number[i] is None)
    if strange:
        raise ValueError(
            f"{where}: the labels of {spec.target} are called {', '.join(feature.names)}, and task {spec.name} has "
            f"{', '.join(spec.labels)}: {', '.join(strange)} is none of them"
        )
    renumber = lambda label: number.get(label, label)  # noqa: E731  (-1 means "no label" and stays)
    new = [[renumber(v) for v in value] if isinstance(value, list) else renumber(value) for value in values]
    named: Any = ClassLabel(names=list(spec.labels))
    if spec.kind == "tagging":
        named = List(named)
    return rows.remove_columns(spec.target).add_column(spec.target, new, feature=named)  # pyright: ignore[reportCallIssue]


# ---------------------------------------------------------------- the head of a model


def output_layer(model: PreTrainedModel, count: int) -> nn.Module | None:
    """The last module outside the base whose weight has a row for each of `count` labels."""
    base = f"{model.base_model_prefix}."
    layers = [module for path, module in model.named_modules() if not f"{path}.".startswith(base) and _rows(module) == count]
    return layers[-1] if layers else None


def _rows(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else 0


@torch.no_grad()
def put_in_order(model: PreTrainedModel, order: Sequence[int], where: str) -> None:
    """Moves the rows of the head: row i becomes what was row order[i]. ValueError where no output layer is found."""
    layer = output_layer(model, len(order))
    if layer is None:
        raise ValueError(
            f"{where}: its labels stand in another order, and {type(model).__name__} has no layer that is known here"
        )
    for p in layer.parameters(recurse=False):
        if not p.is_floating_point() or len(p) != len(order):
            raise ValueError(f"{where}: its labels stand in another order, and its head is quantised: its rows cannot be moved")
        p.data = p.data[torch.tensor(order)].clone()


@torch.no_grad()
def new_output_layer(model: PreTrainedModel, count: int, where: str) -> list[str]:
    """Draws the output layer again, as a new head; returns the names of its parameters."""
    layer = output_layer(model, count)
    if layer is None:
        raise ValueError(f"{where}: {type(model).__name__} has no layer for {count} labels that is known here")
    for p in layer.parameters(recurse=False):
        nn.init.zeros_(p) if p.ndim < 2 else nn.init.normal_(p, std=getattr(model.config, "initializer_range", None) or 0.02)
    own = {id(p) for p in layer.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if id(p) in own]


def match_head(model: PreTrainedModel, names: Sequence[str], spec: TaskSpec, where: str) -> bool:
    """Brings a loaded head into the task's order. False where its labels are others: it answers another question."""
    if spec.kind not in LABELLED or not (are_names(names) and are_names(spec.labels)):
        return True
    order = order_of(names, spec.labels)
    if order is None:
        return False
    if order != sorted(order):
        put_in_order(model, order, where)
    return True


def match_trained(model: PreTrainedModel, folder: Path, base: str, spec: TaskSpec) -> None:
    """The head that a folder with an adapter brought, in the task's order. ValueError where its labels are others.

    A folder that peft wrote has no config: its head, if it holds one, has the order of its base.
    """
    own, layer = (folder / "config.json").exists(), output_layer(model, len(spec.labels))
    if not own and not any(layer is part for module in saved_modules(model).values() for part in module.modules()):
        return
    names = config_names(AutoConfig.from_pretrained(folder if own else base))
    if not match_head(model, names, spec, str(folder)):
        raise ValueError(other_labels(str(folder), names, spec))


def other_labels(where: str, names: Sequence[str], spec: TaskSpec) -> str:
    return f"{where} answers with {', '.join(names)}, and task {spec.name} has the labels {', '.join(spec.labels)}"
