"""Folders written whole, with a card that holds the crc32 of each weights and settings file beside it, and of the card itself.

A flipped bit in a weights file is a weight like any other: no reader of safetensors can see it. The sums are in a card of ours
(`training.json`, `multitask.json`, `student.json`), so peft and transformers read the folder as before. A crc32 finds every
flipped bit, and every damage shorter than 32 bits; it is no defence against somebody who means harm.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from loralib.files.read_adapter import read_json
from loralib.files.save_and_load import write_atomic

SUMS = "crc32"
KINDS = (".safetensors", ".json")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into. At the end it takes the place of `folder`, which is complete or as it was before.

    No file system exchanges two folders in one step everywhere: killed between the two renames, the old one is `.NAME.old`.
    """
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as error:  # what transformers' writer raises on a full disk
        raise OSError(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_sealed(path: Path, card: dict) -> None:
    """Write the card, with the sums of all weights and settings under its folder: it comes last."""
    files = sorted(p for p in path.parent.rglob("*") if p.suffix in KINDS and p.is_file() and p != path)
    sums = {p.relative_to(path.parent).as_posix(): zlib.crc32(p.read_bytes()) for p in files}
    write_atomic(path, (json.dumps(card | {SUMS: sums | {path.name: _own_sum(card)}}, indent=2) + "\n").encode())


def read_sealed(path: Path) -> dict:
    """The card without its sums. ValueError where a file, or the card, is not as it was written.

    A card without sums, as older ones are, is read as it is.
    """
    card = read_json(path)
    sums = card.pop(SUMS, None)
    if sums is None:
        return card
    if not isinstance(sums, dict) or path.name not in sums:
        raise ValueError(f"{path}: its {SUMS} are no sums of files: the card is damaged")
    for name, expected in sums.items():
        file = path.parent / name
        try:
            checksum = _own_sum(card) if file == path else zlib.crc32(file.read_bytes())
        except OSError as error:
            raise ValueError(f"{file}: cannot be read, and {path.name} says that it belongs here ({error})") from error
        if checksum != expected:
            raise ValueError(
                f"{file}: not as it was written (crc32 {checksum}, {path.name} says {expected}): it is damaged, or was changed. "
                f"Take another copy; if the change is wanted, remove {SUMS!r} from {path.name}"
            )
    return card


def _own_sum(card: dict) -> int:
    return zlib.crc32(json.dumps(card, sort_keys=True).encode())
