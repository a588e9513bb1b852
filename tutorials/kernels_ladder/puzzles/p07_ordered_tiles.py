"""Puzzle 07: the order of the tiles decides what the cache can keep."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(7)
    return {"x": torch.randn(128, 16, generator=generator), "w": torch.randn(128, 16, generator=generator)}


PUZZLE = Puzzle(
    title="Order the tiles for the cache",
    new="the order of the programs, and the L2 cache",
    task=(
        "The matmul is written, and y has 8 × 8 tiles. Write tile_of in the order of the right figure: down 4"
        " rows of tiles (GROUP), then one column to the right. A GPU keeps what was loaded recently in its L2"
        " cache; here it has 6 kB, and a tile of x or of W has 1 kB."
    ),
    formula=r"\text{program } p \;\mapsto\; (\text{row of tiles}, \text{column of tiles})",
    programs=(
        "The programs 0 to 3 compute the tiles (0,0), (1,0), (2,0), (3,0). Program 4 computes (0,1), and "
        "program 32 computes (4,0)."
    ),
    hints=(
        "A group has `GROUP * tiles_n` programs. Which group does program p belong to, and where in its group is it?",
        "Inside a group, neighbours go down: the row changes first. So the row uses `% GROUP`, and the column uses `// GROUP`.",
        (
            "`group = program // (GROUP * tiles_n)`, `place = program % (GROUP * tiles_n)`. The row of tiles is "
            "`group * GROUP + place % GROUP`."
        ),
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(128, 128)},
    definition=lambda x, w: {"y": x @ w.T},
    fewest_bytes=lambda inputs: inputs["x"].nbytes + 2 * inputs["w"].nbytes,  # two groups, and each reads all of W once
    depth=16,
    cache=6 * 1024,
)
