"""LoRA on an embedding: row i of the table gains s · (A[:, i] Bᵀ).

A (r, number of embeddings), B (d, r). A starts at zero and B normal: A has one column for each token, and most tokens are rare.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from loralib.layers.lora_layer import LoraLayer
from loralib.variants.lora import Lora


class Embedding(LoraLayer, nn.Embedding):
    """`nn.Embedding` with LoRA. No dropout, as in peft: token ids cannot be dropped."""

    PLAIN = "Embedding"
    FILE_KEYS = ("lora_embedding_A", "lora_embedding_B")

    def __init__(self, num_embeddings, embedding_dim, r: int, lora_alpha=1, **embedding):
        nn.Embedding.__init__(self, num_embeddings, embedding_dim, **embedding)
        self.requires_grad_(False)
        self.start_lora()
        self.add_adapter("default", Lora(r, alpha=lora_alpha))
        self.active = ("default",)

    def factor_shapes(self, variant: Lora):
        return (variant.r, self.num_embeddings), (self.embedding_dim, variant.r)

    def start_factors(self, A, B, zero_start, generator):
        nn.init.zeros_(A) if zero_start else nn.init.normal_(A, generator=generator)
        nn.init.normal_(B, generator=generator)

    def drop(self, input: Tensor, dropout: float) -> Tensor:
        return input

    def low_rank(self, input: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:  # (*batch) ids -> (*batch, d)
        low = F.embedding(input, A.T, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
        return ((low @ B.T) * scaling).to(self.weight.dtype)

    def low_rank_weight(self, A, B):
        return (B @ A).T
