"""Exercises of lesson 11. Write the functions, then run `python -m tutorials check 11`."""


def most_tiles(rows: int, adapters: int, height: int) -> int:
    """★ How many lines the library's table has: always enough, whatever adapter each of the rows asks for.

    All full tiles of `height` rows that there can be, plus one that is not full for each adapter. One line.
    """
    raise NotImplementedError("most_tiles")


def make_tiles(ids: list[int], height: int) -> list[tuple[int, int, int]]:
    """★★ (adapter, first place, rows) of each tile, for rows sorted by their id; rows with -1 come first and are in no tile.

    Adapters in rising order, a tile never holds two of them. About six lines.
    """
    raise NotImplementedError("make_tiles")


def pad_rank(r: int) -> int:
    """★ The smallest power of two that is at least r and at least 16. One line or a loop."""
    raise NotImplementedError("pad_rank")
