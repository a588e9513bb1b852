"""Where heads and units can be cut, and what is reported where they cannot."""

import pytest
from tiny import bert, gpt2, t5
from torch import nn
from transformers import Olmo2Config, Olmo2ForCausalLM

from distill.compression.int8 import quantize_int8
from distill.compression.sites import find_sites, widths
from distill.compression.structured import shrink
from loralib import LoraConfig, inject


def test_what_cannot_be_cut_is_refused():
    for part in ("heads", "ffn"):
        with pytest.raises(ValueError, match=r"has no .* that can be cut here"):
            find_sites(t5(), part)
    with pytest.raises(ValueError, match="it has no ffn that can be cut"):
        find_sites(nn.Linear(2, 2), "ffn")
    with pytest.raises(ValueError, match="there are heads, ffn"):
        find_sites(bert(), "layers")
    sizes = {"num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "vocab_size": 40}
    olmo = Olmo2ForCausalLM(Olmo2Config(**sizes))  # its norm runs over all heads at once
    with pytest.raises(ValueError, match="has no heads that can be cut"):
        find_sites(olmo, "heads")
    model = bert()
    inject(model, LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="without LoRA"):
        find_sites(model, "heads")
    model = gpt2()
    quantize_int8(model)
    with pytest.raises(ValueError, match="before int8"):
        find_sites(model, "ffn")
    assert widths(model) == widths(gpt2())
    path = "bert.encoder.layer.0.intermediate"
    for remaining, match in (
        ({"nowhere": [0]}, "nowhere has no units"),
        ({path: []}, "at least one"),
        ({path: [1, 0]}, "rising"),
        ({path: [0, 40]}, "below 40"),
        ({path: [-1, 0]}, "below 40"),
    ):
        with pytest.raises(ValueError, match=match):
            shrink(bert(), remaining)
