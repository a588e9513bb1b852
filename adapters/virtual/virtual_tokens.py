"""Put prefixes and prompts into a model, choose the one that acts, train it, take it out: all that is done to the model itself.

What learns is a child of the base, `virtual_tokens`; it reaches the computation through hooks on the base and, for prefixes,
through the attention function of `attention.py`. Without an active one there are no hooks, and the model is the base bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from adapters.bottleneck.attachment import attached, model_width
from adapters.virtual.attention import LINK, NAME, record_attentions, register_prefix_attention
from adapters.virtual.prefix import Layout, PrefixEncoder, PrefixTuningConfig, tiled
from adapters.virtual.prefix_hooks import position_modules, prefix_hooks, reads_both_ways
from adapters.virtual.prompt import PromptEmbedding, PromptTuningConfig
from adapters.virtual.prompt_hooks import prompt_hooks
from loralib.injection.matching import heads_to_save
from loralib.layers.heads import owners_of_heads, put_saved_module, remove_heads, saved_modules
from loralib.layers.lora_layer import check_adapter_name
from loralib.report import AttachedRow, AttachReport

CHILD = "virtual_tokens"
VirtualConfig = PrefixTuningConfig | PromptTuningConfig


class ThisPass:
    """What one forward pass computed once for all attentions. A copy of a model starts without it."""

    table: Tensor | None = None
    """keys and values of a prefix"""
    depth = 0
    put_before = False
    """whether this pass got a prompt in front, or a cache holds it already"""
    reached = False
    """whether this pass came to the module before which a prompt is put"""

    def __deepcopy__(self, memo) -> "ThisPass":
        return ThisPass()


class VirtualTokens(nn.Module):
    """Prefixes and prompts of a model by name; one of them acts, or none."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict()
        self.configs: dict[str, VirtualConfig] = {}
        self.active: str | None = None
        self.implementation: str | None = None
        """the attention implementation to go back to"""
        self.handles: list = []
        self.now = ThisPass()

    @property
    def current(self) -> Any:
        return self.encoders[self.active or ""]

    @property
    def prefix(self) -> Tensor:
        if self.now.table is None:
            raise RuntimeError("an attention ran outside its model's forward: call the model, or its base, as a whole")
        return self.now.table


def add_virtual_tokens(
    model: nn.Module, config: VirtualConfig, name: str = "default", seed: int | None = None, tokenizer: Any = None
) -> AttachReport:
    """Add a prefix or a prompt; it acts and learns with its heads, and all else is frozen.

    seed: start from a generator of its own; None draws from torch's global one. tokenizer: needed where a text is the start.
    A start of real words is what the model makes of them as it stands, other kinds of adapters included, but without the
    prefix or prompt that acts.
    ValueError for a model whose attention cannot take a prefix, or a text start without a tokenizer.
    """
    check_adapter_name(name, [*attached(model), *virtual_tokens(model), *owners_of_heads(model)])
    heads = heads_to_save(model, config.modules_to_save)
    if isinstance(config, PrefixTuningConfig) and config.keep_positions is None:
        config = replace(config, keep_positions=reads_both_ways(model))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with without_virtual_tokens(model):
        encoder = _encoder(model, config, generator, tokenizer)
    holder = _holder(model)
    near = next(p for p in model.parameters() if p.is_floating_point())
    holder.encoders[name] = encoder.to(near.device, torch.promote_types(near.dtype, torch.float32))
    holder.configs[name] = replace(config, modules_to_save=heads)
    for path in heads:
        put_saved_module(model, path, name)
    use_virtual_tokens(model, name)
    train_virtual_tokens(model, name)
    return AttachReport((_row(encoder, config),), tuple(heads), (_description(encoder, config),))


