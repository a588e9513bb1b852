"""The checks of lesson 09's exercises, for your answers and for ours."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before the answers define a kernel

import torch

from tutorials.interpreted import traffic


def check_extra_bytes(answers) -> None:
    for form, passes in (("eager", 7), ("in place", 3), ("fused", 1)):
        found = answers.extra_bytes(form, 8, 16, 16)
        assert found == passes * 8 * 16 * 2, f"{form}: {found} bytes; with K = N it is {passes} passes over one matrix"
    assert answers.extra_bytes("eager", 1, 100, 10, 4) == (100 + 60) * 4, "x has K columns, the rest N"


def check_tile_loads(answers) -> None:
    assert answers.tile_loads(64, 64, 64, 32, 32, 4) == 2 * 2 * 64 * 64 * 4, "section 3: everything is loaded twice"
    small, large = (answers.tile_loads(1024, 1024, 512, b, b) for b in (32, 128))
    assert small == 4 * large, "tiles four times as wide ask for a quarter"


def check_add_kernel(answers) -> None:
    for n in (1, 37, 64, 100):
        x, z = torch.randn(n), torch.randn(n)
        whole = torch.full((n + 64,), 7.0)
        with traffic() as seen:
            answers.add_kernel[(-(-n // 32),)](x, z, whole[:n], 0.5, n, 32)
        assert torch.allclose(whole[:n], x + 0.5 * z), f"{n} numbers: wrong values"
        assert (whole[n:] == 7).all(), f"{n} numbers: something was written behind the end: is the store masked?"
        assert seen.loaded == x.nbytes + z.nbytes, f"{n} numbers: {seen.loaded} bytes loaded, not {2 * x.nbytes}: mask the loads"
