"""The ladder of kernel puzzles: our solutions pass, each stub fails for the intended reason, and mistakes are named."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the puzzles run in Triton's interpreter, and this session compiles kernels", allow_module_level=True)

import triton
import triton.language as tl
from triton_here import needs_triton

from tutorials.kernels_ladder import checking, page
from tutorials.kernels_ladder.watching import watching
from tutorials.lessons import ROOT

pytestmark = needs_triton()
PUZZLES = checking.puzzles()
NOTHING = "nothing was written to"
STUBS = {
    "01": f"{NOTHING} y",
    "02": "a program reads the elements 16 to 23 of x, which has 20",
    "03": f"{NOTHING} y",
    "04": f"{NOTHING} y",
    "05": f"{NOTHING} y",
    "06": f"{NOTHING} y",
    "07": "73,728 bytes from memory, behind a cache of 6,144 bytes, but 24,576 are enough",
    "08": f"{NOTHING} y",
    "09": "y is wrong",
    "10": f"{NOTHING} S",
    "11": "y is wrong",
    "12": f"{NOTHING} S",
    "13": f"{NOTHING} dS",
}


@pytest.mark.parametrize("number", PUZZLES)
def test_our_solution_passes(number):
    passed, lines = checking.verdict(number, "solutions")
    assert passed, lines
    assert len(lines) == 4


@pytest.mark.parametrize("number", PUZZLES)
def test_a_stub_fails_for_the_intended_reason(number):
    passed, lines = checking.verdict(number)
    assert not passed and lines[0].startswith(f"not yet: {STUBS[number]}")


def test_there_are_thirteen_and_each_has_all_its_files():
    assert list(PUZZLES) == [f"{i:02}" for i in range(1, 14)]
    for number, puzzle in PUZZLES.items():
        names = {folder: checking.file_of(number, folder).name for folder in ("puzzles", "stubs", "solutions")}
        assert len(set(names.values())) == 1, names
        assert (ROOT / f"tutorials/diagrams/ladder_{number}.svg").is_file()
        assert len(puzzle.hints) >= 2 and puzzle.task.count(". ") <= 2


def test_the_page_is_made_from_the_puzzles():
    assert page.PAGE.read_text() == page.text(), "run  python -m tutorials ladder --write"


@triton.jit
def add_wrongly(x, z, y, n, BLOCK: tl.constexpr, FORM: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    total = tl.load(x + offsets, mask=inside, other=0.0) + tl.load(z + offsets, mask=inside, other=0.0)
    if FORM == 1:  # x again
        total += 0.0 * tl.load(x + offsets, mask=inside, other=0.0)
    if FORM == 2:  # one place too far
        tl.store(y + offsets + 1, total, mask=inside)
    elif FORM == 3:  # everything in each program
        tl.store(y + offsets % BLOCK, total, mask=inside)
    elif FORM == 4:  # nothing from z
        tl.store(y + offsets, total - tl.load(z + offsets, mask=inside, other=0.0), mask=inside)
    elif FORM == 5:  # the last block is left out
        tl.store(y + offsets, total, mask=offsets < n - n % BLOCK)
    else:
        tl.store(y + offsets, total, mask=inside)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (1, "240 bytes loaded, but 160 are enough"),
        (2, "a program writes the elements 17 to 20 of y, which has 20"),
        (3, "elements of y were never written, the first is 8, and others 3 times"),
        (4, "y is wrong in 20 of 20 places"),
        (5, "4 of 20 elements of y were never written, the first is 16"),
    ],
)
def test_each_mistake_is_named(form, message):
    def launch(x, z, y):
        add_wrongly[(3,)](x, z, y, 20, BLOCK=8, FORM=form)

    with pytest.raises(AssertionError, match=message):
        checking.check(PUZZLES["02"], launch)


MUTANTS = {  # (puzzle, what is replaced in our kernel, by what, the message)
    ("03", ", other=0.0", "", "y contains NaN: is `other=` missing"),
    (
        "03",
        "    tl.store(y + row, tl.sum(total, 0))",
        "        tl.store(y + row, tl.sum(total, 0))",
        "or is a store inside a loop",
    ),
    ("03", "tl.sum(total, 0)", "total", "reduce it first"),
    ("04", '-float("inf")', "0.0", "y is wrong|y contains NaN"),
    ("04", ', other=-float("inf")', "", "y contains NaN"),
    ("04", " - tl.max(values, 0)", "", "did exp overflow"),
    ("04", "tl.exp(values - tl.max(values, 0))", "(values - tl.max(values, 0)).exp()", "not x.exp()"),
    ("05", "tl.dot(x_tile, w_tile)", "tl.dot(w_tile.T, x_tile.T)", "transpose of the expected matrix"),
    (
        "05",
        "columns[None, :] * K + depth[:, None]",
        "columns[:, None] * K + depth[None, :]",
        "load the second one as its transpose",
    ),
    ("06", "mask=w_inside, other=0.0", "mask=w_inside", "y contains NaN"),
    ("06", "(columns[None, :] < N) & (depth[:, None] < K)", "depth[:, None] < K", "of w, which has 864"),
    ("07", "place % GROUP, place // GROUP", "place // GROUP, place % GROUP", "a program reads the elements"),
    ("08", "first * scale", "second * scale", "y is wrong"),
    (
        "08",
        "tl.load(levels + (byte >> 4)), tl.load(levels + (byte & 15))",
        "tl.load(levels + (byte & 15)), tl.load(levels + (byte >> 4))",
        "halves of a byte",
    ),
    ("09", "low * scaling", "low", "y is wrong"),
    ("10", "low * scaling", "low", "S is wrong"),
    ("11", "values / (1 - p)", "values", "y is wrong"),
    ("12", ", mask=inside[:, None], other=0.0", "", "or a mask missing"),
    ("13", "acc * scaling", "acc", "dS is wrong"),
    ("13", "parts + tl.program_id(0) * N * R", "parts", "parts were never written"),
    ("13", "s_tile = tl.load(S + rows[:, None]", "s_tile = tl.load(S + tl.arange(0, BLOCK)[:, None]", "parts is wrong"),
    ("02", "tl.store(y + offsets, total, mask=inside)", "tl.atomic_add(y + offsets, total, mask=inside)", "so use tl.store"),
    ("01", "tl.load(x + offsets)", "x[offsets]", "write tl.load"),
    ("01", "y + offsets, 2.5 * values", "2.5 * values, y + offsets", "must be an address"),
}


@pytest.mark.parametrize(("number", "part", "other", "message"), sorted(MUTANTS))
def test_a_typical_mistake_in_our_kernel_is_named(number, part, other, message, tmp_path):
    source = checking.file_of(number, "solutions").read_text()
    assert part in source
    folder = tmp_path / "kernels_ladder" / "stubs"
    folder.mkdir(parents=True)
    path = folder / f"p{number}.py"
    path.write_text(source.replace(part, other))
    with pytest.raises(AssertionError, match=message):
        checking.check(PUZZLES[number], checking.load(path).launch)


def test_an_output_that_is_written_twice_and_inputs_that_are_not_read():
    def twice(x, z, y):
        add_wrongly[(3,)](x, z, y, 20, BLOCK=8, FORM=0)
        add_wrongly[(3,)](x, z, y, 20, BLOCK=8, FORM=0)

    with pytest.raises(AssertionError, match="20 elements of y were written more than once"):
        checking.check(PUZZLES["02"], twice)

    def in_torch(x, z, y):
        y.copy_(x + z)

    with pytest.raises(AssertionError, match="nothing was written to y"):
        checking.check(PUZZLES["02"], in_torch)

    def stops(x, z, y):
        raise ValueError("no kernel yet")

    with pytest.raises(AssertionError, match=r"the kernel stopped.*ValueError: no kernel yet"):
        checking.check(PUZZLES["02"], stops)


@pytest.mark.parametrize(("cache", "loaded"), [(0, 2 * 256), (64, 2 * 256), (128, 2 * 256), (256, 256)])
def test_a_cache_forgets_what_was_used_longest_ago(cache, loaded):
    """Four lines of 64 bytes, read in order, twice: a cache of three lines or fewer has always just forgotten the next one."""
    x, y = torch.arange(64.0), torch.zeros(64)
    kernel = checking.load(checking.file_of("01", "solutions")).scale
    start = x.data_ptr() % 64
    if start:
        pytest.skip("the tensor does not start at a cache line")
    with watching({"x": x}, {"y": y}, cache) as counted:
        for _ in range(2):
            kernel[(4,)](x, y, BLOCK=16)
    assert counted.loaded == loaded and counted.stored == 2 * 256


def test_a_file_that_python_cannot_read_is_named_by_its_line(tmp_path, monkeypatch):
    path = tmp_path / "p01_scale.py"
    path.write_text("import triton\n\nprint((1)\n")
    monkeypatch.setattr(checking, "file_of", lambda number, folder="stubs": path)
    assert checking.verdict("01") == (False, ["not yet: line 3: '(' was never closed"])


def test_the_command_names_the_next_step(capsys):
    from tutorials.kernels_ladder.command import command

    assert command("1", solutions=True) == 0
    assert "next: 02 · Add two vectors of any length. New there: a mask" in capsys.readouterr().out
    assert command("02") == 1
    assert "not yet: a program reads" in capsys.readouterr().out
    assert command("13", solutions=True) == 0 and "the last puzzle" in capsys.readouterr().out
    assert command(None) == 0 and capsys.readouterr().out.count("\n") >= 13
    with pytest.raises(ValueError, match="there is no puzzle '14'"):
        command("14")
