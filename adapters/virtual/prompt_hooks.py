"""How a prompt reaches a model: hooks before and after its base (of an encoder-decoder: before encoder and decoder).

    before    input ids → embeddings with the prompt in front; mask, token types and positions grow with them. In a decoder
              real tokens start at position P; in an encoder they keep their positions, which costs less quality
    after     the prompt's own hidden states are cut off, so that every head finds a row's tokens where it expects them.
              A language model keeps them: its logits are (B, P + T, V), as in peft, and labels grow by -100

With a cache only the first call gets the prompt; later ones know of it by mask and positions.
"""

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.virtual.attention import LINK
from adapters.virtual.prefix_hooks import position_modules, reads_both_ways
from loralib.base_model.class_source import calls_child, source_with_bases
from loralib.base_model.never_called import NeverCalledError


def prompt_hooks(model: Any, holder: nn.Module) -> list:
    """Put the hooks in; returns their handles."""
    decoder = model.get_decoder() if model.config.is_encoder_decoder else None
    base = called_base(model) if decoder is None else model.get_encoder()
    encodes = reads_both_ways(model)
    writes = decoder is None and model.get_output_embeddings() is not None
    for module in (model, base, decoder):
        if module is not None:
            module.__dict__[LINK] = (holder, None)
    handles = [base.register_forward_pre_hook(_put_before, with_kwargs=True)]
    if base is not model:
        handles.append(model.register_forward_hook(_check_put))
    if decoder is not None:
        handles.append(decoder.register_forward_pre_hook(_tell_decoder, with_kwargs=True))
    elif writes:
        handles.append(model.register_forward_pre_hook(_lengthen_labels, with_kwargs=True))
    else:
        handles.append(base.register_forward_hook(_cut_off))
    for module in position_modules(model) if encodes else []:
        module.__dict__[LINK] = (holder, None)
        handles.append(module.register_forward_pre_hook(_keep_positions))
    return handles


def called_base(model: Any) -> Any:
    """The module that takes the embeddings: the base, or its decoder where the model calls that past the base, as OPT's does."""
    base, prefix = model.base_model, model.base_model_prefix
    if base is model or calls_child(model, prefix):
        return base
    inner = re.search(rf"self\.{re.escape(prefix)}\.(\w+)\(", source_with_bases(type(model)))
    inner_base = getattr(base, inner[1], None) if inner else None
    return inner_base if isinstance(inner_base, nn.Module) else base


def _check_put(model: Any, args: tuple, output: Any) -> None:
    """After a pass: NeverCalledError where the prompt was put nowhere, because the model did not call its base."""
    now = model.__dict__[LINK][0].now
    if not now.reached:
        raise NeverCalledError(
            f"{type(model).__name__} ran without calling the module before which the prompt is put, so the prompt has no effect: "
            "a prompt on this class is not supported. LoRA and prefixes act elsewhere"
        )
    now.reached = False


def _keep_positions(module: nn.Module, args: tuple):
    """The positions (1 or B, P + T) that the model made: those of the text begin again."""
    count = module.__dict__[LINK][0].current.virtual_tokens
    return (torch.cat([args[0][:, :count], args[0][:, count:] - count], 1), *args[1:])


def _put_before(base: Any, args: tuple, kwargs: dict):
    inputs = _named(base, args, kwargs)
    holder = base.__dict__[LINK][0]
    prompt, first = holder.current(), _is_first(inputs)  # (P, d)
    holder.now.put_before, holder.now.reached = first, True
    count, mask, positions = len(prompt), inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is not None:
        inputs["attention_mask"] = _with_ones(mask, count)
    if first:
        embeds = inputs.pop("inputs_embeds", None)
        embeds = base.get_input_embeddings()(inputs.pop("input_ids")) if embeds is None else embeds
        inputs.pop("input_ids", None)
        inputs["inputs_embeds"] = torch.cat([prompt.to(embeds).expand(len(embeds), -1, -1), embeds], 1)
        for name in ("token_type_ids", "global_attention_mask"):  # Longformer's: the prompt is read as other tokens are
            if inputs.get(name) is not None:
                inputs[name] = F.pad(inputs[name], (count, 0))
        if positions is not None:
            own = torch.arange(count, device=positions.device).expand(len(positions), -1)
            inputs["position_ids"] = torch.cat([own, positions + count], 1)
    elif positions is not None:
        inputs["position_ids"] = positions + count
    return (), inputs


def _cut_off(base: Any, args: tuple, output: Any):
    holder = base.__dict__[LINK][0]
    if not holder.now.put_before:
        return output
    states = (output[0] if isinstance(output, tuple) else output.last_hidden_state)[:, holder.current.virtual_tokens :]
    has_pooler = getattr(base, "pooler", None) is not None
    if isinstance(output, tuple):
        return (states, *((_pooled(base, states), *output[2:]) if has_pooler else output[1:]))
    output.last_hidden_state = states
    if has_pooler:  # it ran on the first virtual token; it was trained on the text's first token
        output.pooler_output = _pooled(base, states)
    return output


def _pooled(base: Any, states: Tensor) -> Tensor:
    """The pooler on the text's first token. BERT's takes all states; ALBERT's and BigBird's is a Linear beside its activation."""
    if not isinstance(base.pooler, nn.Linear):
        return base.pooler(states)
    activation = getattr(base, "pooler_activation", None) or getattr(base, "activation", None) or nn.Identity()
    return activation(base.pooler(states[:, 0]))


def _tell_decoder(decoder: Any, args: tuple, kwargs: dict):
    inputs = _named(decoder, args, kwargs)
    decoder.__dict__[LINK][0].now.reached = True  # the encoder may have run before, outside of this pass
    mask = inputs.get("encoder_attention_mask")
    if mask is not None:
        inputs["encoder_attention_mask"] = _with_ones(mask, decoder.__dict__[LINK][0].current.virtual_tokens)
    return (), inputs


def _lengthen_labels(model: Any, args: tuple, kwargs: dict):
    inputs = _named(model, args, kwargs)
    if inputs.get("labels") is not None:
        inputs["labels"] = F.pad(inputs["labels"], (model.__dict__[LINK][0].current.virtual_tokens, 0), value=-100)
    return (), inputs


def _with_ones(mask: Tensor, count: int) -> Tensor:
    if mask.dim() != 2:
        raise ValueError(f"attention_mask {tuple(mask.shape)}: a prompt needs the mask of the tokens, (B, T)")
    return F.pad(mask, (count, 0), value=1)


def _is_first(inputs: dict) -> bool:
    past = inputs.get("past_key_values")
    return past is None or past.get_seq_length() == 0


def _named(module: nn.Module, args: tuple, kwargs: dict) -> dict:
    """All arguments by name."""
    names = list(inspect.signature(module.forward).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
