"""Where adapters go in a transformers model, found by the structure of its layers, not by its name.

A place is a module and a way to change what passes through it:

    output       h → h + A(h)          on a sub-layer's output, before the residual sum (or on a layer's output, after it)
    sum_norm     z → z + A(norm(z))    on the sum that goes into a norm (post-norm models)
    parallel     y → y + A(x)          on a sub-layer's output, from the input x of the module `source`
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

WAYS = ("output", "sum_norm", "parallel")
Rule = dict[str, list[tuple[str, ...]]]
"""placement → (path inside the layer, way, source for parallel)"""


@dataclass(frozen=True)
class Place:
    layer: int
    """number of the layer; of an encoder-decoder first the encoder's"""
    path: str
    way: str
    source: str | None = None
    """module whose input the adapter takes, for way parallel"""


def find_places(model: nn.Module, placement: str) -> list[Place]:
    """Places of a named placement in every layer. ValueError for a model of unknown structure, with what to do."""
    blocks = list(transformer_blocks(model))
    if not blocks:
        classes = sorted({type(m[0]).__name__ for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)})
        raise ValueError(
            f"{type(model).__name__}: its layers ({', '.join(classes) or 'no list of layers'}) have no structure that is known "
            "here (BERT, DistilBERT, GPT-2, Llama, T5 and their kin). Name the places by hand: "
            'BottleneckConfig(places=(("path.of.a.module", "output"), ...))'
        )
    inside = lambda path, name: f"{path}.{name}" if name else path  # noqa: E731
    return [
        Place(i, inside(path, name), way, *(inside(path, other) for other in source))
        for i, (path, rule) in enumerate(blocks)
        for name, way, *source in rule[placement]
    ]


def transformer_blocks(model: nn.Module) -> Iterator[tuple[str, Rule]]:
    """(path, places by placement) of every layer, in the order of the model."""
    for path, module in model.named_modules():
        rule = rule_of(module)
        if rule is not None:
            yield path, rule


def rule_of(block: nn.Module) -> Rule | None:
    """The places inside one layer, relative to it; None where it is no layer of a known kind. "" is the layer itself."""
    has = lambda *names: all(_has(block, name) for name in names)  # noqa: E731
    if has("attention.output.LayerNorm", "attention.output.dropout", "output.LayerNorm", "output.dropout", "intermediate"):
        return {  # BERT, RoBERTa, ELECTRA: norm after the sum
            "houlsby": [("attention.output.dropout", "output"), ("output.dropout", "output")],
            "pfeiffer": [("output.LayerNorm", "sum_norm")],
            "parallel": [("output.dropout", "parallel", "intermediate")],
        }
    if has("attention", "sa_layer_norm", "ffn", "output_layer_norm"):  # DistilBERT: the same, in other words
        return {
            "houlsby": [("attention", "output"), ("ffn", "output")],
            "pfeiffer": [("output_layer_norm", "sum_norm")],
            "parallel": [("ffn", "parallel", "ffn")],
        }
    attention = next((name for name in ("attn", "self_attn") if has(name)), None)
    if attention and has("mlp") and (has("ln_2") or has("post_attention_layernorm")):  # GPT-2, Llama: norm before
        return {
            "houlsby": [(attention, "output"), ("mlp", "output")],
            "pfeiffer": [("", "output")],
            "parallel": [("mlp", "parallel", "mlp")],
        }
    parts = getattr(block, "layer", None)
    if isinstance(parts, nn.ModuleList) and _has(parts[-1], "DenseReluDense") and _has(parts[0], "SelfAttention"):  # T5
        last = f"layer.{len(parts) - 1}"
        return {
            "houlsby": [("layer.0.SelfAttention", "output"), (f"{last}.DenseReluDense", "output")],
            "pfeiffer": [(last, "output")],
            "parallel": [(f"{last}.DenseReluDense", "parallel", f"{last}.DenseReluDense")],
        }
    return None


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
