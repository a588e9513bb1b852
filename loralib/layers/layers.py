"""Layers with LoRA: y = f(x; W) + Σ_active s · f(f(x; A); B), for Linear, GPT-2's Conv1D, Embedding and Conv2d.

A LoRA layer *is* its base layer (a subclass), with `lora_A` and `lora_B` beside `weight`. Injection changes the class of
the existing module in place, so parameter names, hooks and sharing stay as they were, and taking LoRA out is exact.

Shapes of one adapter: Linear, Conv1D: A (r, d_in), B (d_out, r). Embedding: A (r, vocabulary), B (d, r).
Conv2d: A (r, c_in, kh, kw), B (c_out, r, 1, 1). A starts as torch's Linear does (uniform, ±1/√d_in) and B at zero; for
embeddings A is zero and B normal, since A holds one row per word and most words are rare.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D as PlainConv1D

from kernels.formulas.dora_matmul import row_norms, squared_rows
from kernels.formulas.nf4 import dequantize
from loralib.base_model.forwards import rebind_forward
from loralib.compute.functional import lora_linear
from loralib.compute.fused import in_blocks
from loralib.compute.grouped import grouped_rows
from loralib.compute.plain_autograd import transformed
from loralib.compute.rows import Rows
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import FIXED, TRAINED, LoraLayer, Slot, wide
from loralib.variants.dora import dora_linear
from loralib.variants.pissa import principal_factors


class Projection(LoraLayer):
    """Linear and Conv1D: one product, told apart only by how the weight lies."""

    bias: nn.Parameter | None
    KINDS = ("lora", "dora", "pissa", "ia3_input", "ia3_output")
    hot: str | None = None
    """the adapter that is made to be exchanged (`hotswap.py`); its scale lies in the buffer `hot_scaling`"""
    hot_scaling: Tensor

    def matrix(self) -> Tensor:
        """The weight as (d_out, d_in)."""
        return self.weight

    def matrix_shape(self) -> torch.Size:
        """(d_out, d_in)."""
        return self.matrix().shape

    def factor_shapes(self, slot):
        d_out, d_in = self.matrix_shape()
        if slot.enable_lora is None:
            return (slot.r, d_in), (d_out, slot.r)
        if d_out % len(slot.enable_lora):
            raise ValueError(f"enable_lora has {len(slot.enable_lora)} parts, but d_out={d_out} is not a multiple of it")
        changed = sum(high - low for low, high in slot.ranges(d_out))
        return (slot.r * sum(slot.enable_lora), d_in), (changed, slot.r)

    @torch.no_grad()
    def start_variant(self, name, dtype):
        slot, matrix = self.slots[name], self.matrix()
        if slot.kind == "pissa":
            for kind, start in zip("AB", principal_factors(matrix, slot.r, slot.scaling), strict=True):
                getattr(self, f"lora_{kind}")[name].copy_(start)
                fixed = getattr(self, f"lora_{kind}")[name].detach().clone()
                self.container(f"lora_start_{kind}")[name] = nn.Parameter(fixed, requires_grad=False)
        elif slot.kind == "dora":
            norms = self.row_norms(name).to(dtype)
            self.container("lora_magnitude_vector")[name] = nn.Parameter(norms)
        elif slot.is_ia3:
            size = matrix.shape[slot.kind == "ia3_input"]
            self.container("ia3_l")[name] = nn.Parameter(torch.ones(size, dtype=dtype, device=matrix.device))

    def adapted(self, name: str, x: Tensor) -> Tensor:  # (*batch, d_in) -> (*batch, d_out)
        slot = self.slots[name]
        if slot.is_ia3:
            scale = self.ia3_l[name].to(x.dtype)
            return self.plain(x * scale) if slot.kind == "ia3_input" else self.plain(x) * scale
        A, B, matrix = self.lora_A[name], self.lora_B[name], self.matrix()
        dropout = slot.dropout if self.training else 0.0
        if slot.kind == "dora":
            return dora_linear(
                x, matrix, self.bias, A, B, self.lora_magnitude_vector[name], self.squares(), slot.scaling, dropout
            )
        if slot.kind == "pissa":
            A, B = self.dense_factors(name)
        scaling = self.hot_scaling if self.hot == name else slot.scaling
        return lora_linear(x, matrix, self.bias, A, B, scaling, dropout, slot.ranges(len(matrix)))

    def update(self, name: str, x: Tensor) -> Tensor:
        """A further active adapter, or that of some rows, in plain autograd: rare, so simple."""
        slot = self.slots[name]
        if slot.is_ia3 or slot.kind == "dora":
            return self.adapted(name, x) - self.plain(x)
        A, B = (factor.to(x.dtype) for factor in self.dense_factors(name))
        return F.linear(F.linear(F.dropout(x, slot.dropout, self.training), A) * slot.scaling, B)  # the scale meets the small one

    def _forward_rows(self, input: Tensor, rows: Rows) -> Tensor:
        grouped = grouped_rows(self, input, rows)
        return super()._forward_rows(input, rows) if grouped is None else grouped

    def dense_factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(A, B) of an equal plain adapter over the whole output: with parts, B becomes block-shaped (d_out, p·r)."""
        slot, A, B = self.slots[name], self.lora_A[name], self.lora_B[name]
        if slot.kind == "pissa":
            return torch.cat([A, self.lora_start_A[name]]), torch.cat([B, -self.lora_start_B[name]], 1)
        if slot.enable_lora is None:
            return A[: slot.r], B[:, : slot.r]  # an adapter made to be exchanged is wider than its rank
        d_out = self.matrix_shape()[0]
        return A, in_blocks(B, slot.ranges(d_out), d_out, len(A))

    def squares(self) -> Tensor:
        """‖W‖² by row, in float32 or wider; computed again when the weight is another one than last time.

        A change past autograd (`weight.data.mul_(2)`) is not noticed, because torch counts none: change the weight under
        `torch.no_grad()` instead (`weight.mul_(2)`), which is noticed.
        """
        matrix = self.matrix()
        if transformed():
            return squared_rows(matrix)
        seen = self.__dict__.get("_squares")
        version = 0 if matrix.is_inference() else matrix._version
        now = matrix.data_ptr(), version, matrix.device
        if seen is None or now != (seen[0].data_ptr(), seen[1], seen[0].device):
            # the detached weight is kept so that its address cannot be given to another one
            self.__dict__["_squares"] = seen = (matrix.detach(), version, squared_rows(matrix))
        return seen[2]

    def row_norms(self, name: str) -> Tensor:
        """‖W + s B A‖ by row."""
        factors = self.lora_A[name].detach(), self.lora_B[name].detach()
        return row_norms(self.matrix().detach(), self.squares(), *factors, self.slots[name].scaling)

    def __getstate__(self):
        """A copy, or a pickled model, computes ‖W‖² anew: what is kept for it holds the weight a second time."""
        return {key: value for key, value in self.__dict__.items() if key != "_squares"}

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.hot is not None:  # a scale that `.to(bfloat16)` rounded would be wrong by up to 0.4 %
            dtype = torch.promote_types(self.hot_scaling.dtype, torch.float32)
            self.hot_scaling = torch.tensor(self.slots[self.hot].scaling, dtype=dtype, device=self.hot_scaling.device)
        return self

    def delete_adapter(self, name):
        super().delete_adapter(name)
        if self.hot == name:  # a later adapter of this name has a scale of its own
            del self.hot, self.hot_scaling

    def delta_weight(self, name):
        slot, matrix = self.slots[name], wide(self.matrix())
        if slot.is_ia3:
            change = wide(self.ia3_l[name]).to(matrix.dtype) - 1
            return matrix * (change if slot.kind == "ia3_input" else change[:, None])
        A, B = self.dense_factors(name)
        delta = (wide(B) @ wide(A)) * slot.scaling
        if slot.kind == "dora":
            gain = wide(self.lora_magnitude_vector[name]) / self.row_norms(name)
            return gain[:, None] * (matrix + delta) - matrix
        return delta

    def delta_bias(self, name):
        if self.slots[name].kind != "ia3_output" or self.bias is None:
            return None
        return wide(self.bias) * (wide(self.ia3_l[name]) - 1)


