"""A full disk, a disk that became read-only, a folder that is not ours: reported with the path, nothing lost, and the run goes
on."""

import errno
import os
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import trainers
from command import SERVER
from file_formats import FORMATS, base_folder

from loralib.files.save_and_load import write_atomic, write_together
from training.data.tasks import find_task
from training.loop.checkpoint import FILE
from training.models.base_models import load_base
from training.models.trained import save_trained
from training.runs.run_folder import RESULT, append_line, read_rows

pytestmark = pytest.mark.fault
NOBODY = 65534
WRITERS = (
    "LoRA",
    "bottleneck",
    "prefix",
    "prompt",
    "cache",
    "checkpoint",
    "multitask",
    "run: head",
    "run: full",
    "student in int8",
)


@contextmanager
def failing(number: int, code: int):
    """The write with this number fails: no space when it is flushed (its part lies there), read-only when it is begun."""
    where, calls = {errno.ENOSPC: "os.fsync", errno.EROFS: "tempfile.mkstemp"}[code], []
    original = {"os.fsync": os.fsync, "tempfile.mkstemp": tempfile.mkstemp}[where]

    def fails(*args, **options):
        calls.append(args)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return original(*args, **options)

    with mock.patch(where, fails):
        yield


@contextmanager
def files_of_at_most(size: int):
    """A real limit of the system: a write beyond it takes what fits, and the next one fails (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder: Path) -> dict[str, tuple]:
    """Of every file: its bytes, and which file it is (a new one of the same bytes is another)."""
    return {str(p): (p.read_bytes(), p.stat().st_ino) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The trace of each trainer's run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("wholes")
    trainers.prepare(folder)
    result = {}
    for name in trainers.NAMES:
        trainers.run(name, folder / name)
        result[name] = trainers.trace(folder / name)
    return result


@pytest.mark.parametrize("name", trainers.NAMES)
def test_every_write_of_a_run_fails_once_and_the_run_ends_with_the_same_bits(name, wholes, tmp_path):
    """Start n fails at its n-th write, by turns for want of space and for a read-only disk; each goes on from the one before."""
    trainers.prepare(tmp_path)
    out, records = tmp_path / "run", []
    for number in range(1, 40):
        saved = (out / FILE).read_bytes() if (out / FILE).exists() else None
        try:
            with failing(number, (errno.ENOSPC, errno.EROFS)[number % 2]):
                trainers.run(name, out)
            break
        except OSError as error:
            records.append(str(error))
            assert str(tmp_path) in records[-1] and ("No space left" in records[-1] or "Read-only" in records[-1])
        trainers.readable(out)
        assert not trainers.leftovers(out) and not (out / RESULT).exists()
        assert saved is None or (out / FILE).exists(), "a checkpoint was lost"
    assert len(records) >= 8 and any(FILE in t for t in records), records
    assert trainers.trace(out) == wholes[name] and not trainers.leftovers(out)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["no space", "read-only"])
def test_what_lay_there_before_stays_to_the_last_file(name, code, tmp_path):
    """Whatever write of a save fails: the older folder is as it was, no part of it new."""
    folder = tmp_path / "made"
    FORMATS[name].make(folder)
    before, number = content(tmp_path), 0
    for number in range(1, 20):
        try:
            with failing(number, code):
                FORMATS[name].make(folder)
            break
        except OSError as error:
            assert str(folder.parent) in str(error) and os.strerror(code) in str(error)
        assert content(tmp_path) == before
    assert number > 1 and content(tmp_path).keys() == before.keys()
    FORMATS[name].load(folder)


def test_files_that_belong_together_are_replaced_together(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_together({a: b"old a", b: b"old b"})
    with files_of_at_most(100), pytest.raises(OSError, match=r"File too large.*/b'"):
        write_together({a: b"new a", b: b"x" * 200})
    assert (a.read_bytes(), b.read_bytes()) == (b"old a", b"old b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    write_atomic(a, b"new a")
    assert a.read_bytes() == b"new a"


def test_half_a_row_is_taken_back(tmp_path):
    """A full disk takes the part of a line that fits, and says nothing."""
    path = tmp_path / "rows.jsonl"
    append_line(path, {"step": 0})
    with files_of_at_most(path.stat().st_size + 5):
        assert path.open("ab", buffering=0).write(b"123456789") == 5, "the system does take a part"
    path.write_bytes(path.read_bytes()[:-5])
    with files_of_at_most(path.stat().st_size + 5), pytest.raises(OSError, match=r"File too large: .*rows.jsonl"):
        append_line(path, {"step": 1, "loss": 0.5})
    append_line(path, {"step": 1, "loss": 0.25})
    assert read_rows(path) == [{"step": 0}, {"step": 1, "loss": 0.25}]


def test_weights_that_transformers_writes_are_told_as_well(tmp_path):
    """`save_pretrained` writes all weights itself, and not through our function."""
    base, task = load_base(find_task("sst2"), base_folder()), find_task("sst2")
    save_trained(tmp_path / "adapter", "full", base, task)
    before = content(tmp_path)
    with files_of_at_most(10_000), pytest.raises(OSError, match="adapter"):
        save_trained(tmp_path / "adapter", "full", base, task)
    assert content(tmp_path) == before


def unprivileged(connection, name: str, out: Path) -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.environ["HOME"] = str(out.parent)
    try:
        trainers.child(name, out)
        connection.send("no error")
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("where", ["a new folder", "an older run"])
@pytest.mark.parametrize("name", trainers.NAMES)
def test_a_folder_that_we_may_not_write(name, where, tmp_path):
    """As somebody without rights, in a process of its own."""
    trainers.prepare(tmp_path)
    out = tmp_path / "run"
    if where == "an older run":
        out.mkdir()
        for file, text in (("config.json", "{}"), ("rows.jsonl", ""), (".lock", "")):
            (out / file).write_text(text)
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)
    for file in (tmp_path / "teacher").iterdir():
        file.chmod(0o644)
    for folder in (out if out.exists() else tmp_path, tmp_path):
        folder.chmod(0o555)
    before = content(tmp_path)
    own, other = SERVER.Pipe()
    process = SERVER.Process(target=unprivileged, args=(other, name, out))
    process.start()
    texts = own.recv() if own.poll(120) else "no answer"
    process.join()
    tmp_path.chmod(0o755)
    assert texts.startswith("PermissionError") and str(tmp_path) in texts
    assert content(tmp_path) == before
