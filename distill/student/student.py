"""A student cut out of its teacher: some of the layers, and of each matrix the first rows and columns.

    copy:1,3,5                       three of the teacher's layers (counted from 1), in this order (DistilBERT: every second one)
    copy:1,4,intermediate=128        and in them the first 128 units of each feed-forward part
    copy:1,4,hidden=192,heads=6      and the first 192 numbers of each state, in 6 heads of the teacher's width

What is copied is copied to the bit. A student of full width starts near its teacher; a narrower one starts from numbers that were
never meant to stand alone, which is better than random only if a measurement says so.
"""

import copy
import re
from typing import Any

import torch
from torch import nn

from adapters.bottleneck.places import transformer_blocks
from distill.losses.chosen_layers import check_same_layers, chosen_layers
from distill.student.copy_spec import WIDTHS, CopySpec


def copy_student(teacher: nn.Module, spec: CopySpec) -> nn.Module:
    """A new model of the teacher's class with the chosen parts of its weights.

    ValueError for layers that the teacher lacks, and for widths that it cannot give.
    """
    config: Any = copy.deepcopy(teacher.config)
    if config.is_encoder_decoder:
        raise ValueError(
            f"{type(teacher).__name__} is an encoder with a decoder: copy needs one list of layers (BERT, GPT-2, Llama)"
        )
    block, count = _block_prefix(teacher), config.num_hidden_layers
    wrong = [layer for layer in spec.layers if not 1 <= layer <= count]
    if wrong:
        raise ValueError(f"layers {wrong}: the teacher has {count}, counted from 1")
    _narrow(config, spec.widths)
    config = chosen_layers(config, spec.layers)
    student = type(teacher)(config)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        teacher_tensors = dict(teacher.named_parameters()) | dict(teacher.named_buffers())
        for name, target in (*student.named_parameters(), *student.named_buffers()):
            source = teacher_tensors.get(_name_in_teacher(name, block, spec.layers))
            if source is None:
                raise ValueError(
                    f"layers {list(spec.layers)}: the student's {name} is in no such layer of the teacher. "
                    f"{type(config).__name__} names the kinds of its layers by their numbers, and these cannot be named so"
                )
            target.data = target.data.to(source)  # each its own type: a model in bfloat16 keeps Llama's frequencies in float32
            _copy_part(target, source, name)
    if not spec.widths:
        in_order = tuple(sorted(set(spec.layers)))
        if in_order == spec.layers:
            check_same_layers(teacher, student, spec.layers)
        else:  # compared in the teacher's order; it raises where a layer depends on its number
            copy_student(teacher, CopySpec(in_order, {}))
    return student


def _narrow(config: Any, widths: dict[str, int]) -> None:
    """Set the new widths; the width of a head stays, so that whole heads are copied."""
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    four_times = 4 * config.hidden_size  # what GPT-2 means by an n_inner of None
    for name, value in widths.items():
        attribute = next((a for a in WIDTHS[name] if hasattr(config, a)), None)
        if attribute is None:
            raise ValueError(f"{name}={value}: {type(config).__name__} has no number of that meaning: leave it out")
        now = getattr(config, attribute, None) or four_times
        if not 1 <= value <= now:
            raise ValueError(f"{name}={value}: the teacher has {now}, expected 1 to {now}")
        setattr(config, attribute, value)
    if widths.keys() & {"hidden", "heads"} and config.hidden_size != head * config.num_attention_heads:
        raise ValueError(
            f"hidden={config.hidden_size}, heads={config.num_attention_heads}: a head of the teacher is {head} wide, so expected "
            f"hidden = heads x {head}: give both"
        )
    if groups and widths.get("heads", heads) != heads:
        if groups != heads:
            raise ValueError(
                f"the teacher's {heads} queries share {groups} key heads: a student with fewer heads would share them otherwise. "
                "Leave heads as they are; layers and intermediate can be fewer"
            )
        config.num_key_value_heads = config.num_attention_heads


def _block_prefix(model: nn.Module) -> str:
    """The path of the list of layers, with a dot."""
    paths = [path for path, _ in transformer_blocks(model)]
    if not paths:
        raise ValueError(f"{type(model).__name__}: its layers have no structure that is known here, so none can be copied")
    return paths[0].rpartition(".")[0] + "."


def _name_in_teacher(name: str, block: str, layers: tuple[int, ...]) -> str:
    match = re.match(re.escape(block) + r"(\d+)\.(.*)", name)
    return f"{block}{layers[int(match[1])] - 1}.{match[2]}" if match else name


def _copy_part(target: torch.Tensor, source: torch.Tensor, name: str) -> None:
    """The first rows and columns. GPT-2 keeps query, key and value side by side in one matrix: the first columns of each."""
    if target.ndim != source.ndim or any(a > b for a, b in zip(target.shape, source.shape, strict=True)):
        raise ValueError(f"{name}: {tuple(target.shape)} is no part of the teacher's {tuple(source.shape)}")
    fused = "c_attn" in name
    parts = zip(target.chunk(3, -1), source.chunk(3, -1), strict=True) if fused else [(target, source)]
    for to, from_ in parts:
        to.copy_(from_[tuple(slice(size) for size in to.shape)])
