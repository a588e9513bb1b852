"""Which modules an AdapterConfig names. The rules are peft's (suffix list, regular expression, `all-linear`, exclude, layer
numbers), but every name must match something: one wrong name among right ones raises, with the nearest real names."""

import difflib
import re

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from loralib.base_model.class_source import reads_weight_of_child
from loralib.base_model.foreign_layers import refuse_bitsandbytes
from loralib.layers.conversion import LORA_CLASSES
from loralib.layers.heads import SavedModule
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer
from loralib.variants.config import ALL_LINEAR, AdapterConfig
from loralib.variants.names import name_ends_with
from loralib.variants.registry import containers

SUPPORTED = (*LORA_CLASSES, LoraLayer)
BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def match_targets(model: nn.Module, config: AdapterConfig) -> list[str]:
    """Paths of the modules to adapt, in model order. Raises ValueError for a name, pattern or layer that matches nothing."""
    refuse_bitsandbytes(model)
    heads = heads_to_save(model, config.modules_to_save)
    candidates = [n for n in model_paths(model) if not _inside(n, heads)]
    targets = config.target_modules
    if targets == ALL_LINEAR:
        output = output_head(model)
        names = [n for n in candidates if isinstance(model.get_submodule(n), nn.Linear | Conv1D | Linear4bit) and n != output]
        names = [n for n in names if not _goes_past_forward(model, n)]
        if not names:
            raise ValueError(f'target_modules="all-linear" found no Linear or Conv1D in {type(model).__name__}')
    else:
        names = _matching(candidates, targets, "target_modules", model)
    names = _of_layers(names, config)
    if config.exclude_modules is not None:
        out = set(_matching(model_paths(model), config.exclude_modules, "exclude_modules", model))
        names = [n for n in names if n not in out]
        if not names:
            raise ValueError(f"exclude_modules={config.exclude_modules!r} leaves none of the matched modules")
    for name in names:
        _check_kind(model, name)
    return names


def heads_to_save(model: nn.Module, wanted: list[str] | None) -> list[str]:
    """Paths of the modules that are trained and saved whole: those wanted (`modules_to_save`), or for None the new heads."""
    if wanted is None:
        return new_heads(model)
    if not wanted:
        return []
    matches = _matching(model_paths(model), wanted, "modules_to_save", model)
    heads = [n for n in matches if not _inside(n, [other for other in matches if other != n])]  # a part is saved with its whole
    for head in heads:
        _check_head(model, head)
    return heads


def new_heads(model: nn.Module) -> list[str]:
    """Task heads of a transformers model, which start at random: its children with parameters beside the base.

    None for a model that predicts words (`...ForCausalLM`, `...ForMaskedLM`): its head is pretrained. ValueError for a class
    whose name promises labels, where no head is found: it would stay random, and in no file.
    """
    kind = type(model).__name__
    if WORD_MODEL.search(kind) and output_head(model) is not None:
        return []
    heads = _children_beside_the_base(model)
    if not heads and LABEL_MODEL.search(kind) and any(True for _ in model.parameters()):
        raise ValueError(
            f"no head was found in {kind}, whose name promises one: name it in modules_to_save=[...], or give [] to train none"
        )
    return heads


WORD_MODEL = re.compile(r"(LM|LMHead|LMHeadModel|ForConditionalGeneration|ForPreTraining)$")
LABEL_MODEL = re.compile(r"For\w*(Classification|QuestionAnswering|MultipleChoice)$")


def _children_beside_the_base(model: nn.Module) -> list[str]:
    """The base is what `base_model_prefix` names; where it names nothing, the children with stacks of layers or words."""
    base = getattr(model, getattr(model, "base_model_prefix", "") or "-", None)
    if base is model:
        return []
    if isinstance(base, nn.Module):
        bases = [base]
    elif LABEL_MODEL.search(type(model).__name__):
        stacks = [c for c in model.children() if any(isinstance(m, nn.ModuleList | nn.Embedding) for m in c.modules())]
        bases = [*stacks, *(c for c in model.children() if hasattr(c, "base_model_prefix"))]
    else:
        return []
    shared, output = {id(p) for base in bases for p in base.parameters()}, output_head(model)
    return [
        name
        for name, child in model.named_children()
        if not any(child is base for base in bases)
        and any(True for _ in child.parameters())
        and not (output or "").startswith(name)
        and not any(id(p) in shared for p in child.parameters())
    ]


