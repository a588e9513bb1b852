"""Load a base with the head that a task needs: the two committed small bases, a local folder, or a Hub name."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from adapters.virtual.virtual_tokens import positions_taken
from loralib.four_bit.load4bit import load_4bit
from loralib.four_bit.qlora import QuantReport, quantize_model
from loralib.injection.matching import new_heads
from training.data.labels import config_names, match_head, new_output_layer, other_labels
from training.data.tasks import TaskSpec
from training.models.precision import dtype_of, hold_heads_in_float32

HERE = Path(__file__).parent / "base_models"
SMALL = {"encoder": HERE / "encoder", "decoder": HERE / "decoder"}
AUTO: dict[str, Any] = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "multilabel": AutoModelForSequenceClassification,
    "tagging": AutoModelForTokenClassification,
    "qa": AutoModelForQuestionAnswering,
    "generation": AutoModelForCausalLM,
    "text": AutoModelForCausalLM,
    "backbone": AutoModel,
}
BACKBONE = TaskSpec("backbone", "backbone", (), "")
PEFT_TASK_TYPE = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "multilabel": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "qa": "QUESTION_ANS",
    "generation": "CAUSAL_LM",
    "text": "CAUSAL_LM",
}


@dataclass(frozen=True)
class Source:
    """Where a base comes from. `seed` fixes its new head; `random_weights` keeps the shape and drops the pretraining;
    `four_bit` puts its linear layers into NF4; `dtype` is that of its weights (fp32, bf16, fp16 or auto), new heads are float32;
    `attention` is transformers' implementation, None its default."""

    name: str
    seed: int = 0
    random_weights: bool = False
    four_bit: bool = False
    dtype: str = "fp32"
    attention: str | None = None


@dataclass(frozen=True)
class Base:
    model: PreTrainedModel
    tokenizer: Any
    new_modules: tuple[str, ...]
    """paths of the modules that the checkpoint lacked: they start random, so they must be trained and saved"""
    source: Source
    quantised: QuantReport | None = None
    """of a `four_bit` source: what was put into 4 bits, and the errors"""


def default_model(spec: TaskSpec) -> str:
    return "decoder" if spec.is_language_modelling else "encoder"


