"""Diagrams of the pages on fused LoRA: passes over memory, a tile of y, and what one program of the fused kernel loads."""

from tutorials.drawing.ladder import grid
from tutorials.drawing.svg import Drawing


def passes() -> Drawing:
    d = Drawing("Passes over a matrix as large as y, beyond the base: 7 step by step, 3 in place, 1 fused.", 218)
    rows = (
        ("step by step", ("x", "w", "r", "w", "r", "r", "w"), ("x Aᵀ", "(·) Bᵀ", "× s", "", "+", "", "")),
        ("in place", ("x", "r", "w"), ("x Aᵀ", "addmm_", "")),
        ("fused", ("x",), ("x Aᵀ",)),
    )
    for i, (name, kinds, words) in enumerate(rows):
        y = 34 + 56 * i
        d.text(14, y + 20, name, "small bold")
        for j, kind in enumerate(kinds):
            d.box(112 + 50 * j, y, 44, 30, "gradient" if kind == "w" else "data", "x" if kind == "x" else "y", round_by=3)
            d.text(134 + 50 * j, y + 44, words[j], "small soft middle")
    d.text(240, 20, "each box: one pass over a large matrix", "small soft middle")
    d.legend(208, ("data", "read"), ("gradient", "written"))
    return d


def time() -> Drawing:
    d = Drawing("The base takes most of the time. The passes over large matrices that LoRA adds come on top.", 176)
    for i, (name, blocks) in enumerate((("base", 0), ("base + LoRA", 4), ("fused?", 1))):
        y = 20 + 44 * i
        d.text(102, y + 20, name, "small end")
        d.box(112, y, 250, 30, "frozen", "x Wᵀ", round_by=2)
        for j in range(blocks):
            d.box(362 + 22 * j, y, 22, 30, "gradient", "", round_by=1)
        if i == 1:
            d.text(456, y + 20, "...", "bold")
    d.legend(166, ("frozen", "operations of the base"), ("gradient", "a pass over memory"))
    return d


def tile() -> Drawing:
    d = Drawing("One program: it goes along K, loads a tile of x and a tile of W in each step, and adds to its accumulator.", 240)
    cell = 26
    grid(d, 20, 60, (4, 5), "x (M × K)", {"data": [(range(1, 2), range(5))]}, cell)
    grid(d, 180, 60, (4, 5), "W (N × K)", {"data": [(range(2, 3), range(5))]}, cell)
    grid(d, 346, 60, (4, 4), "y (M × N)", {"trained": [(range(1, 2), range(2, 3))]}, cell)
    d.box(20 + 2 * cell, 60 + cell, cell, cell, "frozen", "", round_by=1)
    d.box(180 + 2 * cell, 60 + 2 * cell, cell, cell, "frozen", "", round_by=1)
    d.arrow((20, 60 + 1.5 * cell), (20 + 5 * cell, 60 + 1.5 * cell))
    d.arrow((180, 60 + 2.5 * cell), (180 + 5 * cell, 60 + 2.5 * cell))
    d.text(240, 24, "the program of one tile of y: a loop along K", "small middle")
    d.text(240, 196, "acc += tile of x · tile of Wᵀ, in each step", "small middle mono")
    d.legend(226, ("data", "all steps"), ("frozen", "this step"), ("trained", "stored"))
    return d


def two_launches() -> Drawing:
    d = Drawing("Shrink writes the thin S = s x Aᵀ. Expand multiplies [x | S] with [W | B]ᵀ into one accumulator.", 230)
    d.text(14, 24, "launch 1: shrink", "small bold")
    d.matrix(14, 40, 100, 60, "data", "x", "")
    d.text(126, 76, "·", "bold")
    d.matrix(140, 58, 60, 16, "trained", "Aᵀ", "")
    d.arrow((206, 68), (236, 68))
    d.matrix(240, 40, 16, 60, "data", "", "S")
    d.text(14, 142, "launch 2: expand", "small bold")
    d.matrix(14, 154, 100, 40, "data", "x", "")
    d.matrix(114, 154, 16, 40, "data", "", "")
    d.text(122, 210, "S", "small middle")
    d.text(142, 178, "·", "bold")
    d.matrix(160, 154, 100, 40, "frozen", "W", "")
    d.matrix(260, 154, 16, 40, "trained", "", "")
    d.text(268, 210, "B", "small middle")
    d.text(284, 166, "ᵀ", "bold")
    d.arrow((294, 174), (330, 174))
    d.matrix(336, 154, 100, 40, "data", "y", "")
    d.text(300, 70, "the scale s is in S", "small soft")
    d.legend(222, ("frozen", "frozen"), ("trained", "trained"), ("data", "data"))
    return d


def backward() -> Drawing:
    d = Drawing("dy comes in. The kernel grad_rank computes dS and dB from it; dS then gives dA and a part of dx.", 224)
    dy = d.box(16, 84, 84, 44, "gradient", "dy", "(M, N)")
    rank = d.box(162, 84, 112, 44, "plain", "grad_rank")
    ds = d.box(342, 40, 120, 40, "gradient", "dS = s dy B")
    db = d.box(342, 130, 120, 40, "gradient", "dB = dyᵀ S")
    d.arrow(dy.right, rank.left, kind="gradient")
    d.arrow(rank.right, ds.left, kind="gradient")
    d.arrow(rank.right, db.left, kind="gradient")
    dx = d.box(16, 20, 150, 40, "gradient", "dx = dy W + dS A")
    da = d.box(188, 20, 120, 40, "gradient", "dA = dSᵀ x")
    d.arrow(ds.left, da.right, kind="gradient")
    d.arrow(dy.top, dx.bottom, kind="gradient")
    d.line(ds.top, (402, 10), (91, 10), dx.top, kind="gradient")
    d.text(16, 168, "saved by the forward pass: x and S", "small soft")
    d.legend(210, ("gradient", "gradient"), ("plain", "a kernel"))
    return d


def stages() -> Drawing:
    d = Drawing("Three stages in shared memory, each with a tile of x and a tile of W. One computes, two are being loaded.", 190)
    d.text(16, 26, "shared memory of one program", "small bold")
    for i, (step, words) in enumerate((("k", "computes"), ("k + 1", "is loaded"), ("k + 2", "is loaded"))):
        x = 16 + 154 * i
        kind = "data" if i == 0 else "frozen"
        d.box(x, 44, 52, 40, kind, "x", round_by=2)
        d.box(x + 56, 44, 84, 40, kind, "W", round_by=2)
        d.text(x + 70, 104, f"step {step}", "small middle")
        d.text(x + 70, 122, words, "small soft middle")
    d.arrow((16, 142), (460, 142))
    d.text(240, 162, "along K", "small soft middle")
    d.legend(182, ("data", "used now"), ("frozen", "on its way from memory"))
    return d


DIAGRAMS = {"09_time": time, "09_passes": passes, "09_tile": tile, "09_two_launches": two_launches}
DIAGRAMS |= {"09_backward": backward, "09_stages": stages}
