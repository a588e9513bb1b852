"""Figures of the kernel puzzles: what one program loads (green) and stores (blue)."""

from tutorials.drawing.svg import Drawing

CELL = 11.0
Area = tuple[range, range]


def grid(
    d: Drawing, x: float, y: float, shape: tuple[int, int], name: str, areas: dict[str, list[Area]], cell: float = CELL
) -> None:
    """A matrix of rows × columns cells; `areas` {kind: [(rows, columns)]} are coloured."""
    rows, columns = shape
    d.text(x + columns * cell / 2, y - 8, name, "small middle")
    d.box(x, y, columns * cell, rows * cell, "plain", "", round_by=1)
    for kind, parts in areas.items():
        for part_rows, part_columns in parts:
            width, height = len(part_columns) * cell, len(part_rows) * cell
            d.box(x + part_columns.start * cell, y + part_rows.start * cell, width, height, kind, "", round_by=1)


def vectors(
    title: str, rows: list[tuple[str, int, range, str]], note: str, block: int, cell: float = 17, masked: range = range(0)
) -> Drawing:
    """Vectors below each other: (name, length, the places of one program, kind)."""
    d = Drawing(title, 64 + 44 * len(rows))
    for i, (name, length, places, kind) in enumerate(rows):
        y = 30 + 44 * i
        d.text(14, y + 15, name, "small")
        grid(d, 50, y, (1, length), "", {kind: [(range(1), places)]}, cell)
        for border in range(block, length, block):
            d.line((50 + border * cell, y - 4), (50 + border * cell, y + cell + 4), dashed=True)
        if masked:
            d.box(50 + masked.start * cell, y, len(masked) * cell, cell, "wrong", "", round_by=1)
    for border in (*range(0, length, block), length):
        d.text(50 + border * cell, 24, str(border), "small middle soft")
    d.text(14, 30 + 44 * len(rows), note, "small soft")
    legend = [("data", "loaded"), ("trained", "stored"), *([("wrong", "masked")] if masked else [])]
    d.legend(54 + 44 * len(rows), *legend)
    return d


def scale() -> Drawing:
    rows = [("x", 24, range(8, 16), "data"), ("y", 24, range(8, 16), "trained")]
    return vectors("Program 1 loads the places 8 to 15 of x and stores the places 8 to 15 of y.", rows, "program 1 of 0, 1, 2", 8)


def add() -> Drawing:
    rows = [("x", 20, range(16, 20), "data"), ("z", 20, range(16, 20), "data"), ("y", 20, range(16, 20), "trained")]
    title = "Program 2 loads and stores the places 16 to 19; its mask leaves out 20 to 23."
    return vectors(title, rows, "program 2: its block has 8 places, 4 are outside", 8, masked=range(20, 24))


def row_sum() -> Drawing:
    d = Drawing("Program 2 goes along row 2 of x in three steps, and stores one number.", 160)
    grid(d, 14, 30, (6, 40), "x (6, 40)", {"data": [(range(2, 3), range(40))]}, 8)
    for border in (16, 32):
        d.line((14 + border * 8, 26), (14 + border * 8, 82), dashed=True)
    grid(d, 400, 30, (6, 1), "y", {"trained": [(range(2, 3), range(1))]}, 8)
    d.arrow((336, 50), (398, 50), "sum")
    d.text(14, 108, "program 2: steps of 16, the last one has a mask", "small soft")
    d.legend(148, ("data", "loaded"), ("trained", "stored"))
    return d


def softmax() -> Drawing:
    d = Drawing("Program 2 loads all of row 2 at once (64 places, 24 masked) and stores row 2 of y.", 160)
    grid(d, 14, 30, (6, 40), "x (6, 40)", {"data": [(range(2, 3), range(40))]}, 5)
    d.box(214, 40, 120, 5, "wrong", "", round_by=1)
    d.text(274, 72, "masked: −∞", "small middle word wrong")
    grid(d, 344, 30, (6, 40), "y (6, 40)", {"trained": [(range(2, 3), range(40))]}, 3.2)
    d.text(14, 108, "program 2: one load, maximum, exp, sum, one store", "small soft")
    d.legend(148, ("data", "loaded"), ("trained", "stored"), ("wrong", "masked"))
    return d