def window(model: PreTrainedModel, tokenizer: Any) -> int:
    """How many tokens fit: what tokenizer and position table allow, without those that a prefix or prompt takes.

    RoBERTa's table begins behind its padding index.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1  # pyright: ignore
    return min(tokenizer.model_max_length, positions if positions > 0 else 10**9) - positions_taken(model)


def load_base(
    spec: TaskSpec,
    name: str | Source | None = None,
    seed: int = 0,
    random_weights: bool = False,
    tokenizer: str | None = None,
    four_bit: bool = False,
) -> Base:
    """Model and tokenizer for a task. `name` may be a Source, which brings its own seed and `random_weights`.

    `tokenizer` is a folder that replaces the model's own. ValueError where there is no such model, or no tokenizer.
    """
    source = name if isinstance(name, Source) else Source(name or default_model(spec), seed, random_weights, four_bit)
    config, tok = _config_and_tokenizer(spec, source, tokenizer)
    names = config_names(AutoConfig.from_pretrained(where_is(source)))
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(source.seed)
        if source.four_bit:
            model, missing, quantised = _in_4bit(spec, source, config, names)
        else:
            model, missing, quantised = *_model(spec, source, config, names), None
    if spec.is_language_modelling:
        _refuse_readers_of_the_future(model.eval(), source.name)
        if missing:  # here the head is no new one: it must write words from the start
            raise ValueError(f"model {source.name!r} lacks {missing[:2]} of {type(model).__name__}: its words would be random")
        if tok.eos_token_id is None:
            raise ValueError(f"the tokenizer of {source.name!r} has no end-of-text token: answers could not end. Set eos_token")
    new = _modules_of(missing, model)
    if dtype_of(source.dtype, config) != torch.float32 and not spec.is_language_modelling:
        hold_heads_in_float32(model, sorted({*new, *new_heads(model)}))
    return Base(model, tok, new, source, quantised)


def load_backbone(source: Source, layers: int | None = None) -> tuple[PreTrainedModel, Any]:
    """A model without any head, and its tokenizer; `layers` keeps the first so many. An encoder-decoder gives its encoder.

    BERT's pooler is taken off: it is no part of the last hidden states. ValueError where there is no such model.
    """
    config, tok = _config_and_tokenizer(BACKBONE, source, None)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"layers={layers}: model {source.name!r} has {config.num_hidden_layers}, expected 1 or more of them")
        config.num_hidden_layers = layers
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(source.seed)
        model, _ = _model(BACKBONE, source, config, [])
    if config.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # pyright: ignore[reportArgumentType]
    return model, tok


def _config_and_tokenizer(spec: TaskSpec, source: Source, tokenizer: str | None):
    where = where_is(source)
    settings: dict[str, Any] = {}
    if spec.kind in ("classification", "tagging", "regression", "multilabel"):
        labels = dict(enumerate(spec.labels))
        settings = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    if spec.kind in ("regression", "multilabel"):
        settings["problem_type"] = {"regression": "regression", "multilabel": "multi_label_classification"}[spec.kind]
    try:
        tok = AutoTokenizer.from_pretrained(tokenizer or where)
        if source.attention is not None:
            settings["attn_implementation"] = source.attention
        config = AutoConfig.from_pretrained(where, **settings)
    except Exception as error:  # a damaged file raises anything: AttributeError, the tokenizer's bare Exception
        raise ValueError(f"model {source.name!r} cannot be loaded: {_first_line(error)}") from error
    if len(tok.get_vocab()) <= len(tok.all_special_ids):  # transformers makes such a one where there are no files
        raise ValueError(f"model {source.name!r} cannot be loaded: no tokenizer files in its folder (tokenizer.json or the like)")
    if tok.pad_token is None:  # Llama, GPT-2: pad with the end of text, and let the model know
        tok.pad_token = tok.eos_token
    config.pad_token_id = tok.pad_token_id  # a classifier on a decoder finds a row's last token by it
    return config, tok


def where_is(source: Source) -> str:
    """The folder or Hub name of a source."""
    return str(SMALL.get(source.name, source.name))


def _model(spec: TaskSpec, source: Source, config, names: list[str]) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the parameters that its checkpoint lacked. `names`: what its own config calls the labels."""
    auto = AUTO[spec.kind]
    where = where_is(source)
    if (Path(where) / "compressed.json").exists():
        raise ValueError(f"model {source.name!r} is a compressed student, and cannot be trained: take the run before it")
    if _is_packed(config) and not source.random_weights:
        raise ValueError(f"model {source.name!r} lies in 4 bits: train on it with --method qlora, or give the float model")
    try:
        if source.random_weights:
            return auto.from_config(config, dtype=dtype_of(source.dtype, config)), []
        dtype = dtype_of(source.dtype, config)
        options = {"output_loading_info": True, "dtype": dtype, "ignore_mismatched_sizes": True}
        model, info = auto.from_pretrained(where, config=config, **options)
    except Exception as error:  # as above
        raise ValueError(f"model {source.name!r} cannot be loaded for {spec.kind}: {_first_line(error)}") from error
    for p in (*model.parameters(), *model.buffers()):
        p.data = p.data.clone()  # a file puts weights at odd addresses, and the last bit of a matmul depends on them
    _refuse_other_layers(model, info["unexpected_keys"], source.name)
    missing = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]  # such as a head for other labels
    _refuse_holes(model, missing, source.name)
    broken = [name for name, p in model.named_parameters() if p.is_floating_point() and not p.isfinite().all()]
    if broken:
        raise ValueError(f"model {source.name!r}: {len(broken)} of its weights are not finite, e.g. {broken[:2]}: it is damaged")
    return model, missing or _head_for_other_labels(model, names, spec, source.name)


def _head_for_other_labels(model: PreTrainedModel, names: list[str], spec: TaskSpec, name: str) -> list[str]:
    """A loaded head comes into the task's order; one for other labels starts anew. The names of its parameters, then."""
    if match_head(model, names, spec, name):
        return []
    warnings.warn(f"{other_labels(name, names, spec)}: a new head is made", stacklevel=4)
    return new_output_layer(model, len(spec.labels), name)


