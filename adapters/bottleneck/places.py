"""Where adapters go in a transformers model, found by the structure of its layers, not by its name.

A place is a module and a way to change what passes through it:

    output       h → h + A(h)          on a sub-layer's output, before the residual sum (or on a layer's output, after it)
    sum_norm     z → z + A(norm(z))    on the sum that goes into a norm (post-norm models)
    parallel     y → y + A(x)          on a sub-layer's output, from the input x of the module `source`
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

WAYS = ("output", "sum_norm", "parallel")


@dataclass(frozen=True)
class Block:
    """The parts of one transformer layer, as paths inside it; "" is the layer itself."""

    attention: str
    """whose output is the attention's, before the residual sum"""
    feed_forward: str
    """whose output is the feed-forward part's, before the residual sum"""
    feed_forward_input: str
    """whose input is that of the feed-forward part"""
    end: tuple[str, str]
    """the module at the layer's end, and the way to change what passes: output, or sum_norm before the last norm"""


Rule = list[tuple[str, ...]]
"""(path inside the layer, way, source for parallel) of each insertion point"""
PLACEMENTS: dict[str, Callable[[Block], Rule]] = {
    "pfeiffer": lambda block: [block.end],
    "houlsby": lambda block: [(block.attention, "output"), (block.feed_forward, "output")],
    "parallel": lambda block: [(block.feed_forward, "parallel", block.feed_forward_input)],
}
"""A new placement is one entry."""


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
        for i, (path, block) in enumerate(blocks)
        for name, way, *source in PLACEMENTS[placement](block)
    ]


def transformer_blocks(model: nn.Module) -> Iterator[tuple[str, Block]]:
    """(path, parts) of every layer, in the order of the model."""
    for path, module in model.named_modules():
        parts = parts_of(module)
        if parts is not None:
            yield path, parts


def parts_of(block: nn.Module) -> Block | None:
    """The parts of one layer; None where it is no layer of a known kind."""
    has = lambda *names: all(_has(block, name) for name in names)  # noqa: E731
    if has("attention.output.LayerNorm", "attention.output.dropout", "output.LayerNorm", "output.dropout", "intermediate"):
        # BERT, RoBERTa, ELECTRA: norm after the sum
        return Block("attention.output.dropout", "output.dropout", "intermediate", ("output.LayerNorm", "sum_norm"))
    if has("attention", "sa_layer_norm", "ffn", "output_layer_norm"):  # DistilBERT: the same structure, other names
        return Block("attention", "ffn", "ffn", ("output_layer_norm", "sum_norm"))
    attention = next((name for name in ("attn", "self_attn") if has(name)), None)
    if attention and has("mlp") and (has("ln_2") or has("post_attention_layernorm")):  # GPT-2, Llama: norm before
        return Block(attention, "mlp", "mlp", ("", "output"))
    parts = getattr(block, "layer", None)
    if isinstance(parts, nn.ModuleList) and _has(parts[-1], "DenseReluDense") and _has(parts[0], "SelfAttention"):  # T5
        last = f"layer.{len(parts) - 1}"
        return Block("layer.0.SelfAttention", f"{last}.DenseReluDense", f"{last}.DenseReluDense", (last, "output"))
    return None


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
