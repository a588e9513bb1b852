"""`python -m tutorials ladder [NN]`: list the puzzles, or check the kernel that you wrote for one of them."""

from tutorials.kernels_ladder import checking, page
from tutorials.lessons import ROOT


def command(number: str | None, solutions: bool = False, write: bool = False) -> int:
    """0 if the kernel passes every step."""
    if write:
        page.write()
        return 0
    puzzles = checking.puzzles()
    if number is None:
        print("\n".join(f"{n}  {puzzle.title:32} {puzzle.new}" for n, puzzle in puzzles.items()))
        print("\nthe tasks: tutorials/kernels_ladder/README.md    check one: python -m tutorials ladder 01")
        return 0
    number = number.zfill(2)
    path = checking.file_of(number, "solutions" if solutions else "stubs")
    passed, lines = checking.verdict(number, path.parent.name)
    print(f"{number} · {puzzles[number].title}  ({path.relative_to(ROOT)})")
    print("\n".join(f"    {line}" for line in lines))
    following = f"{int(number) + 1:02}"
    if not passed:
        print(f"next step: change the kernel and run  python -m tutorials ladder {number}  again")
    elif following in puzzles:
        print(f"next: {following} · {puzzles[following].title}. New there: {puzzles[following].new}")
    else:
        print("That was the last puzzle. Now read kernels/triton_kernels/lora_matmul_triton.py.")
    return int(not passed)