def _row(encoder: nn.Module, config: VirtualConfig) -> AttachedRow:
    count = sum(p.numel() for p in encoder.parameters())
    if isinstance(encoder, PrefixEncoder):
        where, kind, width = f"{len(encoder.layout.paths)} attentions", "prefix", encoder.layout.width
    else:
        where, kind, width = "input embeddings", "prompt", encoder.get_parameter("embedding.weight").shape[1]
    return AttachedRow(where, kind, (config.num_virtual_tokens, width), config.num_virtual_tokens, count)


def _description(encoder: nn.Module, config: VirtualConfig) -> str:
    count, parameters = config.num_virtual_tokens, sum(p.numel() for p in encoder.parameters())
    if isinstance(config, PromptTuningConfig):
        return f"prompt: {count} virtual tokens before the text (start {config.prompt_tuning_init}), {parameters:,} parameters"
    assert isinstance(encoder, PrefixEncoder)
    where = f"{len(encoder.layout.paths)} attentions, {encoder.layout.heads} heads of {encoder.layout.head_size}"
    return f"prefix: {count} keys and values in each of {where} (start {config.start}), {parameters:,} parameters"


def use_virtual_tokens(model: Any, name: str | None) -> None:
    """Choose the prefix or prompt that acts, with its heads; None is the base. KeyError for an unknown name."""
    holder = _known(model, name)
    for handle in holder.handles:
        handle.remove()
    for module in model.modules():
        module.__dict__.pop(LINK, None)
    if holder.implementation is not None:
        model.set_attn_implementation(holder.implementation)
    holder.handles, holder.implementation, holder.active, holder.now = [], None, name, ThisPass()
    if name is not None:
        if isinstance(holder.configs[name], PrefixTuningConfig):
            holder.implementation = model.config._attn_implementation
            register_prefix_attention()
            model.set_attn_implementation(NAME)
            holder.handles = prefix_hooks(model, holder)
        else:
            holder.handles = prompt_hooks(model, holder)
    for head in saved_modules(model).values():
        if name is not None and name in head.copies:
            head.active = name
        elif head.active in holder.configs:  # heads of other kinds of adapters stay as they are
            head.active = None


@contextmanager
def without_virtual_tokens(model: nn.Module) -> Iterator[None]:
    """The model without the prefix or prompt that acts, for a while."""
    name = active_virtual(model)
    if name is not None:
        use_virtual_tokens(model, None)
    try:
        yield
    finally:
        if name is not None:
            use_virtual_tokens(model, name)


def train_virtual_tokens(model: nn.Module, name: str) -> None:
    """Make one prefix or prompt trainable, with its heads, and freeze every other parameter."""
    holder = _known(model, name)
    model.requires_grad_(False)
    holder.encoders[name].requires_grad_(True)
    for head in saved_modules(model).values():
        if name in head.copies:
            head.copies[name].requires_grad_(True)


def remove_virtual_tokens(model: nn.Module, name: str) -> None:
    """Take one out with its heads; after the last one the model is what it was."""
    holder = _known(model, name)
    if holder.active == name:
        use_virtual_tokens(model, None)
    del holder.encoders[name], holder.configs[name]
    remove_heads(model, name)
    if not holder.configs:
        delattr(base_of(model), CHILD)


def eject_prefix(model: nn.Module, name: str = "default") -> None:
    """Replace a prefix's network by the keys and values that it makes; it can be trained on without the network."""
    holder = _known(model, name)
    encoder, config = holder.encoders[name], holder.configs[name]
    if not isinstance(encoder, PrefixEncoder) or not isinstance(config, PrefixTuningConfig):
        raise ValueError(f"{name!r} is a prompt: only a prefix with a projection can be ejected")
    encoder.eject()
    holder.configs[name] = replace(config, prefix_projection=False, encoder_hidden_size=None, init_weights="random")


def virtual_tokens(model: nn.Module) -> dict[str, VirtualConfig]:
    """The prefixes and prompts of the model, by name."""
    holder = getattr(base_of(model), CHILD, None)
    return {} if holder is None else dict(holder.configs)


def active_virtual(model: nn.Module) -> str | None:
    """The name of the prefix or prompt that acts."""
    holder = getattr(base_of(model), CHILD, None)
    return None if holder is None else holder.active


