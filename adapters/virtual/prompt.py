"""Prompt tuning: learned embeddings before those of the text, at the input of a frozen model (Lester et al. 2021).

P · d numbers. Everything behind the input is the model's own: the virtual tokens are tokens that no word has. So they take part
in the attention mask and in the positions (real tokens start at P), and labels for them are -100, which no loss counts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters.virtual.prefix import check_text, check_tokens

STARTS = ("SAMPLE_VOCAB", "TEXT", "RANDOM")


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig:
    """peft's names; the default start is SAMPLE_VOCAB, not RANDOM, with which little is learned."""

    num_virtual_tokens: int = 20
    prompt_tuning_init: str = "SAMPLE_VOCAB"
    """SAMPLE_VOCAB: embeddings of random words. TEXT: of `prompt_tuning_init_text`, repeated or cut. RANDOM: normal"""
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None
    """of the tokenizer for that text, where none is passed to `attach`; None is the folder or name of the model itself"""
    modules_to_save: list[str] | None = None
    """heads to train and save whole; None finds the new heads of a transformers model, [] is none"""
    task_type: str | None = None
    base_model_name_or_path: str | None = None

    def __post_init__(self):
        check_tokens(self.num_virtual_tokens)
        if self.prompt_tuning_init not in STARTS:
            raise ValueError(f"prompt_tuning_init={self.prompt_tuning_init!r}: expected one of {', '.join(STARTS)}")
        text, name = self.prompt_tuning_init_text, "prompt_tuning_init_text"
        check_text(self.prompt_tuning_init == "TEXT", text, "prompt_tuning_init='TEXT'", name)


class PromptEmbedding(nn.Module):
    """The virtual tokens' embeddings (P, d)."""

    def __init__(self, config: PromptTuningConfig, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.virtual_tokens = config.num_virtual_tokens
        self.embedding = nn.Embedding(config.num_virtual_tokens, width)
        nn.init.normal_(self.embedding.weight, generator=generator)

    def forward(self) -> Float[Tensor, "P d"]:
        return self.embedding.weight