def _in_4bit(spec: TaskSpec, source: Source, config, names: list[str]) -> tuple[PreTrainedModel, list[str], QuantReport]:
    """The same in 4 bits: tensor by tensor where the files allow it, else loaded whole and then quantised."""
    where, packed = Path(where_is(source)), _is_packed(config)
    if (spec.is_language_modelling or packed) and where.is_dir() and not source.random_weights:  # a new head is in no file
        try:
            dtype = dtype_of(source.dtype, config)
            options = {"config": config, "dtype": dtype, "compute_dtype": dtype}
            model, report = load_4bit(where, AUTO[spec.kind], **options)
            heads = tuple(f"{path}." for path in report.new_heads)
            new = [name for name, _ in model.named_parameters() if name.startswith(heads)]
            if not new and not match_head(model, names, spec, source.name):  # pyright: ignore[reportArgumentType]
                raise ValueError(
                    f"model {other_labels(source.name, names, spec)}, and its head lies in 4 bits: give the float model"
                )
            return model, new, report  # pyright: ignore[reportReturnType]
        except ValueError as reason:
            if packed:
                raise
            warnings.warn(f"{reason}. Loaded whole instead, which needs the memory of all its weights", stacklevel=2)
    model, missing = _model(spec, source, config, names)
    return model, missing, quantize_model(model, exclude_heads=list(_modules_of(missing, model)))


def _is_packed(config) -> bool:
    """Whether the files hold quantised weights."""
    return bool(getattr(config, "quantization_config", None))


def _refuse_holes(model: PreTrainedModel, missing: list[str], name: str) -> None:
    """A new head may be missing, and a pooler. What else is missing would stay random inside a base that is called pretrained."""
    whole = model.base_model is model  # a backbone, or T5 for questions: its parts and its head stand side by side
    heads = tuple(f"{name}." for name, child in model.named_children() if isinstance(child, nn.Linear))
    inside = (k for k in missing if not k.startswith(heads)) if whole else (k for k in missing if k.startswith(_base(model)))
    holes = [k for k in inside if "pooler" not in k]
    if holes:
        raise ValueError(
            f"model {name!r} does not fit {type(model).__name__}: {len(holes)} of its weights are absent or of another shape, "
            f"e.g. {holes[:2]}. They would stay random"
        )


def _base(model: PreTrainedModel) -> str:
    return f"{model.base_model_prefix}."


def _refuse_other_layers(model: PreTrainedModel, unexpected: Iterable[str], name: str) -> None:
    """A layer with more tensors than ours has (scales, codes) is stored in another way; its weight alone means something else."""
    plain = {path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding | Conv1D)}
    strange = [key for key in unexpected if key.rpartition(".")[0] in plain]
    if strange:
        raise ValueError(
            f"model {name!r} holds layers that are no plain ones: {len(strange)} tensors such as {strange[0]!r} are beside their "
            "weights. Is it quantised? A student in int8 or NF4 answers through `distill.student.student_files.load_student`"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@torch.no_grad()
def _refuse_readers_of_the_future(model: PreTrainedModel, name: str) -> None:
    """BERT loads as a language model too, and then reads the very word it is to predict: its loss would be a lie."""
    mask = torch.ones(1, 3, dtype=torch.long)
    one, other = (model(torch.tensor([[1, 2, last]]), attention_mask=mask).logits for last in (3, 4))
    effect = (one - other).abs().amax(dim=(0, 2))  # of another last word, on each position
    if effect[:2].max() > 1e-5 * effect[2]:  # a decoder: exactly zero
        raise ValueError(
            f"model {name!r} is an encoder: its words see the words after them, so it cannot be trained to continue texts. "
            "Choose a decoder (GPT-2 or Llama type)"
        )


def _modules_of(keys, model: PreTrainedModel) -> tuple[str, ...]:
    """The outermost modules made only of missing parameters (`classifier`, or a pooler that was never trained)."""
    missing = set(keys)
    modules: list[str] = []
    for path, module in model.named_modules():
        names = [f"{path}.{n}" for n, _ in module.named_parameters()]
        if path and names and set(names) <= missing and not any(path.startswith(f + ".") for f in modules):
            modules.append(path)
    return tuple(modules)