def positions_taken(model: nn.Module) -> int:
    """How many positions the active virtual tokens take from the text: so many fewer are left in the model's window."""
    holder = getattr(base_of(model), CHILD, None)
    if holder is None or holder.active is None:
        return 0
    config = holder.configs[holder.active]
    keeps_positions = config.keep_positions if isinstance(config, PrefixTuningConfig) else reads_both_ways(model)
    return 0 if keeps_positions else config.num_virtual_tokens


def virtual_encoder(model: nn.Module, name: str) -> Any:
    """The module that learns: a PrefixEncoder or a PromptEmbedding."""
    return _known(model, name).encoders[name]


def base_of(model: Any) -> nn.Module:
    """The model without its head, as transformers names it; itself where it has none."""
    return getattr(model, "base_model", model)


def _holder(model: nn.Module) -> VirtualTokens:
    base = base_of(model)
    if not hasattr(base, CHILD):
        base.add_module(CHILD, VirtualTokens())
    return getattr(base, CHILD)


def _known(model: nn.Module, name: str | None) -> VirtualTokens:
    holder = getattr(base_of(model), CHILD, None)
    if holder is None or (name is not None and name not in holder.configs):
        raise KeyError(f"no prefix or prompt {name!r}; there are {sorted(virtual_tokens(model))}")
    return holder


def _encoder(model: Any, config: VirtualConfig, generator: torch.Generator | None, tokenizer: Any) -> nn.Module:
    """The module that learns, with its start."""
    width, count = model_width(model), config.num_virtual_tokens
    if isinstance(config, PromptTuningConfig):
        words = model.get_input_embeddings()
        prompt = PromptEmbedding(config, words.embedding_dim, generator)
        if config.prompt_tuning_init != "RANDOM":
            tokenizer = tokenizer or _own_tokenizer(model, config.prompt_tuning_init_text, config.tokenizer_name_or_path)
            ids = _start_ids(config.prompt_tuning_init_text, count, words.num_embeddings, generator, tokenizer)
            prompt.embedding.weight.data.copy_(words(torch.tensor(ids, device=words.weight.device)).detach())
        return prompt
    position_modules(model)  # raises where positions are made in an unknown way
    from_text = config.start in ("sample_vocab", "text")
    ids = [0] * min(2, count)
    if from_text:
        tokenizer = tokenizer or _own_tokenizer(model, config.init_text)
        ids = _start_ids(config.init_text, count, model.get_input_embeddings().num_embeddings, generator, tokenizer)
    recorded = record_attentions(model, ids)
    paths = {id(module): path for path, module in model.named_modules()}
    if len({(part.shape[1], part.shape[3]) for one in recorded for part in (one.key, one.value)}) > 1:
        raise ValueError(
            f"{type(model).__name__}: its keys and values have different widths (latent attention, or layers of several "
            "shapes), and a prefix has one: use LoRA or a prompt"
        )
    layout = Layout(tuple(paths[id(one.module)] for one in recorded), recorded[0].key.shape[1], recorded[0].key.shape[3])
    prefix = PrefixEncoder(layout, config, width, generator)
    if from_text:
        prefix.copy_keys_and_values([(one.key[0].float().cpu(), one.value[0].float().cpu()) for one in recorded])
    return prefix


def _own_tokenizer(model: Any, text: str | None, name: str | None = None) -> Any:
    """The tokenizer beside the model's own files, where a text needs one. ValueError where there is none."""
    if text is None:
        return None
    name = name or getattr(model, "name_or_path", None)
    if not name:
        raise ValueError(f"a start from the text {text!r} needs the model's tokenizer: pass tokenizer=")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"a start from the text {text!r} needs the model's tokenizer: pass tokenizer=. None was read from {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _start_ids(text: str | None, count: int, vocabulary: int, generator, tokenizer: Any) -> list[int]:
    if text is None:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()
    return tiled(tokenizer(text)["input_ids"], count)
