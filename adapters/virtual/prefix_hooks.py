"""How a prefix reaches a model, beside the attention function: its table is made once a pass, and positions are moved by P."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from adapters.virtual.attention import LINK


def prefix_hooks(model: Any, holder: Any) -> list:
    """Put the hooks in; returns their handles. The attention implementation is the caller's matter."""
    handles = []
    for number, path in enumerate(holder.current.layout.paths):
        model.get_submodule(path).__dict__[LINK] = (holder, number)
    for module in outermost(model):
        module.__dict__[LINK] = (holder, None)
        handles += [
            module.register_forward_pre_hook(_enter),
            module.register_forward_hook(_leave, always_call=True),
        ]
    for module in [] if holder.configs[holder.active].keep_positions else position_modules(model):
        module.__dict__[LINK] = (holder, None)
        handles.append(module.register_forward_pre_hook(_shift_positions, with_kwargs=True))
    return handles


def outermost(model: Any) -> Sequence[nn.Module]:
    """The modules that people, and `generate`, call from outside."""
    modules = [model, model.base_model]
    if model.config.is_encoder_decoder:
        modules += [model.get_encoder(), model.get_decoder()]
    return list({id(m): m for m in modules if m is not None}.values())


def _enter(module: nn.Module, args: tuple) -> None:
    """The outermost call makes the table, once for all rows and attentions."""
    holder = module.__dict__[LINK][0]
    if holder.now.depth == 0:
        holder.now.table = holder.current.keys_and_values()
    holder.now.depth += 1


def _leave(module: nn.Module, args: tuple, output: Any) -> None:
    module.__dict__[LINK][0].now.depth -= 1  # the table stays: checkpointed layers are run again in backward


def _shift_positions(module: nn.Module, args: tuple, kwargs: dict):
    """Real tokens start at position P, however the model makes positions."""
    count = module.__dict__[LINK][0].current.virtual_tokens
    if isinstance(module, nn.Embedding):
        return (args[0] + count, *args[1:]), kwargs
    if "position_ids" in kwargs:
        return args, kwargs | {"position_ids": kwargs["position_ids"] + count}
    return (args[0], args[1] + count, *args[2:]), kwargs


def position_modules(model: Any) -> list[nn.Module]:
    """What turns positions into numbers: a table, or a rotation. T5 has neither: it knows distances only."""
    modules: list[nn.Module] = [
        module
        for path, module in model.named_modules()
        if (isinstance(module, nn.Embedding) and path.rpartition(".")[2] in ("position_embeddings", "wpe"))
        or path.endswith("rotary_emb")
    ]
    relative = any(path.endswith("relative_attention_bias") for path, _ in model.named_modules())
    if not modules and not relative:
        raise ValueError(f"{type(model).__name__}: no position table, rotation or relative bias of a known kind was found in it")
    return modules


def reads_both_ways(model: Any) -> bool:
    """Whether a model is an encoder (BERT): its tokens see those after them, and no order says what stands first."""
    return not has_causal_attention(model) and not model.config.is_encoder_decoder


def has_causal_attention(model: nn.Module) -> bool:
    """Whether tokens see those before them alone: also of a decoder that classifies."""
    return any(getattr(module, "is_causal", False) for module in model.modules())