def output_head(model: nn.Module) -> str | None:
    """Path of the word-prediction head (`lm_head`), where the model says that it has one."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    return next((n for n, m in model.named_modules() if m is head), None) if head is not None else None


def _matching(paths: list[str], wanted: list[str] | str, setting: str, model: nn.Module) -> list[str]:
    if isinstance(wanted, str):
        matches = [p for p in paths if re.fullmatch(wanted, p)]
        if not matches:
            raise ValueError(f"{setting}={wanted!r} (a regular expression, matched in full) {_nothing(wanted, paths, model)}")
        return matches
    for name in wanted:
        if not any(name_ends_with(p, name) for p in paths):
            raise ValueError(f"{setting}={wanted}: {name!r} {_nothing(name, paths, model)}")
    return [p for p in paths if any(name_ends_with(p, name) for name in wanted)]


def _nothing(name: str, paths: list[str], model: nn.Module) -> str:
    usable = [p for p in paths if isinstance(model.get_submodule(p), SUPPORTED)]
    ends = sorted({p.rsplit(".", 1)[-1] for p in usable} | set(usable))
    near = difflib.get_close_matches(name, ends, n=3, cutoff=0.4) or sorted({p.rsplit(".", 1)[-1] for p in usable})[:8]
    return f"matches none of {len(usable)} adaptable layers; nearest: {', '.join(near) or 'none'}"


def _of_layers(names: list[str], config: AdapterConfig) -> list[str]:
    if config.layers_to_transform is None:
        if config.layers_pattern:
            raise ValueError(f"layers_pattern={config.layers_pattern!r} picks nothing without layers_to_transform")
        return names
    given = config.layers_to_transform
    wanted = [given] if isinstance(given, int) else list(given)
    if not wanted:
        raise ValueError("layers_to_transform is empty, so nothing would be adapted; None means all layers")
    patterns = config.layers_pattern or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = {n: _layer_number(n, patterns) for n in names}
    there = sorted({i for i in numbers.values() if i is not None})
    absent = sorted(set(wanted) - set(there))
    if absent:
        raise ValueError(f"layers_to_transform={wanted}: no matched module in layers {absent}; there are layers {there}")
    return [n for n in names if numbers[n] in wanted]


def _layer_number(path: str, patterns: list[str]) -> int | None:
    for pattern in patterns:
        match = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path)  # the first number: an expert's own number comes later
        if match:
            return int(match.group(1))
    return None


def _check_kind(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    if _goes_past_forward(model, name):
        parent = type(model.get_submodule(name.rpartition(".")[0])).__name__
        raise ValueError(f"{name} lies in {parent}, which reads its weight past forward(): LoRA there would be a no-op")
    if not isinstance(module, LoraLayer) and type(module) not in LORA_CLASSES:
        kinds, package = ", ".join(c.__name__ for c in LORA_CLASSES), type(module).__module__.partition(".")[0]
        raise ValueError(
            f"{name} is a {type(module).__name__} of {package}; LoRA here adapts {kinds}. Name the layers inside it instead, "
            f"or leave it out (exclude_modules=[{name.rpartition('.')[2]!r}])"
        )
    if "weight" not in module._parameters or getattr(module, "max_norm", None) is not None:
        raise ValueError(
            f"{name} recomputes its weight (weight_norm, spectral_norm, max_norm): an update to it could not be merged"
        )


def _goes_past_forward(model: nn.Module, name: str) -> bool:
    module, parent = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
    if reads_weight_of_child(parent, name.rpartition(".")[2]):
        return True
    mamba = "Mamba" in type(parent).__name__ and name.rpartition(".")[2] in ("dt_proj", "out_proj")
    return mamba or isinstance(parent, BYPASSING) or isinstance(module, NonDynamicallyQuantizableLinear)


def _check_head(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"modules_to_save: {path} is a {type(module).__name__}, which has no forward: name the modules in it")
    plain = module.original if isinstance(module, SavedModule) else module
    if any(isinstance(m, LoraLayer) for m in plain.modules()):
        raise ValueError(f"modules_to_save: {path} holds LoRA layers of another adapter; train it one way or the other")
    if any(isinstance(m, Linear4bit) for m in plain.modules()):
        raise ValueError(f"modules_to_save: {path} has 4-bit weights, which cannot train: put it into skip of quantize_model")
    others = [n for n, m in model.named_modules(remove_duplicate=False) if m is module and n != path]
    if others:
        raise ValueError(f"modules_to_save: {path} is also {others}: one copy could not stand in both places")


def model_paths(model: nn.Module) -> list[str]:
    """Paths of the model's own modules: without the insides of saved heads and LoRA's containers."""
    hidden = [n for n, m in model.named_modules() if isinstance(m, SavedModule)]
    paths, hidden_names = [], set(containers())
    for path, _ in model.named_modules():
        owner = model.get_submodule(path.rpartition(".")[0])
        container = isinstance(owner, LoraLayer) and path.rpartition(".")[2] in hidden_names
        if path and not container and not any(path.startswith(h + ".") for h in hidden):
            paths.append(path)
    return paths


def _inside(path: str, heads: list[str]) -> bool:
    return any(path == head or path.startswith(head + ".") for head in heads)
