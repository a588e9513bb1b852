"""Layers with LoRA: y = f(x; W) + Σ_active s · f(f(x; A); B), for Linear, GPT-2's Conv1D, Embedding and Conv2d.

A LoRA layer *is* its base layer (a subclass), with `lora_A` and `lora_B` beside `weight`. Injection changes the class of
the existing module in place, so parameter names, hooks and sharing stay as they were, and taking LoRA out is exact.

Shapes of one adapter: Linear, Conv1D: A (r, d_in), B (d_out, r). Embedding: A (r, vocabulary), B (d, r).
Conv2d: A (r, c_in, kh, kw), B (c_out, r, 1, 1). A starts as torch's Linear does (uniform, ±1/√d_in) and B at zero; for
embeddings A is zero and B normal, since A holds one row per word and most words are rare.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D as PlainConv1D

from loralib.functional import lora_linear
from loralib.lora_layer import LoraLayer, wide


class Projection(LoraLayer):
    """Linear and Conv1D: one product, told apart only by how the weight lies."""

    bias: nn.Parameter | None

    def matrix(self) -> Tensor:
        """The weight as (d_out, d_in)."""
        return self.weight

    def factor_shapes(self, slot):
        d_out, d_in = self.matrix().shape
        if slot.enable_lora is None:
            return (slot.r, d_in), (d_out, slot.r)
        if d_out % len(slot.enable_lora):
            raise ValueError(f"enable_lora has {len(slot.enable_lora)} parts, but d_out={d_out} is not a multiple of it")
        changed = sum(high - low for low, high in slot.ranges(d_out))
        return (slot.r * sum(slot.enable_lora), d_in), (changed, slot.r)

    def forward(self, x: Tensor) -> Tensor:  # (*batch, d_in) -> (*batch, d_out)
        names = self.running()
        if not names:
            return super().forward(x)
        slot, matrix = self.slots[names[0]], self.matrix()
        dropout, parts = slot.dropout if self.training else 0.0, slot.ranges(len(matrix))
        A, B = self.lora_A[names[0]], self.lora_B[names[0]]
        y = lora_linear(x, matrix, self.bias, A, B, slot.scaling, dropout, parts)
        for name in names[1:]:
            y = y + self._branch(name, x)
        return y

    def _branch(self, name: str, x: Tensor) -> Tensor:
        """A further active adapter alone, in plain autograd: rare, so simple."""
        slot = self.slots[name]
        A, B = (factor.to(x.dtype) for factor in self.dense_factors(name))
        return F.linear(F.linear(F.dropout(x, slot.dropout, self.training), A), B) * slot.scaling

    def dense_factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(A, B) of an equal plain adapter over the whole output: with parts, B becomes block-shaped (d_out, p·r)."""
        slot, A, B = self.slots[name], self.lora_A[name], self.lora_B[name]
        if slot.enable_lora is None:
            return A, B
        d_out = self.matrix().shape[0]
        dense, row = B.new_zeros(d_out, len(A)), 0
        for i, (low, high) in enumerate(slot.ranges(d_out)):
            dense[low:high, i * slot.r : (i + 1) * slot.r] = B[row : row + high - low]
            row += high - low
        return A, dense

    def delta_weight(self, name):
        A, B = self.dense_factors(name)
        return (wide(B) @ wide(A)) * self.slots[name].scaling


class Linear(Projection, nn.Linear):
    """`nn.Linear` with LoRA. `Linear(d_in, d_out, r=8)` makes a frozen base with one active adapter, `default`.

    lora_alpha defaults to 1 as in Microsoft's loralib, so the scale is 1 / r; `LoraConfig` follows peft (8 / 8 = 1).
    """

    def __init__(self, in_features, out_features, r: int, lora_alpha=1, lora_dropout=0.0, enable_lora=None, **linear):
        nn.Linear.__init__(self, in_features, out_features, **linear)
        self.requires_grad_(False)
        self.start_lora()
        self.add_adapter("default", r, lora_alpha, lora_dropout, enable_lora)
        self.active = ("default",)


