"""Buffers that show a kernel's mistakes: inputs inside NaN, outputs that start as NaN with sentinels around them.

Triton's interpreter, like a GPU, reads past the end of a tensor without a word; what it reads here is NaN.
"""

from contextlib import contextmanager

import pytest
import torch

MARGIN = 64


def inside_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same matrix as a view into a larger buffer: NaN before it, behind it, and behind each row (16-byte strides)."""
    columns = tensor.shape[-1]
    width = columns + 16 - columns % 16
    rows = tensor.shape[:-1].numel()
    buffer = torch.full((MARGIN + rows * width + MARGIN,), float("nan"), dtype=tensor.dtype, device=tensor.device)
    view = buffer[MARGIN : MARGIN + rows * width].view(*tensor.shape[:-1], width)[..., :columns]
    return view.copy_(tensor)


@contextmanager
def watched_outputs():
    """Inside, `new_empty` gives NaN inside a margin of sentinels; at the end the margins must be untouched."""
    made = []

    def new_empty(self, *size, dtype=None, device=None, **_):
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        dtype = dtype or self.dtype
        whole = torch.full((2 * MARGIN + shape.numel(),), 7, dtype=dtype, device=device or self.device)
        made.append(whole)
        middle = whole[MARGIN : MARGIN + shape.numel()]
        return middle.fill_(float("nan") if dtype.is_floating_point else 111).view(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", new_empty)
        yield made
    assert made, "nothing was allocated with new_empty: the watch saw nothing"
    for whole in made:
        assert (whole[:MARGIN] == 7).all() and (whole[-MARGIN:] == 7).all(), "a kernel wrote outside its output"
