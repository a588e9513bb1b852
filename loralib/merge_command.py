"""`python -m loralib merge MODEL ADAPTER --out DIR`: write a plain transformers folder with the adapter merged in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
HEADS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")


@dataclass(frozen=True)
class Merge:
    """Merge an adapter into its base model; the result needs no loralib and no peft."""

    model: Annotated[str, tyro.conf.Positional]
    """base model: folder or Hub name"""
    adapter: Annotated[Path, tyro.conf.Positional]
    """adapter folder"""
    out: Path
    """folder to write"""


def merge(settings: Merge) -> None:
    import transformers

    from loralib.adapter_files import read_config, read_tensors
    from loralib.checkpoint import load_adapter
    from loralib.merge_weights import merge_and_unload

    config = read_config(settings.adapter)
    tensors = read_tensors(settings.adapter)
    if config.task_type not in AUTO_CLASSES:
        raise ValueError(f"{settings.adapter} has task_type {config.task_type!r}, expected one of {sorted(AUTO_CLASSES)}")
    tokenizer = settings.adapter if (settings.adapter / "tokenizer_config.json").exists() else settings.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
    if (settings.adapter / "config.json").exists():  # `training` keeps it beside the adapter: label names and all
        options = {"config": transformers.AutoConfig.from_pretrained(settings.adapter)}
    else:
        labels = next((len(tensors[name]) for name in HEADS if name in tensors), None)
        options = {} if labels is None else {"num_labels": labels}
    model_class = getattr(transformers, AUTO_CLASSES[config.task_type])
    model, info = model_class.from_pretrained(settings.model, output_loading_info=True, **options)
    random = sorted(set(info["missing_keys"]) - set(tensors))
    if random:
        raise ValueError(f"neither {settings.model} nor {settings.adapter} holds {random[:3]}: the result would be random there")
    report = load_adapter(model, settings.adapter, trainable=False)
    merge_and_unload(model)
    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    print(f"{report}; merged {type(model).__name__} written to {settings.out}")