def matmul(title: str, tiles: tuple[int, int, int], of: tuple[int, int], note: str, extra: str = "") -> Drawing:
    """A matmul in tiles (rows, columns, steps of K): program `of` loads a row of tiles of x and of W, and stores one of y."""
    (rows, columns, steps), (i, j), cell = tiles, of, 26.0
    d = Drawing(title, 110 + cell * max(rows, columns))
    grid(d, 24, 34, (rows, steps), "x", {"data": [(range(i, i + 1), range(steps))]}, cell)
    grid(d, 180, 34, (columns, steps), "W", {"data": [(range(j, j + 1), range(steps))]}, cell)
    grid(d, 330, 34, (rows, columns), "y", {"trained": [(range(i, i + 1), range(j, j + 1))]}, cell)
    for x, (height, width) in ((24, (rows, steps)), (180, (columns, steps)), (330, (rows, columns))):
        for k in range(1, height):
            d.line((x, 34 + k * cell), (x + width * cell, 34 + k * cell), dashed=True)
        for k in range(1, width):
            d.line((x + k * cell, 34), (x + k * cell, 34 + height * cell), dashed=True)
    bottom = 34 + cell * max(rows, columns)
    d.text(14, bottom + 28, note, "small soft")
    if extra:
        d.text(14, bottom + 46, extra, "small soft")
    d.legend(bottom + 68, ("data", "loaded"), ("trained", "stored"))
    return d


def one_tile() -> Drawing:
    return matmul(
        "The only program loads all of x and all of W, and stores all of y.",
        (1, 1, 2),
        (0, 0),
        "one program: 16 × 32 and 16 × 32 numbers",
    )


def masked() -> Drawing:
    note = "program (1, 0): rows 16 to 31 of x, rows 0 to 15 of W"
    return matmul(
        "Program (1, 0) goes along K and stores one tile of y.",
        (3, 2, 3),
        (1, 0),
        note,
        "the last tiles of each direction are masked",
    )


