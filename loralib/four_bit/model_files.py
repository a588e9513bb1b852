"""The safetensors files of a model's folder, read one tensor at a time.

The files are read by offset and not mapped into memory: mapped pages count as memory of the process for as long as the file is
open.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kernels.formulas.nf4 import Quantized
from loralib.files.read_adapter import read_json
from loralib.layers.nf4_files import STATE, from_file

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "U8": torch.uint8,
}
INDEX = "model.safetensors.index.json"


def packed_groups(names: Iterable[str]) -> dict[str, set[str]]:
    """{name of a weight that lies in 4 bits already: the names of its tensors}, as `nf4_files.py` describes them."""
    names = list(names)
    groups: dict[str, set[str]] = {name.partition(f".{STATE}")[0]: set() for name in names if f".{STATE}" in name}
    for name in names:
        owner = next((end for end in (name, *_owners(name)) if end in groups), None)
        if owner is not None:
            groups[owner].add(name)
    return groups


def _owners(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def weights_in(folder: Path, groups: dict[str, set[str]]) -> Iterator[tuple[str, Tensor | Quantized]]:
    """(name, weight) of every weight; the tensors of a packed one come together."""
    owner = {name: base for base, names in groups.items() for name in names}
    waiting: dict[str, dict[str, Tensor]] = {base: {} for base in groups}
    for name, tensor in _tensors(folder):
        base = owner.get(name)
        if base is None:
            yield name, tensor
            continue
        waiting[base][name.removeprefix(base)] = tensor
        if len(waiting[base]) == len(groups[base]):
            yield base, from_file(waiting.pop(base), f"{folder}: {base}")


def headers_of(folder: Path) -> Iterator[tuple[str, Any]]:
    """(name, (file, where its tensors start, what the header says of it)) of every tensor in a folder's safetensors files."""
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise ValueError(f"{folder / INDEX}: no weight_map, which says where each tensor is")
        files = sorted(set(index.values()))
    else:
        files = [file.name for file in folder.glob("model.safetensors")]
    if not files:
        raise ValueError(f"{folder}: no model.safetensors and no {INDEX}; found {sorted(p.name for p in folder.iterdir())[:8]}")
    for file in files:
        try:
            with safe_open(folder / file, framework="pt"):  # looks at sizes, types and offsets, and reads no tensor
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / file}: not a readable safetensors file ({error})") from error
        with (folder / file).open("rb") as source:
            size = int.from_bytes(source.read(8), "little")
            header = json.loads(source.read(size))
        header.pop("__metadata__", None)
        for name, facts in header.items():
            yield name, (folder / file, 8 + size, facts)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every tensor in a folder's safetensors files, each read when it is asked for."""
    for path, headers in groupby(headers_of(folder), key=lambda header: header[1][0]):
        with path.open("rb", buffering=0) as source:
            for name, (_, begin, facts) in headers:
                start, stop = facts["data_offsets"]
                yield name, _read(source, begin + start, stop - start, facts, f"{path}: {name}")


def _read(source, where: int, length: int, facts: dict, name: str) -> Tensor:
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"{name} is {facts['dtype']}, expected one of {', '.join(DTYPES)}")
    data = bytearray(length)
    view, got = memoryview(data), 0
    source.seek(where)
    while got < length:  # a read may return less than it was asked for
        count = source.readinto(view[got:])
        if not count:
            raise ValueError(f"{name}: the file ends before its tensor does")
        got += count
    dtype = DTYPES[facts["dtype"]]
    return torch.frombuffer(data, dtype=dtype).view(facts["shape"]) if length else torch.empty(facts["shape"], dtype=dtype)
