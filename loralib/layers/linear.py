"""LoRA on layers that multiply by a matrix: Linear, GPT-2's Conv1D, and the 4-bit linear layer.

y = W x + b + s · B (A x)            W (d_out, d_in), A (r, d_in), B (d_out, r)
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D as PlainConv1D

from kernels.formulas.nf4 import dequantize
from loralib.compute.few_examples import batched_rows
from loralib.compute.functional import lora_linear
from loralib.compute.grouped import grouped_rows
from loralib.compute.rows import Rows
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer
from loralib.variants.lora import Lora


class Projection(LoraLayer):
    """Linear and Conv1D: one matrix multiplication; they differ only in how the weight is stored."""

    bias: nn.Parameter | None

    def matrix(self) -> Tensor:
        """The weight as (d_out, d_in)."""
        return self.weight

    def matrix_shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        d_out, d_in = self.matrix().shape
        return d_out, d_in

    def factor_shapes(self, variant: Lora):
        d_out, d_in = self.matrix_shape()
        if variant.parts is None:
            return (variant.r, d_in), (d_out, variant.r)
        if d_out % len(variant.parts):
            raise ValueError(f"enable_lora has {len(variant.parts)} parts, but d_out={d_out} is not a multiple of it")
        changed = sum(high - low for low, high in variant.ranges(d_out))
        return (variant.r * sum(variant.parts), d_in), (changed, variant.r)

    def low_rank(self, input: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:  # (*batch, d_in) -> (*batch, d_out)
        low = F.linear(input, A.to(input.dtype)) * scaling  # the scale multiplies the small tensor
        return F.linear(low, B.to(input.dtype))

    def low_rank_weight(self, A, B):
        return B @ A

    def forward_with_low_rank(self, input, A, B, scaling, dropout, variant):
        matrix = self.matrix()
        return lora_linear(input, matrix, self.bias, A, B, scaling, dropout, variant.ranges(len(matrix)))

    def _forward_rows(self, input: Tensor, rows: Rows) -> Tensor:
        for way in (grouped_rows, batched_rows):
            y = way(self, input, rows)
            if y is not None:
                return y
        return super()._forward_rows(input, rows)


class Linear(Projection, nn.Linear):
    """`nn.Linear` with LoRA. `Linear(d_in, d_out, r=8)` makes a frozen base with one active adapter, `default`.

    lora_alpha defaults to 1 as in Microsoft's loralib, so the scale is 1 / r; `LoraConfig` follows peft (8 / 8 = 1).
    """

    PLAIN = "Linear"

    def __init__(self, in_features, out_features, r: int, lora_alpha=1, lora_dropout=0.0, enable_lora=None, **linear):
        nn.Linear.__init__(self, in_features, out_features, **linear)
        self.requires_grad_(False)
        self.start_lora()
        self.add_adapter("default", Lora(r, lora_dropout, lora_alpha, None if enable_lora is None else tuple(enable_lora)))
        self.active = ("default",)


class MergedLinear(Linear):
    """Several projections in one weight, [q | k | v], with a choice of which get LoRA: `enable_lora=[True, False, True]`.

    A is (p·r, d_in) and B (p·d_part, r) for the p chosen parts, the layout of Microsoft's files.
    """

    def __init__(self, in_features, out_features, r: int, enable_lora: list[bool], lora_alpha=1, lora_dropout=0.0, **linear):
        super().__init__(in_features, out_features, r, lora_alpha, lora_dropout, enable_lora, **linear)


class Conv1D(Projection, PlainConv1D):
    """GPT-2's projection, which stores its weight as (d_in, d_out)."""

    PLAIN = "Conv1D"

    def matrix(self):
        return self.weight.T

    def delta_weight(self, name):
        return super().delta_weight(name).T


class QuantizedLinear(Projection, Linear4bit):
    """`Linear4bit` with LoRA in full precision beside it: QLoRA's layer. It refuses variants that need W itself."""

    PLAIN = "Linear4bit"

    def matrix(self):
        """The weight, decoded: a whole matrix, for merging and for looking at."""
        return dequantize(self.quantized, self.compute_dtype)

    def matrix_shape(self):
        return self.out_features, self.in_features

    def forward_with_low_rank(self, input, A, B, scaling, dropout, variant):
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        x, parts = input.to(self.compute_dtype), variant.ranges(self.out_features)
        return lora_linear(x, self.quantized, bias, A, B, scaling, dropout, parts).to(input.dtype)
