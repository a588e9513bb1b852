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
    d.box(20 + 2 * cell, 60 + cell, cell, cell, "gradient", "", round_by=1)
    d.box(180 + 2 * cell, 60 + 2 * cell, cell, cell, "gradient", "", round_by=1)
    d.arrow((20, 60 + 1.5 * cell), (20 + 5 * cell, 60 + 1.5 * cell))
    d.arrow((180, 60 + 2.5 * cell), (180 + 5 * cell, 60 + 2.5 * cell))
    d.text(240, 24, "the program of one tile of y: a loop along K", "small middle")
    d.text(240, 196, "acc += tile of x · tile of Wᵀ, in each step", "small middle mono")
    d.legend(226, ("data", "all steps"), ("gradient", "this step"), ("trained", "stored"))
    return d


def two_launches() -> Drawing:
    d = Drawing("Shrink writes the thin S = s x Aᵀ. Expand multiplies [x | S] with [W | B]ᵀ into one accumulator.", 230)
    d.text(14, 24, "launch 1: shrink", "small bold")
    d.matrix(14, 40, 100, 60, "data", "x", "")
    d.text(126, 76, "·", "bold")
    d.matrix(140, 58, 60, 16, "trained", "Aᵀ", "")
    d.arrow((206, 68), (236, 68))
    d.matrix(240, 40, 16, 60, "gradient", "", "S")
    d.text(14, 142, "launch 2: expand", "small bold")
    d.matrix(14, 154, 100, 40, "data", "x", "")
    d.matrix(114, 154, 16, 40, "gradient", "", "")
    d.text(122, 210, "S", "small middle")
    d.text(142, 178, "·", "bold")
    d.matrix(160, 154, 100, 40, "frozen", "W", "")
    d.matrix(260, 154, 16, 40, "trained", "", "")
    d.text(268, 210, "B", "small middle")
    d.text(284, 166, "ᵀ", "bold")
    d.arrow((294, 174), (330, 174))
    d.matrix(336, 154, 100, 40, "data", "y", "")
    d.text(300, 70, "the scale s is in S", "small soft")
    d.legend(222, ("frozen", "frozen"), ("trained", "trained"), ("data", "data"), ("gradient", "thin"))
    return d


def backward() -> Drawing:
    d = Drawing("The gradient dy comes in. A kernel computes dS and dB from it; dS then gives dA and a part of dx.", 224)
    dy = d.box(16, 84, 84, 44, "gradient", "dy", "(M, N)")
    rank = d.box(162, 84, 112, 44, "plain", "grad_rank")
    ds = d.box(342, 40, 120, 40, "gradient", "dS = s dy B")
    db = d.box(342, 130, 120, 40, "trained", "dB = dyᵀ S")
    d.arrow(dy.right, rank.left, kind="gradient")
    d.arrow(rank.right, ds.left, kind="gradient")
    d.arrow(rank.right, db.left, kind="gradient")
    dx = d.box(16, 20, 150, 40, "data", "dx = dy W + dS A")
    da = d.box(188, 20, 120, 40, "trained", "dA = dSᵀ x")
    d.arrow(ds.left, da.right, kind="gradient")
    d.arrow(dy.top, dx.bottom, kind="gradient")
    d.line(ds.top, (402, 10), (91, 10), dx.top, kind="gradient")
    d.text(16, 168, "forward saved: x and S", "small soft")
    d.legend(210, ("gradient", "gradient"), ("trained", "for A and B"), ("data", "for the layer below"))
    return d


DIAGRAMS = {"09_time": time, "09_passes": passes, "09_tile": tile, "09_two_launches": two_launches, "09_backward": backward}
