"""Every format we read, damaged: absent, empty, cut, of another format, one bit flipped. An error that names it, or it is
reported.

FORMATS has each format with a way to make it and to load it. `sealed` formats carry checksums: there every flipped bit is seen.
"""

import functools
import random
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from file_formats import FORMATS, base_folder

from distill.teacher.sequence import teacher_rows
from training.data.tasks import find_task
from training.models.base_models import load_base

pytestmark = pytest.mark.fault

CASES = [(name, file) for name, kind in FORMATS.items() for file in kind.files]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each format once, where it is first needed; tests work on copies."""
    root = tmp_path_factory.mktemp("formats")

    @functools.cache
    def make(name: str) -> Path:
        folder = root / name.replace(":", "").replace(" ", "_")
        FORMATS[name].make(folder)
        FORMATS[name].load(folder)
        return folder

    return make


def content(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(load, folder: Path, good: object = None) -> bool:
    """Whether a load raises; then with an error of ours that names the folder. Loading writes nothing.

    With `good` given it may also give the very same as before: a flip in a name that nobody reads.
    """
    before = content(folder)
    try:
        result = load(folder)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error), f"{type(error).__name__} without the path: {error}"
        assert len(str(error)) > len(str(folder)) + 10
        raised = True
    else:
        raised = good is not None and same(result, good)
    assert content(folder) == before
    return raised


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) if isinstance(a, tuple) else a == b


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


DAMAGE = {
    "absent": lambda path, rng: path.unlink(),
    "empty": lambda path, rng: path.write_bytes(b""),
    "cut": lambda path, rng: path.write_bytes(cut(path.read_bytes().rstrip(), rng)),
    "foreign": lambda path, rng: path.write_bytes(FOREIGN[rng.randrange(3)]),
}
FOREIGN = (b"\x89PNG\r\n\x1a\n\xff" + bytes(range(90)), b"[1, 2]\n", b"hello\n")
NO_END = {("csv", "cut"): "a table of text has no end mark; a run that goes on compares the rows' checksum"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_damaged_file_is_told_with_its_path(name, file, damage, made, tmp_path):
    folder = tmp_path / "copy"
    for seed in range(3 if damage in ("cut", "foreign") else 1):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made(name), folder)
        DAMAGE[damage](folder / file, random.Random(seed))
        assert refused(FORMATS[name].load, folder) or (name, damage) in NO_END, f"{damage} (seed {seed}) was loaded"


@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_flipped_bit(name, file, made, tmp_path):
    folder = shutil.copytree(made(name), tmp_path / "copy")
    before = FORMATS[name].load(folder)
    path, rng = folder / file, random.Random(zlib.crc32(file.encode()))
    good, quiet = path.read_bytes(), []
    for where in [*range(min(4, len(good))), *(rng.randrange(len(good)) for _ in range(8))]:
        bad = bytearray(good)
        bad[where] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        if not refused(FORMATS[name].load, folder, before):
            quiet.append(where)
    assert not (FORMATS[name].sealed and quiet), f"flips at {quiet} of {len(good)} bytes were loaded"


def test_damaged_targets_are_written_again(monkeypatch, tmp_path):
    """The teacher's texts are kept beside a run; whatever happens to the file, what is read is what the teacher wrote."""
    spec = find_task("prompt")
    base = load_base(spec, base_folder("decoder"))
    asked = Dataset.from_dict({"prompt": ["one", "two", "three"], "completion": ["a", "b", "c"]})
    words = {5: "ends here", 6: "so does this", 7: "and this"}
    monkeypatch.setattr(
        "distill.teacher.sequence.continue_prompts", lambda *a, **b: [[key, base.tokenizer.eos_token_id] for key in words]
    )
    monkeypatch.setattr(type(base.tokenizer), "decode", lambda self, ids, **options: words[ids[0]])
    read = lambda: teacher_rows(asked, spec, base, 1, 8, tmp_path, 1)[:]  # noqa: E731
    good, path = read(), tmp_path / "targets.jsonl"
    remaining, rng = path.read_bytes(), random.Random(0)
    flips = [bytes([*remaining[:i], remaining[i] ^ 1, *remaining[i + 1 :]]) for i in rng.sample(range(len(remaining)), 20)]
    for damage in (b"", remaining[:-9], remaining[:40], b"[1]\n", b"\xff\xfe", *flips):
        path.write_bytes(damage)
        assert read() == good
    path.write_bytes(remaining.replace(b"ends here", b"ends hers"))
    assert read() == good and path.read_bytes() == remaining
