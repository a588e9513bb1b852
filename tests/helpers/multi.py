"""Several tiny tasks of every kind, with encoded rows of unequal lengths, and models for them."""

import random
from types import SimpleNamespace

import tiny
import torch

from multitask.data.data_manager import MultitaskDataManager
from multitask.model.multitask_model import MultitaskModel
from training.data.tasks import TaskSpec

TOKENIZER = SimpleNamespace(pad_token_id=0)
TASKS = {
    "topic": TaskSpec("topic", "classification", ("sentence",), "label", ("a", "b", "c", "d")),
    "glue.stsb": TaskSpec("glue.stsb", "regression", ("sentence",), "label", ("score",), "pearson_spearman"),
    "keys": TaskSpec("keys", "multilabel", ("sentence",), "label", ("x", "y", "z"), "micro_f1"),
    "type": TaskSpec("type", "tagging", ("tokens",), "tags", ("O", "B-PER", "I-PER"), "span_f1"),
    "qa": TaskSpec("qa", "qa", ("context", "question"), "answers", metric="exact_match"),
}


def labels(spec: TaskSpec, length: int, rng: random.Random) -> dict:
    kind = spec.kind
    if kind == "qa":
        start = rng.randrange(length)
        return {"start_positions": start, "end_positions": rng.randrange(start, length)}
    return {
        "labels": {
            "classification": lambda: rng.randrange(len(spec.labels)),
            "regression": lambda: rng.uniform(0, 5),
            "multilabel": lambda: [float(rng.random() < 0.5) for _ in range(3)],
            "tagging": lambda: [-100, *(rng.choice((0, 1, 2, -100)) for _ in range(length - 2)), 1],
        }[kind]()
    }


def features(tasks=TASKS, count: int = 40, seed: int = 0) -> dict[str, list[dict]]:
    """Rows of 3 to 12 tokens; the tasks have `count`, `count` + 5, ... rows."""
    rng, result = random.Random(seed), {}
    for i, (task, spec) in enumerate(tasks.items()):
        result[task] = []
        for _ in range(count + 5 * i):
            n = rng.randint(3, 12)
            row = {"input_ids": [rng.randrange(1, 40) for _ in range(n)], "attention_mask": [1] * n}
            result[task].append(row | labels(spec, n, rng))
    return result


def backbone(family: str = "bert", seed: int = 0):
    result = tiny.FAMILIES[family](seed).base_model
    if family == "t5":
        result = result.get_encoder()
    if getattr(result, "pooler", None) is not None:
        result.pooler = None
    return result


def model(family: str = "bert", tasks=TASKS, dtype=torch.float32, dropout: float = 0.0, **options) -> MultitaskModel:
    """Heads with weights that a test can see."""
    made = MultitaskModel(backbone(family), tasks, dropout, **options)
    generator = torch.Generator().manual_seed(3)
    for p in made.heads.parameters():
        p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return made.to(dtype).eval()


def manager(tasks=TASKS, batch_size: int = 20, count: int = 40, **options) -> MultitaskDataManager:
    return MultitaskDataManager(features(tasks, count), tasks, TOKENIZER, batch_size, **options)