class Linear(Projection, nn.Linear):
    """`nn.Linear` with LoRA. `Linear(d_in, d_out, r=8)` makes a frozen base with one active adapter, `default`.

    lora_alpha defaults to 1 as in Microsoft's loralib, so the scale is 1 / r; `LoraConfig` follows peft (8 / 8 = 1).
    """

    def __init__(self, in_features, out_features, r: int, lora_alpha=1, lora_dropout=0.0, enable_lora=None, **linear):
        nn.Linear.__init__(self, in_features, out_features, **linear)
        self.requires_grad_(False)
        self.start_lora()
        parts = None if enable_lora is None else tuple(enable_lora)
        self.add_adapter("default", Slot(r, lora_alpha, lora_dropout, parts))
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


class QuantizedLinear(Projection, Linear4bit):
    """`Linear4bit` with LoRA in full precision beside it: QLoRA's layer. Plain LoRA only: the others need W itself."""

    KINDS = ("lora",)

    def matrix(self):
        """The weight, decoded: a whole matrix, for merging and for looking at."""
        return dequantize(self.quantized, self.compute_dtype)

    def matrix_shape(self):
        return self.quantized.shape

    def adapted(self, name, x):
        slot, A, B = self.slots[name], self.lora_A[name], self.lora_B[name]
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        scaling = self.hot_scaling if self.hot == name else slot.scaling
        dropout = slot.dropout if self.training else 0.0
        y = lora_linear(x.to(self.compute_dtype), self.quantized, bias, A, B, scaling, dropout, slot.ranges(self.out_features))
        return y.to(x.dtype)


