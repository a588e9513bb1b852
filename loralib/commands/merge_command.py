"""`python -m loralib merge MODEL ADAPTER --out DIR`: write a plain transformers folder with the adapter merged in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
WITH_LABELS = ("SEQ_CLS", "TOKEN_CLS")


@dataclass(frozen=True)
class Merge:
    """Merge an adapter into its base model; the result needs no loralib and no peft."""

    model: Annotated[str, tyro.conf.Positional]
    """base model: folder or Hub name"""
    adapter: Annotated[Path, tyro.conf.Positional]
    """adapter folder"""
    out: Path
    """folder to write"""
    task_type: Literal["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"] | None = None
    """the kind of model; None: what the adapter names, else the class that the base's config.json names"""


def merge(settings: Merge) -> None:
    import transformers

    from loralib.files.read_adapter import read_config, read_tensors
    from loralib.files.save_and_load import load_adapter
    from loralib.four_bit.merge4bit import decode_all, merge_dequant
    from loralib.injection.merge_weights import merge_and_unload

    task = settings.task_type or read_config(settings.adapter).task_type
    tensors = read_tensors(settings.adapter)
    tokenizer = settings.adapter if (settings.adapter / "tokenizer_config.json").exists() else settings.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
    beside = (settings.adapter / "config.json").exists()  # `training` keeps it beside the adapter: label names and all
    config = transformers.AutoConfig.from_pretrained(settings.adapter if beside else settings.model)
    model_class = _class_of(task, config)
    if task in WITH_LABELS and not beside:
        config.num_labels = count_labels(model_class, config, tensors)
    packed = bool(getattr(config, "quantization_config", None))
    model, missing = (_in_4bit if packed else _in_floats)(settings.model, model_class, config)
    random = sorted(set(missing) - set(tensors))
    if random:
        raise ValueError(f"neither {settings.model} nor {settings.adapter} holds {random[:3]}: the result would be random there")
    report = load_adapter(model, settings.adapter, trainable=False)
    if packed:
        print(f"the base lies in 4 bits; decoded and merged: {str(merge_dequant(model)).splitlines()[-1]}")
        decode_all(model)
    else:
        merge_and_unload(model)
    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    print(f"{report}; merged {type(model).__name__} written to {settings.out}")


def _in_floats(folder: str, model_class: Any, config: Any) -> tuple[Any, list[str]]:
    """The model, and the names of its parameters that the folder lacks."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True, config=config)
    return model, sorted(info["missing_keys"])


def _in_4bit(folder: str, model_class: Any, config: Any) -> tuple[Any, list[str]]:
    from loralib.four_bit.load4bit import load_4bit

    model, report = load_4bit(folder, model_class, config=config)
    heads = {f"{path}." for path in report.new_heads}
    return model, [name for name, _ in model.named_parameters() if name.startswith(tuple(heads))]


def _class_of(task: str | None, config: Any) -> Any:
    """The transformers class of the merged model. ValueError where neither the task nor the config of the base says it."""
    import transformers

    if task in AUTO_CLASSES:
        return getattr(transformers, AUTO_CLASSES[task])
    named = str((config.architectures or [None])[0])
    if task is not None or not hasattr(transformers, named):
        raise ValueError(
            f"task_type {task!r} of the adapter and architecture {named!r} of the base name no model class; give --task-type, "
            f"one of {', '.join(AUTO_CLASSES)}"
        )
    return getattr(transformers, named)


def count_labels(model_class: Any, config: Any, tensors: dict[str, Any]) -> int:
    """For how many labels the head in the file was made: the number with which this class has a head of these shapes."""
    import torch

    from loralib.files.file_tensors import is_factor

    heads = {key: tensor.shape for key, tensor in tensors.items() if not is_factor(key)}
    for labels in sorted({shape[0] for shape in heads.values() if len(shape) > 0} | {config.num_labels}):
        config.num_labels = labels
        with torch.device("meta"):
            model = model_class.from_config(config)
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        if all(shapes.get(key) == shape for key, shape in heads.items()):
            return labels
    raise ValueError(
        f"no number of labels gives {model_class.__name__} a head with these tensors: {dict(list(heads.items())[:4])}"
    )
