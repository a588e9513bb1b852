"""Options of an attention that transformers passes by name: which of them scaled dot-product attention takes into account.

Another function in the place of a model's own attention must compute the same. An option that it would drop, such as the sinks of
GPT-OSS or the soft cap of Gemma 2, is therefore refused; a sliding window is given to the virtual tokens too.
"""

from typing import Any

import torch
from torch import Tensor, nn

DROPPED = ("softcap", "s_aux", "sinks")
TAKEN = ("scaling", "dropout", "is_causal", "position_bias", "sliding_window")


def refuse_dropped_options(module: nn.Module, options: dict[str, Any]) -> None:
    """ValueError for an option that changes what an attention computes, and that scaled dot-product attention drops.

    Such are soft caps and sinks, and every tensor of fractions under a name that is not known here.
    """
    for name, value in options.items():
        unknown = isinstance(value, Tensor) and value.is_floating_point() and name not in TAKEN
        if value is not None and (name in DROPPED or unknown):
            raise ValueError(
                f"{type(module).__name__} computes with {name!r}, which the attention function here does not know: its answers "
                "would change without a word. LoRA, bottleneck adapters and prompts leave the attention as it is"
            )


def virtual_tokens_in_window(count: int, tokens: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """(tokens, count) bool: which virtual tokens each of the last `tokens` of `keys` positions sees in a causal sliding window.

    The virtual tokens stand before the text, and a token sees the `window` positions up to its own, as in peft. None: all.
    """
    if window is None or count + keys <= window:
        return None
    own = torch.arange(keys - tokens, keys, device=device) + count
    return torch.arange(count, device=device) > own[:, None] - window
