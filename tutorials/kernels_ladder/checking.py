"""Checks a kernel of the ladder: addresses, writes, values, and how much it loads."""

import importlib.util
import os
import traceback
from pathlib import Path
from types import ModuleType

os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined

import numpy as np
import torch
from torch import Tensor

from tutorials.kernels_ladder.puzzle import Puzzle, Values
from tutorials.kernels_ladder.watching import OutOfBoundsError, Watch, apart, tensors_of, watching

HERE = Path(__file__).parent
MEANING = {  # what a newcomer usually did
    "'int' object is not iterable": ". (A tensor is an address here: write tl.load(x + offsets), not x[offsets].)",
    "Unsupported ptr type": ". (The first argument of tl.load and tl.store must be an address: tl.store(y + offsets, values).)",
    "Value argument cannot be block type": ". (You store a vector at one address: reduce it first, or add offsets.)",
    "has no attribute 'to_tensor'": ". (In the interpreter use functions, not methods: tl.exp(x), not x.exp().)",
    "equal reduction dimensions": ". (tl.dot needs shapes (M, K) and (K, N): load the second one as its transpose.)",
}
FLOAT32 = 2.0**-24
"""the largest relative error of one rounding"""


def puzzles() -> dict[str, Puzzle]:
    """{number: puzzle}, in order."""
    return {path.stem[1:3]: load(path).PUZZLE for path in sorted((HERE / "puzzles").glob("p*.py"))}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ladder_{path.parent.name}_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def file_of(number: str, folder: str = "stubs") -> Path:
    """The reader's file of a puzzle (`stubs`), or ours (`solutions`). ValueError for a number that does not exist."""
    files = sorted((HERE / folder).glob(f"p{number}_*.py"))
    if len(files) != 1:
        raise ValueError(f"there is no puzzle {number!r}; there are {', '.join(puzzles())}")
    return files[0]


def check(puzzle: Puzzle, launch) -> list[str]:
    """What is right, one line for each step. AssertionError with the first thing that is not."""
    inputs = apart(puzzle.inputs())
    outputs = {name: filled(tensor) for name, tensor in apart(puzzle.outputs(inputs)).items()}
    with watching(tensors_of(inputs), outputs, puzzle.cache) as seen, np.errstate(all="ignore"):
        try:
            launch(**inputs, **outputs)
        except Exception as error:
            raise _cause(error) from error
    steps = ["every read and write is inside its tensor"]
    steps.append(check_writes(seen))
    steps.append(check_values(puzzle, inputs, outputs))
    steps.append(check_loads(seen.loaded, puzzle.fewest_bytes(inputs), puzzle.cache))
    return steps


def filled(tensor: Tensor) -> Tensor:
    """Filled with a value that no correct kernel writes."""
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 111)


def _cause(error: BaseException) -> Exception:
    """The interpreter wraps what a kernel raises. An out-of-bounds message is passed on, all else is named."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for one in chain:
        if isinstance(one, OutOfBoundsError):
            return AssertionError(str(one))
    last = chain[-1]
    lines = [
        frame.lineno for one in chain for frame in traceback.extract_tb(one.__traceback__) if "kernels_ladder/s" in frame.filename
    ]
    where = f", line {lines[-1]}" if lines else ""
    meaning = next((words for part, words in MEANING.items() if part in str(last)), "")
    return AssertionError(f"the kernel stopped{where}: {type(last).__name__}: {last}{meaning}")


def check_writes(seen: Watch) -> str:
    for name, counts in seen.written.items():
        if not counts.any():
            raise AssertionError(f"nothing was written to {name}: is there a tl.store?")
        if (counts == 0).any():
            missing = (counts == 0).nonzero()[0]
            often = f", and others {counts.max()} times" if counts.max() > 1 else ""
            where = f"the first is {missing[0]}{often}"
            raise AssertionError(f"{len(missing)} of {len(counts)} elements of {name} were never written, {where}")
        if (counts > 1).any():
            raise AssertionError(
                f"{(counts > 1).sum()} elements of {name} were written more than once: "
                "do programs overlap, or is a store inside a loop?"
            )
    return "every output is written once"


def check_values(puzzle: Puzzle, inputs: Values, outputs: dict[str, Tensor]) -> str:
    """Against the definition in float64. The tolerance: `depth` roundings of float32, each of at most 2⁻²⁴."""
    exact_inputs = {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}
    for name, expected in puzzle.definition(**exact_inputs).items():
        result = outputs[name].to(expected.dtype)
        if result.isnan().any():
            raise AssertionError(f"{name} contains NaN: is `other=` missing in a masked load, or did exp overflow?")
        error = (result - expected).norm() / expected.norm()
        if not error <= 2 * puzzle.depth * FLOAT32:
            raise AssertionError(_wrong_value(name, result, expected))
    return "the values are those of the definition"


def _wrong_value(name: str, result: Tensor, expected: Tensor) -> str:
    """Where the result differs most, and a guess at the reason."""
    difference = (result - expected).abs()
    place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    index = ", ".join(map(str, place))
    guess = ""
    if result.ndim == 2 and result.shape[0] == result.shape[1] and torch.allclose(result, expected.T, rtol=1e-4, atol=1e-4):
        guess = ". It is the transpose of the expected matrix"
    elif result.numel() % 2 == 0 and torch.allclose(result.flatten()[0::2], expected.flatten()[1::2]):
        guess = ". Neighbours have changed places: are the halves of a byte exchanged?"
    many = (difference > 1e-3).sum().item()
    values = f"{name}[{index}] is {result[place]:.4f}, expected {expected[place] + 0.0:.4f}"
    return f"{name} is wrong in {many} of {result.numel()} places: {values}{guess}"


def check_loads(loaded: int, fewest: int, cache: int) -> str:
    what = f"bytes from memory, behind a cache of {cache:,} bytes" if cache else "bytes loaded"
    if loaded > fewest:
        guess = "the cache forgets tiles before they are used again" if cache else "is something loaded twice, or a mask missing?"
        raise AssertionError(f"{loaded:,} {what}, but {fewest:,} are enough: {guess}")
    if loaded < fewest:
        raise AssertionError(f"{loaded:,} {what}, but {fewest:,} are needed: is the definition's input really read?")
    return f"{loaded:,} {what}: the minimum for these tiles"


def verdict(number: str, folder: str = "stubs") -> tuple[bool, list[str]]:
    """Whether the kernel in a file passes, and what to print about it."""
    puzzle, path = puzzles()[number], file_of(number, folder)
    try:
        steps = check(puzzle, load(path).launch)
    except AssertionError as error:
        return False, [f"not yet: {error}"]
    except SyntaxError as error:
        return False, [f"not yet: line {error.lineno}: {error.msg}"]
    return True, [f"ok: {step}" for step in steps]
