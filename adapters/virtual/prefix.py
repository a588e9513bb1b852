"""Prefix tuning: learned keys and values before those of the text, in every attention of a frozen model (Li & Liang 2021).

    attention_l([P_k^l; K^l], [P_v^l; V^l])   P_k, P_v (H_kv, P, d_head) for each of n attentions: 2n · P · H_kv · d_head numbers

All of them are one table of P rows; row p holds attention 0's key and value, then attention 1's, and so on: peft's order. With
`prefix_projection` the rows come from a small network, E → Linear → tanh → Linear, which steadies the training of long prefixes
(section 4.3 of the paper); it runs once a forward pass, not once a row of the batch, and `eject` writes its result down.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

STARTS = ("sample_vocab", "text", "random", "zero")


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig:
    """peft's names, with two more starts."""

    num_virtual_tokens: int = 20
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    """width of the projection's hidden layer; None is the model's width"""
    init_weights: str | None = None
    """sample_vocab: keys and values that the model itself makes of random words; text: of `init_text`. random: normal, as in
    peft. zero: not the untouched model, for a zero key takes its share of the softmax. None: sample_vocab, with projection
    random"""
    init_text: str | None = None
    keep_positions: bool | None = None
    """whether real tokens keep the positions that they have without a prefix; otherwise they start at P, as after a text of P
    tokens, and as in peft. None: kept in encoders, where moved positions cost quality, moved in decoders"""
    modules_to_save: list[str] | None = None
    """heads to train and save whole; None finds the new heads of a transformers model, [] is none"""
    task_type: str | None = None
    base_model_name_or_path: str | None = None

    def __post_init__(self):
        check_tokens(self.num_virtual_tokens)
        if self.init_weights not in (None, *STARTS):
            raise ValueError(f"init_weights={self.init_weights!r}: expected one of {', '.join(STARTS)}")
        if self.prefix_projection and self.start not in ("random", "zero"):
            raise ValueError(
                f"init_weights={self.start!r} with prefix_projection: no weights of the network are known that give such keys "
                "and values. Take random or zero, or leave the projection out"
            )
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError(f"encoder_hidden_size={self.encoder_hidden_size}: that layer is a part of prefix_projection")
        check_text(self.start == "text", self.init_text, "init_weights='text'", "init_text")

    @property
    def start(self) -> str:
        return self.init_weights or ("random" if self.prefix_projection else "sample_vocab")


@dataclass(frozen=True)
class Layout:
    """The attentions that a prefix serves, in the order in which the model runs them."""

    paths: tuple[str, ...]
    heads: int
    """of the keys: fewer than of the queries where these share (GQA)"""
    head_size: int

    @property
    def width(self) -> int:
        """Numbers in a row of the table."""
        return 2 * len(self.paths) * self.heads * self.head_size


class PrefixEncoder(nn.Module):
    """The table (P, 2 n H d), learned itself or made by a network whose input is as wide as one attention's keys."""

    def __init__(self, layout: Layout, config: PrefixTuningConfig, hidden: int, generator: torch.Generator | None = None):
        super().__init__()
        self.layout, self.virtual_tokens = layout, config.num_virtual_tokens
        width, hidden = layout.heads * layout.head_size, config.encoder_hidden_size or hidden
        columns = width if config.prefix_projection else layout.width
        self.embedding = nn.Embedding(config.num_virtual_tokens, columns)
        nn.init.normal_(self.embedding.weight, generator=generator)
        self.transform = None
        if config.prefix_projection:
            self.transform = nn.Sequential(_linear(width, hidden, generator), nn.Tanh(), _linear(hidden, layout.width, generator))
        if config.start == "zero":
            for p in [self.embedding.weight] if self.transform is None else self.transform[2].parameters():
                nn.init.zeros_(p)

    def forward(self) -> Float[Tensor, "P columns"]:
        return self.embedding.weight if self.transform is None else self.transform(self.embedding.weight)

    def keys_and_values(self) -> Float[Tensor, "n2 H P d"]:
        """Attention i finds its keys at 2i and its values at 2i + 1."""
        table = self().view(self.virtual_tokens, -1, self.layout.heads, self.layout.head_size)
        return table.permute(1, 2, 0, 3)

    @torch.no_grad()
    def copy_keys_and_values(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Start from keys and values (H, P, d) of each attention."""
        both = torch.stack([part for pair in pairs for part in pair])  # (2n, H, P, d)
        self.embedding.weight.copy_(both.permute(2, 0, 1, 3).reshape(self.virtual_tokens, -1))

    @torch.no_grad()
    def eject(self) -> None:
        """Write the network's result down and drop the network: the same keys and values, fewer numbers."""
        if self.transform is None:
            raise ValueError("this prefix has no projection: there is nothing to eject")
        table, trains = self().clone(), self.embedding.weight.requires_grad
        self.embedding = nn.Embedding.from_pretrained(table, freeze=not trains)
        self.transform = None


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def check_tokens(count: int) -> None:
    if count < 1:
        raise ValueError(f"num_virtual_tokens={count}: expected at least 1")


def check_text(wanted: bool, text: str | None, setting: str, name: str) -> None:
    """A text without the start that reads it would be ignored, and the start without a text has nothing to read."""
    if wanted != (text is not None):
        raise ValueError(f"{setting} and {name} belong together: one was given without the other")


def tiled(ids: list[int], count: int) -> list[int]:
    """`count` ids: the text repeated as often as needed, and cut."""
    if not ids:
        raise ValueError("the text to start from has no token")
    return (ids * -(-count // len(ids)))[:count]
