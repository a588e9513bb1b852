"""Where whole units can be cut out of a transformer: attention heads, and the inner units of the feed-forward part.

A unit is one number or a few neighbours between two linear layers: rows of the layers that make it, columns of the layer that
reads it. Cutting the same units from both leaves smaller matrices and no hole:

    x ─▶ ins (rows of the unit) ─▶ [unit 0 | unit 1 | ...] ─▶ out (columns of the unit)

Found by structure, as in `places.py` of adapters: BERT's kind, DistilBERT, GPT-2, Llama's kind. Heads that share keys (grouped
queries) are one unit: they go together. T5 is left out, since its position bias has a number for each head.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters.bottleneck.places import transformer_blocks
from distill.compression.fake_quant import FAKE
from distill.compression.int8 import Int8Linear

KINDS = ("heads", "ffn")
CUTTABLE = (*FAKE, *FAKE.values())


@dataclass(frozen=True)
class Part:
    """The share of one linear layer that belongs to a unit: `width` neighbours, in each of `sections` equal sections."""

    path: str
    width: int = 1
    sections: int = 1

    def index(self, remaining: list[int], units: int) -> Tensor:
        """Rows (or columns) of the kept units, of `units` that are there."""
        starts = torch.arange(self.sections)[:, None] * units + torch.tensor(remaining)[None]
        return (starts.reshape(-1, 1) * self.width + torch.arange(self.width)).flatten()


@dataclass(frozen=True)
class Site:
    """The heads of one attention, or the inner units of one feed-forward part."""

    path: str
    kind: str
    units: int
    ins: tuple[Part, ...]
    out: Part
    counts: tuple[tuple[str, int], ...] = ()
    """attributes of the module at `path` that hold a size, and how much of it one unit is"""


def find_sites(model: nn.Module, kind: str) -> list[Site]:
    """The sites of a kind ("heads" or "ffn") in every layer. ValueError for a layer whose structure is not known here."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    sites = {path: _site(model, path, kind, CUTTABLE) for path, _ in transformer_blocks(model)}
    unknown = [path for path, site in sites.items() if site is None]
    if unknown or not sites:
        where = f"layer {unknown[0]} ({type(model.get_submodule(unknown[0])).__name__})" if unknown else "it"
        raise ValueError(
            f"{type(model).__name__}: {where} has no {kind} that can be cut here. Known are BERT's kind, DistilBERT, GPT-2 and "
            "Llama's kind, made of plain nn.Linear or Conv1D (cut before int8 or NF4, and without LoRA)"
        )
    return [site for site in sites.values() if site is not None]


def widths(model: nn.Module) -> dict[str, int]:
    """How many units each site has now; sites that are not known are left out. It is what a file must say besides the weights."""
    paths = [path for path, _ in transformer_blocks(model)]
    sites = [_site(model, path, kind, (*CUTTABLE, Int8Linear)) for kind in KINDS for path in paths]
    return {site.path: site.units for site in sites if site is not None}


def _site(model: nn.Module, block: str, kind: str, layers: tuple[type, ...]) -> Site | None:
    """The site of a kind in one layer, made of linear layers of these types; None where there is no such."""
    module = model.get_submodule(block)
    named = {path: _shape(m) for path, m in module.named_modules() if type(m) in layers}
    site = next(_heads(module, named) if kind == "heads" else _feed_forward(named), None)
    if site is None:
        return None
    full = lambda part: replace(part, path=f"{block}.{part.path}")  # noqa: E731
    return replace(site, path=f"{block}.{site.path}", ins=tuple(map(full, site.ins)), out=full(site.out))


def _heads(block: nn.Module, named: dict[str, tuple[int, int]]) -> Iterator[Site]:
    for where, q, k, v, out, counts in (
        ("attention.self", "query", "key", "value", "attention.output.dense", ("num_attention_heads", "all_head_size")),
        ("attention", "q_lin", "k_lin", "v_lin", "attention.out_lin", ("n_heads",)),
        ("self_attn", "q_proj", "k_proj", "v_proj", "self_attn.o_proj", ("num_heads", "num_key_value_heads")),
    ):
        paths = [f"{where}.{name}" for name in (q, k, v)]
        if {*paths, out} <= set(named):
            attention = block.get_submodule(where)
            width = _head_size(attention)
            units = named[paths[1]][0] // width  # a unit is a key with all its queries
            group = named[paths[0]][0] // named[paths[1]][0]
            sizes = {"num_attention_heads": group, "n_heads": group, "num_heads": group, "num_key_value_heads": 1}
            known = [(name, sizes.get(name, group * width)) for name in counts if hasattr(attention, name)]
            ins = Part(paths[0], group * width), Part(paths[1], width), Part(paths[2], width)
            if _is_plain(attention, {q, k, v, out.rpartition(".")[2]}, width):
                yield Site(where, "heads", units, ins, Part(out, group * width), tuple(known))
    if {"attn.c_attn", "attn.c_proj"} <= set(named) and "attn.q_attn" not in named:
        attention = block.get_submodule("attn")
        width = _head_size(attention)
        units = named["attn.c_proj"][1] // width
        counts = ("num_heads", 1), ("split_size", width)
        yield Site("attn", "heads", units, (Part("attn.c_attn", width, 3),), Part("attn.c_proj", width), counts)


def _feed_forward(named: dict[str, tuple[int, int]]) -> Iterator[Site]:
    for where, ins, out in (
        ("intermediate", ("intermediate.dense",), "output.dense"),
        ("ffn", ("ffn.lin1",), "ffn.lin2"),
        ("mlp", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
        ("mlp", ("mlp.c_fc",), "mlp.c_proj"),
    ):
        if {*ins, out} <= set(named) and all(named[path][0] == named[out][1] for path in ins):
            yield Site(where, "ffn", named[out][1], tuple(map(Part, ins)), Part(out))


def _shape(layer: nn.Module) -> tuple[int, int]:
    """(d_out, d_in)."""
    rows, columns = getattr(layer, "weight").shape  # noqa: B009 (a parameter, or a buffer)
    return (columns, rows) if isinstance(layer, Conv1D) else (rows, columns)


def _head_size(attention: nn.Module) -> int:
    size = getattr(attention, "attention_head_size", None) or getattr(attention, "head_dim", None)
    if not isinstance(size, int):
        raise ValueError(f"{type(attention).__name__} does not say how wide a head is (attention_head_size, head_dim)")
    return size


def _is_plain(attention: nn.Module, layers: set[str], width: int) -> bool:
    """No other parameter in it, such as a norm over all heads, would have to shrink too; one over a single head may stay."""
    others = [p for name, p in attention.named_parameters() if name.split(".")[0] not in layers]
    return all(p.numel() == width for p in others)
