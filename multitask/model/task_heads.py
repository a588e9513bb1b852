"""What stands on the shared hidden states of a backbone: one head for each task, or one for several.

    states (B, T, d), attention_mask (B, T)  ─▶  pooled (B, d)  ─▶  logits (B, labels)     a label, labels, a number
                                             ─▶  logits (B, T, tags)                       a tag for each token
                                             ─▶  start, end (B, T)                         a span of the text

A text is pooled over its real tokens only, so no answer depends on how much padding its batch has. Under causal attention only
the last real token has seen the whole text; in an encoder every token has, and their mean is taken.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multitask.data.task_specs import check_tasks
from training.data.tasks import TaskSpec

States = Float[Tensor, "B T d"]
Mask = Int[Tensor, "B T"] | Bool[Tensor, "B T"]
POOLINGS = ("mean", "last", "first")


@dataclass
class Answer:
    """The output of a head: `logits`, or `start_logits` and `end_logits`; `loss` is the mean over the answers, if labels came.

    `MultitaskModel` adds the task's name and the backbone's last hidden states (B, T, d). `answer["logits"]` reads a field.
    """

    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    loss: Tensor | None = None
    task_name: str | None = None
    hidden_states: Tensor | None = None

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name, None)
        if value is None:
            hint = "; the backbone's last hidden states are answer['hidden_states']" if name == "backbone_outputs" else ""
            raise KeyError(f"{name}: this answer has {', '.join(key for key, v in vars(self).items() if v is not None)}{hint}")
        return value


def pool(states: States, mask: Mask, pooling: str) -> Float[Tensor, "B d"]:
    """One vector for each text: the mean of its real tokens, its last or its first one. Padding may stand on either side."""
    if pooling == "mean":
        real = mask.to(states.dtype)[..., None]
        return (states * real).sum(1) / real.sum(1).clamp(min=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "last":
        at = (places * mask).argmax(1)
    elif pooling == "first":
        at = mask.long().argmax(1)
    else:
        raise ValueError(f"pooling {pooling!r} is unknown; there are {', '.join(POOLINGS)}")
    return states[torch.arange(len(states), device=states.device), at]


def all_tokens(states: States) -> Mask:
    """The mask of texts without padding."""
    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)


class ClassificationHead(nn.Module):
    """One of `num_labels` for each text: logits (B, num_labels)."""

    def __init__(self, hidden_size: int, num_labels: int, dropout_rate: float = 0.1, pooling: str = "mean"):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is unknown; there are {', '.join(POOLINGS)}")
        self.dropout, self.pooling = nn.Dropout(dropout_rate), pooling
        self.classifier = _new_linear(hidden_size, num_labels)

    def forward(self, hidden_states: States, attention_mask: Mask | None = None) -> Answer:
        """attention_mask None: there is no padding."""
        mask = all_tokens(hidden_states) if attention_mask is None else attention_mask
        return Answer(self.classifier(self.dropout(pool(hidden_states, mask, self.pooling))))


class MultiLabelHead(ClassificationHead):
    """Any number of `num_labels` for each text: logits (B, num_labels), each above 0 where its label holds."""


class RegressionHead(ClassificationHead):
    """A number for each text: logits (B, 1)."""

    def __init__(self, hidden_size: int, dropout_rate: float = 0.1, pooling: str = "mean"):
        super().__init__(hidden_size, 1, dropout_rate, pooling)


class TokenClassificationHead(nn.Module):
    """A tag for each token: logits (B, T, num_labels). Tokens without a label are left to the loss, which skips -100."""

    def __init__(self, hidden_size: int, num_labels: int, dropout_rate: float = 0.1):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.classifier = _new_linear(hidden_size, num_labels)

    def forward(self, hidden_states: States, attention_mask: Mask | None = None) -> Answer:
        return Answer(self.classifier(self.dropout(hidden_states)))


class QuestionAnsweringHead(nn.Module):
    """Where the answer starts and ends: two times (B, T), the lowest number there is at padding."""

    def __init__(self, hidden_size: int, dropout_rate: float = 0.1):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.qa_outputs = _new_linear(hidden_size, 2)

    def forward(self, hidden_states: States, attention_mask: Mask | None = None) -> Answer:
        mask = all_tokens(hidden_states) if attention_mask is None else attention_mask
        logits = self.qa_outputs(self.dropout(hidden_states))
        logits = logits.masked_fill(mask[..., None] == 0, torch.finfo(logits.dtype).min)
        return Answer(start_logits=logits[..., 0], end_logits=logits[..., 1])


class TaskHeads(nn.Module):
    """A head for each task, chosen by name. `shared` maps a task to another whose head it uses, such as {"sick": "nli"}.

    dropout_rate: one for all heads, or {task: probability}, 0.1 where a task is not named.
    TypeError for tasks that are no `TaskSpec`, ValueError for a kind of task without a head, and where two tasks with different
    labels would share one.
    """

    def __init__(
        self,
        hidden_size: int,
        tasks: dict[str, TaskSpec],
        dropout_rate: float | dict[str, float] = 0.1,
        pooling: str = "mean",
        shared: dict[str, str] | None = None,
    ):
        super().__init__()
        check_tasks(tasks, "TaskHeads(hidden_size, tasks)")
        rates = dropout_rate if isinstance(dropout_rate, dict) else dict.fromkeys(tasks, dropout_rate)
        if rates.keys() - tasks.keys():
            raise ValueError(f"dropout_rate for {sorted(rates.keys() - tasks.keys())}: there are the tasks {', '.join(tasks)}")
        self.owner = {task: (shared or {}).get(task, task) for task in tasks}
        for task, owner in self.owner.items():
            _check_shared(task, owner, self.owner, tasks)
        self.heads = nn.ModuleDict()
        for task, spec in tasks.items():
            if self.owner[task] == task:
                self.heads[_key(task)] = _make(spec, hidden_size, rates.get(task, 0.1), pooling)

    def __getitem__(self, task: str) -> nn.Module:
        if task not in self.owner:
            raise KeyError(f"no task {task!r}; there are {', '.join(self.owner)}")
        return self.heads[_key(self.owner[task])]

    def forward(self, hidden_states: States, task_name: str, attention_mask: Mask | None = None) -> Answer:
        return self[task_name](hidden_states, attention_mask)


def _make(spec: TaskSpec, hidden_size: int, dropout_rate: float, pooling: str) -> nn.Module:
    if spec.kind == "classification":
        return ClassificationHead(hidden_size, len(spec.labels), dropout_rate, pooling)
    if spec.kind == "multilabel":
        return MultiLabelHead(hidden_size, len(spec.labels), dropout_rate, pooling)
    if spec.kind == "regression":
        return RegressionHead(hidden_size, dropout_rate, pooling)
    if spec.kind == "tagging":
        return TokenClassificationHead(hidden_size, len(spec.labels), dropout_rate)
    if spec.kind == "qa":
        return QuestionAnsweringHead(hidden_size, dropout_rate)
    raise ValueError(f"task {spec.name!r} is of kind {spec.kind!r}, which has no head here: it is the decoder's own (training)")


def _check_shared(task: str, owner: str, owners: dict[str, str], tasks: dict[str, TaskSpec]) -> None:
    if owner not in tasks or owners[owner] != owner:
        raise ValueError(f"task {task!r} is to use the head of {owner!r}, which has none of its own; tasks: {', '.join(tasks)}")
    spec, owner_spec = tasks[task], tasks[owner]
    if (spec.kind, spec.labels) != (owner_spec.kind, owner_spec.labels):
        raise ValueError(
            f"tasks {task!r} and {owner!r} cannot share a head: {spec.kind} {spec.labels}, {owner_spec.kind} {owner_spec.labels}"
        )


def _key(task: str) -> str:
    """A name that `ModuleDict` takes: without dots, and no attribute of its own, such as `keys` or `type`."""
    return "task:" + task.replace(".", ":")


def _new_linear(hidden_size: int, outputs: int) -> nn.Linear:
    """As BERT starts its new heads: small weights, and a bias of zero."""
    layer = nn.Linear(hidden_size, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