def ordered() -> Drawing:
    d = Drawing("The numbers of the programs: down 4 rows of tiles, then one column to the right.", 250)
    for left, title, number in (
        (24, "along the rows", lambda i, j: 8 * i + j),
        (262, "down 4, then right", lambda i, j: 32 * (i // 4) + 4 * j + i % 4),
    ):
        d.text(left + 96, 24, title, "small bold middle")
        rows, columns = (1, 8) if number(0, 1) == 1 else (4, 2)
        d.box(left, 34, 24 * columns, 22 * rows, "trained", "", round_by=0)
        for k in range(9):
            d.line((left + 24 * k, 34), (left + 24 * k, 210))
            d.line((left, 34 + 22 * k), (left + 192, 34 + 22 * k))
        for i in range(8):
            for j in range(8):
                d.text(left + 24 * j + 12, 50 + 22 * i, str(number(i, j)), "small middle")
    d.legend(240, ("trained", "the first 8 programs"))
    return d


def decode() -> Drawing:
    d = Drawing("Program 1 loads 32 bytes, one absmax and the levels of its indices, and stores 64 weights.", 210)
    d.box(80, 22, 384, 14, "plain", "", round_by=1)
    d.box(176, 22, 96, 14, "data", "", round_by=1)
    d.text(14, 34, "packed", "small")
    grid(d, 80, 62, (1, 4), "", {"data": [(range(1), range(1, 2))]}, 20)
    d.text(14, 76, "absmax", "small")
    grid(d, 240, 62, (1, 16), "", {"data": [(range(1), range(16))]}, 13)
    d.text(190, 76, "levels", "small")
    d.box(80, 112, 384, 14, "plain", "", round_by=1)
    d.box(176, 112, 96, 14, "trained", "", round_by=1)
    d.text(14, 124, "y", "small")
    d.text(14, 160, "program 1: byte i gives the weights 2i and 2i + 1", "small soft")
    d.legend(198, ("data", "loaded"), ("trained", "stored"))
    return d


def lora(title: str, low: bool, note: str) -> Drawing:
    d = Drawing(title, 230)
    grid(d, 20, 40, (2, 2), "x", {"data": [(range(1), range(2))]}, 34)
    grid(d, 112, 40, (3, 2), "W", {"data": [(range(1, 2), range(2))]}, 34)
    if low:
        d.box(206, 40, 68, 17, "data", "", round_by=1)
        d.text(240, 32, "A", "small middle")
    else:
        d.box(230, 40, 17, 68, "plain", "", round_by=1)
        d.box(230, 40, 17, 34, "data", "", round_by=1)
        d.text(238, 32, "S", "small middle")
    d.box(300, 40, 17, 102, "plain", "", round_by=1)
    d.box(300, 74, 17, 34, "data", "", round_by=1)
    d.text(308, 32, "B", "small middle")
    grid(d, 350, 40, (2, 3), "y", {"trained": [(range(1), range(1, 2))]}, 34)
    d.text(14, 176, note, "small soft")
    d.legend(216, ("data", "loaded"), ("trained", "stored"))
    return d


def one_launch() -> Drawing:
    return lora(
        "Program (0, 1) loads its rows of x and W and all of A, and at the end its rows of B.",
        True,
        "program (0, 1): x, W and A along K, then B",
    )


def two_launches() -> Drawing:
    return lora(
        "Program (0, 1) of expand loads its rows of x and W, and then its rows of S and B.",
        False,
        "program (0, 1) of expand: x and W along K, then S and B",
    )


def dropout() -> Drawing:
    rows = [
        ("x", 40, range(16, 32), "data"),
        ("y", 40, range(16, 32), "trained"),
        ("dy", 40, range(16, 32), "data"),
        ("dx", 40, range(16, 32), "trained"),
    ]
    title = "Program 1 of forward loads 16 numbers of x, program 1 of backward 16 of dy. The mask is computed."
    return vectors(title, rows, "program 1, forward and backward: the mask comes from the seed", 16, 10)


def adapters() -> Drawing:
    d = Drawing("A program reads its line of the table, fetches the rows of x of one adapter, and stores rows of S.", 250)
    d.text(14, 24, "table: adapter, first, rows", "small")
    for i, line in enumerate(((0, 0, 4), (1, 4, 4), (1, 8, 3), (2, 11, 1), (-1, 0, 0))):
        d.row(14, 34 + 30 * i, [(str(value), "data" if i == 1 else "plain") for value in line], width=36, height=26)
    grid(d, 190, 34, (12, 8), "x", {"data": [(range(k, k + 1), range(8)) for k in (0, 2, 3, 4)]}, 11)
    for k in range(3):
        d.box(300, 34 + 44 * k, 70, 34, "data" if k == 1 else "plain", f"A{'₀₁₂'[k]}", round_by=1)
    grid(d, 400, 34, (12, 4), "S", {"trained": [(range(4, 8), range(4))]}, 11)
    d.text(14, 200, "program 1: adapter 1, the places 4 to 7 of order", "small soft")
    d.legend(238, ("data", "loaded"), ("trained", "stored"))
    return d


def two_gradients() -> Drawing:
    d = Drawing("Program 1 loads its rows of dy and S and all of B, and stores its rows of dS and its own part of dB.", 210)
    grid(d, 20, 40, (2, 3), "dy", {"data": [(range(1, 2), range(1)), (range(1, 2), range(1, 2)), (range(1, 2), range(2, 3))]}, 34)
    for x, name, blocks, own in ((150, "B", 3, range(3)), (210, "S", 2, (1,))):
        d.text(x + 9, 32, name, "small middle")
        for i in range(blocks):
            d.box(x, 40 + 34 * i, 17, 34, "data" if i in own else "plain", "", round_by=1)
    for x, name, blocks, own in ((286, "dS", 2, (1,)), (346, "part 0", 3, ()), (406, "part 1", 3, range(3))):
        d.text(x + 9, 32, name, "small middle")
        for i in range(blocks):
            d.box(x, 40 + 34 * i, 17, 34, "trained" if i in own else "plain", "", round_by=1)
    d.text(14, 172, "program 1, 3 steps along the columns; dB = part 0 + part 1", "small soft")
    d.legend(198, ("data", "loaded"), ("trained", "stored"))
    return d


FIGURES = (scale, add, row_sum, softmax, one_tile, masked, ordered, decode, one_launch, two_launches, dropout)
FIGURES += (adapters, two_gradients)
DIAGRAMS = {f"ladder_{i:02}": figure for i, figure in enumerate(FIGURES, start=1)}
