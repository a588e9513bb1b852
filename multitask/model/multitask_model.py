"""One backbone for all tasks, a head for each: hard parameter sharing (Caruana 1997).

    batch {input_ids, attention_mask, task_ids, labels of each task}  ─▶  backbone, once for all rows  ─▶  each row's head

The task of every row is in the batch: nothing is remembered between calls, and a row without a known task is an error.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from adapters.bottleneck.attachment import model_width
from multitask.data.mixed_batches import MixedBatch, labels_of, tasks_in
from multitask.data.task_specs import check_tasks
from multitask.model.task_adapters import TaskAdapterConfig, TaskAdapters
from multitask.model.task_embeddings import TaskEmbeddings
from multitask.model.task_heads import Answer, TaskHeads
from training.data.tasks import TaskSpec
from training.evaluation import metrics
from training.evaluation.evaluation import HeldOut, answering, evaluate
from training.loop.processes import make_accelerator

ELSEWHERE = {
    "set_current_task": "nothing is remembered between calls. Give task_name= to each call, or take model.for_task(name)",
    "current_task": "nothing is remembered between calls. Give task_name= to each call, or take model.for_task(name)",
    "task_heads": "the heads are model.heads, and one of them is model.heads[name]",
}
"""names of other multitask code, and what takes their place"""
LABELS = ("labels", "start_positions", "end_positions")
Scores = Callable[[str, HeldOut, list], dict[str, float]]
"""compute_metrics_fn: task, held-out examples and the guesses for them ─▶ numbers by name"""


class MultitaskModel(nn.Module):
    """A backbone of transformers without a head (`training.models.base_models.load_backbone`), and a head for each task.

    pooling: None takes the mean of an encoder's tokens, and the last token of a decoder. task_embedding: None, input or
    layer_norm (`task_embeddings.py`). task_adapters: freeze the backbone, and give each task a LoRA or a bottleneck of its own.
    dropout_rate: of the heads, one for all or {task: probability}. `summary()` lists what the model consists of.
    TypeError for a config in place of backbone and tasks, ValueError without a task.
    """

    def __init__(
        self,
        backbone: Any,
        tasks: dict[str, TaskSpec] | None = None,
        dropout_rate: float | dict[str, float] = 0.1,
        pooling: str | None = None,
        shared_heads: dict[str, str] | None = None,
        task_embedding: str | None = None,
        task_adapters: TaskAdapterConfig | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(
                f"MultitaskModel(backbone, tasks): expected a model and {{name: TaskSpec}}, found {type(backbone).__name__}. "
                "Load the backbone: `backbone, tokenizer = load_backbone(Source('roberta-base'))` (training.models.base_models)"
            )
        if not tasks and (tasks is None or isinstance(tasks, dict)):
            raise ValueError("a multitask model needs at least one task: MultitaskModel(backbone, {'sst2': find_task('sst2')})")
        check_tasks(tasks, "MultitaskModel(backbone, tasks)")
        assert tasks is not None
        self.backbone: Any = backbone
        self.tasks, self.names = dict(tasks), list(tasks)
        pooling = pooling or ("mean" if sees_the_future(backbone) else "last")
        self.made_with = {
            "dropout_rate": dropout_rate,
            "pooling": pooling,
            "shared_heads": shared_heads or {},
            "task_embedding": task_embedding,
        }
        self._accepted = frozenset(inspect.signature(backbone.forward).parameters)
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            self.heads = TaskHeads(model_width(backbone), tasks, dropout_rate, pooling, shared_heads)
        self.embeddings = TaskEmbeddings(backbone, len(tasks), task_embedding) if task_embedding else None
        self.adapters = TaskAdapters(backbone, self.names, task_adapters, seed) if task_adapters else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        task_name: str,
        **labels: Tensor,
    ) -> Answer:
        """The answer to one task for all rows (B, T); with `labels` (questions: start_positions, end_positions) its mean loss."""
        wrong = sorted(set(labels) - set(LABELS))
        if wrong:
            raise TypeError(f"{wrong}: expected input_ids, attention_mask, token_type_ids, task_name and {', '.join(LABELS)}")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids = torch.full((len(input_ids),), self.number(task_name), device=input_ids.device)
        states = self.states(input_ids, mask, token_type_ids, ids)
        answer = self.heads(states, task_name, mask)
        answer.task_name, answer.hidden_states = task_name, states
        if labels:
            answer.loss = self._mean_loss(task_name, answer, labels | {"input_ids": input_ids, "attention_mask": mask})
        return answer

    def forward_mixed(self, batch: MixedBatch) -> dict[str, tuple[Answer, dict[str, Tensor]]]:
        """{task: (answer, its rows' labels, input ids and mask)} of a batch of many tasks, in one pass of the backbone."""
        if "task_ids" not in batch:
            raise ValueError("the batch does not say which task each row is for: it has no task_ids")
        mask, ids = batch["attention_mask"], batch["task_ids"]
        if ids.min() < 0 or ids.max() >= len(self.names):
            raise ValueError(f"task_ids {ids.tolist()}: expected 0 to {len(self.names) - 1} ({', '.join(self.names)})")
        states = self.states(batch["input_ids"], mask, batch.get("token_type_ids"), ids)
        answers = {}
        for k in tasks_in(batch):
            of_task = ids == k
            rows = labels_of(batch, k) | {"input_ids": batch["input_ids"][of_task], "attention_mask": mask[of_task]}
            answers[self.names[k]] = self.heads(states[of_task], self.names[k], mask[of_task]), rows
        return answers

    def states(self, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None, task_ids: Tensor) -> Tensor:
        """The backbone's last hidden states (B, T, d)."""
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None and "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = token_type_ids
        if self.embeddings is not None:
            self.embeddings.choose(task_ids)
        with self.adapters.acting(task_ids.tolist()) if self.adapters else nullcontext():
            return self.backbone(**inputs).last_hidden_state

    def summary(self) -> str:
        """The parameters of the backbone (with its task adapters), of each head and in all, as text."""
        counts = {"backbone": sum(p.numel() for p in self.backbone.parameters())}
        counts |= {f"head of {task}": sum(p.numel() for p in self.heads[task].parameters()) for task in self._head_owners()}
        if self.embeddings is not None:
            counts["task embeddings"] = sum(p.numel() for p in self.embeddings.parameters())
        counts["all"] = sum(p.numel() for p in self.parameters())
        width = max(map(len, [*counts, "parameters of"]))
        lines = [f"{name:<{width}}  {count:>13,}" for name, count in counts.items()]
        return "\n".join([f"{'parameters of':<{width}}", *lines, f"tasks: {', '.join(self.names)}"])

    def _head_owners(self) -> list[str]:
        return [task for task in self.names if self.heads.owner[task] == task]

    def __getattr__(self, name: str) -> Any:
        """As for every module; names that people know from elsewhere come with the way to do it here."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name in ELSEWHERE:
                raise AttributeError(f"MultitaskModel has no {name}: {ELSEWHERE[name]}") from None
            raise error

    def number(self, task_name: str) -> int:
        """The place of a task in `task_ids`. KeyError for one that the model does not have."""
        if task_name not in self.tasks:
            raise KeyError(f"no task {task_name!r}; there are {', '.join(self.names)}")
        return self.names.index(task_name)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """What trains and is used by more than one task: the backbone, and a head that tasks share."""
        own = {id(p) for p in self._own()}
        return {n: p for n, p in self.named_parameters() if p.requires_grad and id(p) not in own}

    def without_gradient(self, present: set[str]) -> set[str]:
        """Names of the parameters that get no gradient from a step with these tasks alone."""
        owners = {self.heads.owner[task] for task in present}
        heads = [self.heads[task] for task in self.names if self.heads.owner[task] not in owners]
        ids = {id(p) for head in heads for p in head.parameters()}
        if self.adapters is not None:
            ids |= {i for i, k in self.adapters.task_of().items() if self.names[k] not in present}
        return {n for n, p in self.named_parameters() if id(p) in ids}

    def for_task(self, task_name: str) -> "OneTask":
        """The model as a model of one task: takes inputs, gives its answer."""
        return OneTask(self, task_name)

    def evaluate_task(
        self,
        task_name: str,
        held_out: HeldOut,
        tokenizer: Any,
        accelerator: Accelerator | None = None,
        compute_metrics_fn: Scores | None = None,
    ) -> dict[str, float]:
        """{eval_loss, and the task's own scores}: each row, or labelled token, counts once. The mode of training stays."""
        scores = None if compute_metrics_fn is None else lambda rows, guesses: compute_metrics_fn(task_name, rows, guesses)
        return evaluate(self.for_task(task_name), held_out, tokenizer, accelerator or make_accelerator(), scores=scores)

    def evaluate_all_tasks(self, held_out: dict[str, HeldOut], tokenizer: Any, **options: Any) -> dict[str, dict[str, float]]:
        """`evaluate_task` for each. No mean over tasks: their scores are of different kinds (`comparison.delta_m` compares)."""
        return {task: self.evaluate_task(task, rows, tokenizer, **options) for task, rows in held_out.items()}

    def _own(self) -> list[nn.Parameter]:
        owners = list(self.heads.owner.values())
        parameters = [p for task in self.names if owners.count(task) == 1 for p in self.heads[task].parameters()]
        parameters += list(self.embeddings.parameters()) if self.embeddings is not None else []
        own = self.adapters.task_of() if self.adapters is not None else {}
        return parameters + [p for p in self.backbone.parameters() if id(p) in own]

    def _mean_loss(self, task: str, answer: Answer, batch: dict[str, Tensor]) -> Tensor:
        """Sum over count; 0 where no answer has a label."""
        kind = self.tasks[task].kind
        return metrics.loss_sum(kind, answer, batch) / max(metrics.answer_count(kind, batch), 1)


def sees_the_future(backbone: Any) -> bool:
    """Whether the first token's state depends on the last token: an encoder's does, a decoder's does not."""
    device = next(backbone.parameters()).device
    with answering(backbone):
        one, other = (backbone(input_ids=torch.tensor([[1, 2, last]], device=device)).last_hidden_state[0, 0] for last in (3, 4))
    return not torch.equal(one, other)


class OneTask(nn.Module):
    """A view of a MultitaskModel that always answers one task."""

    def __init__(self, model: MultitaskModel, task_name: str):
        super().__init__()
        model.number(task_name)
        self.model, self.task_name = model, task_name

    def forward(self, **inputs: Tensor) -> Answer:
        return self.model(**inputs, task_name=self.task_name)
