"""Load a base with the head that a task needs: the two committed small bases, a local folder, or a Hub name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from training.tasks import TaskSpec

HERE = Path(__file__).parent / "base_models"
SMALL = {"encoder": HERE / "encoder", "decoder": HERE / "decoder"}
AUTO: dict[str, Any] = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tagging": AutoModelForTokenClassification,
    "qa": AutoModelForQuestionAnswering,
    "generation": AutoModelForCausalLM,
}
PEFT_TASK_TYPE = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "qa": "QUESTION_ANS",
    "generation": "CAUSAL_LM",
}


@dataclass(frozen=True)
class Base:
    model: PreTrainedModel
    tokenizer: Any
    new_modules: tuple[str, ...]
    """paths of the modules that the checkpoint lacked: they start random, so they must be trained and saved"""


def default_model(spec: TaskSpec) -> str:
    return "decoder" if spec.kind == "generation" else "encoder"


def load_base(spec: TaskSpec, name: str | None = None, seed: int = 0, random_weights: bool = False) -> Base:
    """Model and tokenizer for a task. `seed` fixes the new head; `random_weights` keeps the shape and drops the pretraining."""
    name = name or default_model(spec)
    source = str(SMALL.get(name, name))
    tokenizer = AutoTokenizer.from_pretrained(source)
    settings: dict[str, Any] = {}
    if spec.kind in ("classification", "tagging", "regression"):
        labels = dict(enumerate(spec.labels))
        settings = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    if spec.kind == "regression":
        settings["problem_type"] = "regression"
    config = AutoConfig.from_pretrained(source, **settings)
    if tokenizer.pad_token is None:  # Llama, GPT-2: pad with the end of text, and let the model know
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    auto = AUTO[spec.kind]
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        if random_weights:
            return Base(auto.from_config(config), tokenizer, ())
        model, info = auto.from_pretrained(source, config=config, output_loading_info=True, dtype=torch.float32)
    return Base(model, tokenizer, _modules_of(info["missing_keys"], model))


def _modules_of(keys, model: PreTrainedModel) -> tuple[str, ...]:
    """The outermost modules made only of missing parameters (`classifier`, or a pooler that was never trained)."""
    missing = set(keys)
    found: list[str] = []
    for path, module in model.named_modules():
        names = [f"{path}.{n}" for n, _ in module.named_parameters()]
        if path and names and set(names) <= missing and not any(path.startswith(f + ".") for f in found):
            found.append(path)
    return tuple(found)