class MergedLinear(Linear):
    """Several projections in one weight, [q | k | v], with a choice of which get LoRA: `enable_lora=[True, False, True]`.

    A is (p·r, d_in) and B (p·d_part, r) for the p chosen parts, the layout of Microsoft's files.
    """

    def __init__(self, in_features, out_features, r: int, enable_lora: list[bool], lora_alpha=1, lora_dropout=0.0, **linear):
        super().__init__(in_features, out_features, r, lora_alpha, lora_dropout, enable_lora, **linear)


class Conv1D(Projection, PlainConv1D):
    """GPT-2's projection, which stores its weight as (d_in, d_out)."""

    def matrix(self):
        return self.weight.T

    def delta_weight(self, name):
        return super().delta_weight(name).T


class Embedding(LoraLayer, nn.Embedding):
    """`nn.Embedding` with LoRA: row i of the table gains s · (A[:, i] Bᵀ). No dropout, as in peft: ids are not numbers."""

    def __init__(self, num_embeddings, embedding_dim, r: int, lora_alpha=1, **embedding):
        nn.Embedding.__init__(self, num_embeddings, embedding_dim, **embedding)
        self.requires_grad_(False)
        self.start_lora()
        self.add_adapter("default", r, lora_alpha)
        self.active = ("default",)

    def factor_shapes(self, slot):
        return (slot.r, self.num_embeddings), (self.embedding_dim, slot.r)

    def start_factors(self, A, B, zero_start, generator):
        nn.init.zeros_(A) if zero_start else nn.init.normal_(A, generator=generator)
        nn.init.normal_(B, generator=generator)

    def forward(self, input: Tensor) -> Tensor:  # (*batch) ids -> (*batch, d)
        y = super().forward(input)
        for name in self.running():
            rows = F.embedding(input, self.lora_A[name].T, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
            y = y + ((rows @ self.lora_B[name].T) * self.slots[name].scaling).to(y.dtype)
        return y

    def delta_weight(self, name):
        delta = (wide(self.lora_B[name]) @ wide(self.lora_A[name])).T * self.slots[name].scaling
        return delta


class Conv2d(LoraLayer, nn.Conv2d):
    """`nn.Conv2d` with LoRA: a convolution to r channels, then a 1×1 convolution. Grouped convolutions are refused."""

    def factor_shapes(self, slot):
        if self.groups != 1:
            raise ValueError(f"LoRA on Conv2d with groups={self.groups}: only groups=1 has a low-rank form that merges")
        return (slot.r, self.in_channels, *self.kernel_size), (self.out_channels, slot.r, 1, 1)

    def forward(self, input: Tensor) -> Tensor:  # (B, c_in, H, W) -> (B, c_out, H', W')
        y = super().forward(input)
        for name in self.running():
            slot, dtype = self.slots[name], input.dtype
            x = F.dropout(input, slot.dropout, self.training)
            S = self._conv_forward(x, self.lora_A[name].to(dtype), None)
            y = y + F.conv2d(S, self.lora_B[name].to(dtype)) * slot.scaling
        return y

    def delta_weight(self, name):
        A, B = wide(self.lora_A[name]), wide(self.lora_B[name])
        return (B.flatten(1) @ A.flatten(1)).view_as(self.weight) * self.slots[name].scaling


LORA_CLASSES: dict[type[nn.Module], type[LoraLayer]] = {
    nn.Linear: Linear,
    PlainConv1D: Conv1D,
    nn.Embedding: Embedding,
    nn.Conv2d: Conv2d,
}


def to_lora(module: nn.Module) -> LoraLayer:
    """Turn a base layer into a LoRA layer in place (nothing to do when it is one). TypeError for other kinds."""
    if isinstance(module, LoraLayer):
        return module
    if type(module) not in LORA_CLASSES:
        raise TypeError(f"no LoRA for {type(module).__name__}; there is for {[c.__name__ for c in LORA_CLASSES]}")
    module.__class__ = LORA_CLASSES[type(module)]
    assert isinstance(module, LoraLayer)
    module.start_lora()
    return module


def to_plain(layer: nn.Module) -> None:
    """Take LoRA out in place: the class and the attributes are what they were."""
    for name in ("lora_A", "lora_B", "slots", "active", "merged", "_before_merge"):
        delattr(layer, name)
    layer.__class__ = next(  # pyright: ignore[reportAttributeAccessIssue]
        plain for plain, lora in LORA_CLASSES.items() if isinstance(layer, lora)
    )
