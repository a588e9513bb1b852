"""How a 4-bit weight lies in a file: bitsandbytes' own keys, so that transformers reads ours and we read theirs.

<layer>.weight                                  (bytes, 1) uint8
<layer>.weight.absmax                           float32 scales, or their uint8 codes
<layer>.weight.quant_map                        the 16 levels
<layer>.weight.nested_absmax, .nested_quant_map where the scales are quantised too
<layer>.weight.quant_state.bitsandbytes__nf4    JSON as bytes: shape, dtype, block sizes, the nested offset
"""

import json

import torch
from torch import Tensor

from kernels.formulas.nf4 import NESTED_BLOCKSIZE, NestedScales, Quantized, dynamic_map, levels

STATE = "quant_state.bitsandbytes__"


def to_file(q: Quantized) -> dict[str, Tensor]:
    """{what follows `<layer>.weight`: tensor}; the packed bytes have the empty key."""
    facts = {
        "quant_type": q.quant_type,
        "blocksize": q.blocksize,
        "dtype": str(q.dtype).removeprefix("torch."),
        "shape": list(q.shape),
    }
    # a copy of each table for each layer: transformers refuses to save tensors that share memory
    tensors = {"": q.packed, ".absmax": q.absmax, ".quant_map": levels(q.quant_type).to(q.packed.device, copy=True)}
    if q.nested is not None:
        facts |= {"nested_blocksize": NESTED_BLOCKSIZE, "nested_dtype": "float32", "nested_offset": q.nested.offset.item()}
        tensors |= {".nested_absmax": q.nested.absmax, ".nested_quant_map": dynamic_map().to(q.packed.device, copy=True)}
    tensors[f".{STATE}{q.quant_type}"] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def from_file(tensors: dict[str, Tensor], name: str) -> Quantized:
    """The weight of one layer; keys as `to_file` makes them. ValueError for what is missing or does not fit."""
    states = [key for key in tensors if key.startswith(f".{STATE}")]
    if len(states) != 1 or "" not in tensors or ".absmax" not in tensors:
        raise ValueError(f"{name}: a 4-bit weight needs {name}, .absmax and .{STATE}nf4 or fp4; found {sorted(tensors)}")
    try:
        facts = json.loads(bytes(tensors[states[0]].tolist()))
        kind, blocksize, shape, dtype = (facts[key] for key in ("quant_type", "blocksize", "shape", "dtype"))
        dtype = getattr(torch, dtype)
        nested = None
        if "nested_offset" in facts:
            offset = torch.tensor(facts["nested_offset"], dtype=torch.float32, device=tensors[".nested_absmax"].device)
            nested = NestedScales(tensors[".nested_absmax"], offset)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}{states[0]}: not the description of a 4-bit weight ({error!r})") from error
    q = Quantized(
        tensors[""].view(torch.uint8).view(-1, 1), tensors[".absmax"], torch.Size(shape), dtype, blocksize, kind, nested
    )
    _check(q, tensors, facts, name)
    return q


def _check(q: Quantized, tensors: dict[str, Tensor], facts: dict, name: str) -> None:
    """Sizes and tables: others would decode to something, silently."""
    count = q.shape.numel()
    blocks = -(-count // q.blocksize)
    lengths = {"packed": len(q.packed), "absmax": len(q.absmax)}
    expected = {"packed": (count + 1) // 2, "absmax": blocks}
    if q.nested is not None:
        lengths["nested_absmax"], expected["nested_absmax"] = len(q.nested.absmax), -(-blocks // NESTED_BLOCKSIZE)
    if lengths != expected:
        raise ValueError(f"{name}: {lengths} entries for a weight of {tuple(q.shape)} in blocks of {q.blocksize}, not {expected}")
    dtype = torch.float32 if q.nested is None else torch.uint8
    if q.absmax.dtype != dtype or (q.nested is None) != (".nested_absmax" not in tensors):
        raise ValueError(
            f"{name}.absmax is {q.absmax.dtype}, expected {dtype}: scales and their description do not belong together"
        )
    if q.nested is not None and q.nested.absmax.dtype != torch.float32:
        raise ValueError(f"{name}.nested_absmax is {q.nested.absmax.dtype}, expected float32")
    if not (q.absmax if q.nested is None else q.nested.absmax).isfinite().all():
        raise ValueError(f"{name}: scales that are not finite")
    if facts.get("nested_blocksize", NESTED_BLOCKSIZE) != NESTED_BLOCKSIZE:
        raise ValueError(f"{name}: nested blocks of {facts['nested_blocksize']}, only {NESTED_BLOCKSIZE} are known")
    if q.quant_type not in ("nf4", "fp4"):
        raise ValueError(f"{name}: quant_type {q.quant_type!r}, expected 'nf4' or 'fp4'")
    for key, table in ((".quant_map", levels(q.quant_type)), (".nested_quant_map", dynamic_map())):
        if key in tensors and not torch.equal(tensors[key].cpu().float(), table):
            raise ValueError(f"{name}{key}: other levels than {q.quant_type}'s: this weight was made by another scheme")
