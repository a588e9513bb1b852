"""Answers to the exercises of lesson 11."""


def most_tiles(rows: int, adapters: int, height: int) -> int:
    return rows // height + adapters


def make_tiles(ids: list[int], height: int) -> list[tuple[int, int, int]]:
    tiles, first = [], ids.count(-1)
    for adapter in sorted(set(ids) - {-1}):
        last = first + ids.count(adapter)
        tiles += [(adapter, place, min(height, last - place)) for place in range(first, last, height)]
        first = last
    return tiles


def pad_rank(r: int) -> int:
    return max(16, 1 << (r - 1).bit_length())