class Embedding(LoraLayer, nn.Embedding):
    """`nn.Embedding` with LoRA: row i of the table gains s · (A[:, i] Bᵀ). No dropout, as in peft: ids are not numbers."""

    def __init__(self, num_embeddings, embedding_dim, r: int, lora_alpha=1, **embedding):
        nn.Embedding.__init__(self, num_embeddings, embedding_dim, **embedding)
        self.requires_grad_(False)
        self.start_lora()
        self.add_adapter("default", Slot(r, lora_alpha))
        self.active = ("default",)

    def factor_shapes(self, slot):
        return (slot.r, self.num_embeddings), (self.embedding_dim, slot.r)

    def start_factors(self, A, B, zero_start, generator):
        nn.init.zeros_(A) if zero_start else nn.init.normal_(A, generator=generator)
        nn.init.normal_(B, generator=generator)

    def update(self, name: str, input: Tensor) -> Tensor:  # (*batch) ids -> (*batch, d)
        rows = F.embedding(input, self.lora_A[name].T, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
        return ((rows @ self.lora_B[name].T) * self.slots[name].scaling).to(self.weight.dtype)

    def delta_weight(self, name):
        delta = (wide(self.lora_B[name]) @ wide(self.lora_A[name])).T * self.slots[name].scaling
        return delta


class Conv2d(LoraLayer, nn.Conv2d):
    """`nn.Conv2d` with LoRA: a convolution to r channels, then a 1×1 convolution. Grouped convolutions are refused."""

    def factor_shapes(self, slot):
        if self.groups != 1:
            raise ValueError(f"LoRA on Conv2d with groups={self.groups}: only groups=1 has a low-rank form that merges")
        return (slot.r, self.in_channels, *self.kernel_size), (self.out_channels, slot.r, 1, 1)

    def update(self, name: str, input: Tensor) -> Tensor:  # (B, c_in, H, W) -> (B, c_out, H', W')
        slot, dtype = self.slots[name], input.dtype
        x = F.dropout(input, slot.dropout, self.training)
        S = self._conv_forward(x, self.lora_A[name].to(dtype), None)
        return F.conv2d(S, self.lora_B[name].to(dtype)) * slot.scaling

    def delta_weight(self, name):
        A, B = wide(self.lora_A[name]), wide(self.lora_B[name])
        return (B.flatten(1) @ A.flatten(1)).view_as(self.weight) * self.slots[name].scaling


LORA_CLASSES: dict[type[nn.Module], type[LoraLayer]] = {
    nn.Linear: Linear,
    PlainConv1D: Conv1D,
    Linear4bit: QuantizedLinear,
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
    rebind_forward(module)
    assert isinstance(module, LoraLayer)
    module.start_lora()
    return module


def to_plain(layer: nn.Module) -> None:
    """Take LoRA out in place: the class and the attributes are what they were."""
    state = ("slots", "active", "merged", "rows", "_before_merge", "_squares", "hot", "hot_scaling", "called")
    for name in (*TRAINED, *FIXED, *state):
        if name in layer._modules or name in layer._buffers or name in layer.__dict__:
            delattr(layer, name)
    layer.__class__ = next(  # pyright: ignore[reportAttributeAccessIssue]
        plain for plain, lora in LORA_CLASSES.items() if isinstance(layer, lora)
    )
    rebind_forward(layer)
