"""Writes the page of the puzzles, tutorials/kernels_ladder/README.md: `python -m tutorials ladder --write`."""

import inspect
from pathlib import Path

from tutorials.kernels_ladder import checking
from tutorials.kernels_ladder.puzzle import Puzzle

PAGE = Path(__file__).parent / "README.md"
HEAD = """# The ladder: thirteen kernels to write

Each puzzle adds one new difficulty. You need PyTorch, but no GPU, and you need not know Triton: its interpreter runs your
kernel with numpy. (Triton is for Linux. On Windows, use WSL. `make setup` in the project's folder installs everything.) Why
one writes such kernels is in [lesson 09](../rendered/09_fused_lora.md). The puzzles 09 to 13 need lesson 01.

How to work:

1. Read the task and the figure. The figure shows what **one** program loads and stores.
2. Open the file in `stubs/`. The comments `# your code` say what is missing.
3. Run `python -m tutorials ladder 01`. It stops at the first thing that is not right, and names it:
   - a read or a write outside a tensor,
   - an output that was not written, or written twice,
   - a wrong value, compared with the definition in float64,
   - more bytes loaded than the tiles of the puzzle need.
4. If you are stuck, open one hint at a time. Our kernels are in `solutions/`.

Five things to know before you start:

- A kernel describes **one program**. `scale[(3,)](...)` starts three of them, and `tl.program_id(0)` is 0, 1 or 2.
- A tensor arrives as the **address** of its first number. `x + 5` is the address of number 5, and `x + tl.arange(0, 8)` are eight
  addresses at once. `x[5]` does not work.
- `tl.load` and `tl.store` move numbers between memory and the program. They do not know where a tensor ends. A **mask** says it.
- `tl.constexpr` marks a number that is known when the kernel is compiled. `tl.arange` and `tl.zeros` need such numbers, and
  `tl.arange` needs a power of two.
- `print` works inside a kernel here, because the interpreter runs it.

What you need of Triton:

| write | it does |
|:--|:--|
| `tl.program_id(0)`, `tl.program_id(1)` | the number of this program, in each direction of the grid |
| `tl.arange(0, 8)` | the vector 0, 1, ..., 7 |
| `rows[:, None]`, `columns[None, :]` | a column or a row, to combine both into a matrix, as in numpy |
| `tl.load(addresses, mask=inside, other=0.0)` | reads; where the mask is false, it gives `other` and reads nothing |
| `tl.store(addresses, values, mask=inside)` | writes, where the mask is true |
| `(a < M) & (b < K)` | joins two masks: `&` with parentheses, not `and` |
| `tl.zeros((16, 16), tl.float32)` | a tile of zeros |
| `tl.sum(v, 0)`, `tl.max(v, 0)`, `tl.exp(v)` | sum, maximum, exponential; `v.exp()` fails in this interpreter |
| `tl.trans(a)` | the transpose of a tile |
| `for k in range(0, K, BLOCK):` | a loop; K may be an ordinary argument |
| `tl.dot(a, b, acc)` | acc + a · b, with shapes (M, K) and (K, N) |
| `tl.where(condition, a, b)` | a where the condition is true, else b |
| `v.to(tl.int32)` | changes the type |
| `if n < 0:` and `return` | work with single numbers |

"""


def text() -> str:
    """The page."""
    puzzles = checking.puzzles()
    rows = [f"| {n} | {p.title} | {p.new} |" for n, p in puzzles.items()]
    table = "\n".join(["| | puzzle | new |", "|:--|:--|:--|", *rows])
    return HEAD + table + "\n\n" + "\n".join(section(number, puzzle) for number, puzzle in puzzles.items()) + TAIL


TAIL = """
## On a GPU

Copy a kernel to a machine with a GPU, with larger inputs, and time it:

```python
import torch
import triton

x = torch.randn(2**24, device="cuda")
y = torch.empty_like(x)
ms = triton.testing.do_bench(lambda: scale[(2**24 // 1024,)](x, y, BLOCK=1024))
print(2 * x.nbytes / ms / 1e6, "GB per second")
```

Compare with the bandwidth of the GPU (lesson 09). `triton.autotune` tries several block sizes. One thing changes on a GPU:
`tl.dot` of float32 numbers rounds to TF32 unless you write `input_precision="ieee"`. We had no GPU for this page, so these lines
were not run. What our own kernels reach is in [kernels/results](../../kernels/results/README.md).

The check uses one size and float32. Before you use a kernel in a program, test more: sizes that are no multiple of a tile, one
row, 16-bit inputs, and gradients against autograd in float64. Our own tests do this: for example
[test_kernels_lora_triton.py](../../tests/kernel/test_kernels_lora_triton.py).
"""


def section(number: str, puzzle: Puzzle) -> str:
    stub = checking.file_of(number)
    code = stub.read_text().partition("\n\n\n")[2].strip()
    hints = "\n\n".join(
        f"<details><summary>Hint {i}</summary>\n\n{hint}\n\n</details>" for i, hint in enumerate(puzzle.hints, start=1)
    )
    return f"""## {number} · {puzzle.title}

{puzzle.task}

$${puzzle.formula}$$

![{puzzle.programs}](../diagrams/ladder_{number}.svg)

{puzzle.programs}

In PyTorch:

```python
{definition(puzzle)}
```

Write in [stubs/{stub.name}](stubs/{stub.name}):

```python
{code}
```

{hints}

Check it with `python -m tutorials ladder {number}`. Our kernel: [solutions/{stub.name}](solutions/{stub.name}).
"""


def definition(puzzle: Puzzle) -> str:
    """The source of the definition; a lambda as a function."""
    source = inspect.cleandoc("\n" + inspect.getsource(puzzle.definition)).strip()
    if source.startswith("def "):
        return source
    arguments, _, body = source.removeprefix("definition=lambda ").rstrip(",").partition(": ")
    return f"def definition({arguments}):\n    return {body}"


def write() -> None:
    PAGE.write_text(text())
