"""LoRA on a convolution: a convolution to r channels, then a 1×1 convolution.

A (r, c_in, kh, kw), B (c_out, r, 1, 1). Grouped convolutions are refused: their low-rank form does not merge.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from loralib.layers.lora_layer import LoraLayer
from loralib.variants.lora import Lora


class Conv2d(LoraLayer, nn.Conv2d):
    """`nn.Conv2d` with LoRA."""

    PLAIN = "Conv2d"

    def factor_shapes(self, variant: Lora):
        if self.groups != 1:
            raise ValueError(f"LoRA on Conv2d with groups={self.groups}: only groups=1 has a low-rank form that merges")
        return (variant.r, self.in_channels, *self.kernel_size), (self.out_channels, variant.r, 1, 1)

    def low_rank(self, input: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:  # (B, c_in, H, W) -> (B, c_out, H', W')
        low = self._conv_forward(input, A.to(input.dtype), None)
        return F.conv2d(low, B.to(input.dtype)) * scaling

    def low_rank_weight(self, A, B):
        return (B.flatten(1) @ A.flatten(1)).view_as(self.weight)
