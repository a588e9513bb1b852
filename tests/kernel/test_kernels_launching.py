"""What the launchers check before a kernel reads memory: shapes, dtypes and devices that fit together."""

import pytest
import torch
from triton_here import DEVICE, error, needs_triton

from kernels.formulas.lora_matmul import lora_matmul_reference
from kernels.formulas.nf4 import quantize
from kernels.triton_kernels import grouped_lora_triton, nf4_matmul_triton
from kernels.triton_kernels import lora_backward_triton as back
from kernels.triton_kernels import lora_matmul_triton as fused
from kernels.triton_kernels.launching import strides

pytestmark = needs_triton()


def operands(**shapes) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=g).to(DEVICE) for name, shape in shapes.items()}


SHAPES = {"x": (5, 64), "weight": (7, 64), "bias": (7,), "lora_A": (3, 64), "lora_B": (7, 3)}


def test_strides_have_the_names_of_the_kernels_arguments():
    assert strides(x=torch.zeros(4, 3), w=torch.zeros(4, 3).T) == {"x_row": 3, "x_col": 1, "w_row": 1, "w_col": 3}


@pytest.mark.parametrize("rows", [5, 40])  # one launch, and two
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("weight", (7, 60), r"weight \(7, 60\): expected the shape \(N, K\) with K = 64, as in x"),
        ("bias", (6,), r"bias \(6,\): expected the shape \(N\) with N = 7, as in weight"),
        ("lora_A", (3, 65), r"lora_A \(3, 65\): expected the shape \(r, K\) with K = 64"),
        ("lora_B", (8, 3), r"lora_B \(8, 3\): expected the shape \(N, r\) with N = 7"),
        ("x", (2, 3, 64), r"x \(2, 3, 64\): expected the shape \(M, K\)"),
    ],
)
def test_forward_refuses_shapes_that_do_not_fit(rows, name, shape, message):
    tensors = operands(**(SHAPES | {"x": (rows, 64), name: shape if name != "x" else (rows, 3, 64)}))
    with pytest.raises(ValueError, match=message.replace(r"\(2, 3, 64\)", rf"\({rows}, 3, 64\)")):
        fused.lora_forward(*tensors.values(), 0.5)


def test_ranks_dtypes_and_columns_of_S():
    x, weight, bias, A, B = operands(**SHAPES).values()
    with pytest.raises(ValueError, match=r"lora_B \(7, 2\): expected the shape \(N, r\) with r = 3, as in lora_A"):
        fused.one_launch(x, weight, bias, A, B[:, :2], 0.5)
    with pytest.raises(ValueError, match=r"float32 on \w+ and of torch.float16"):
        fused.lora_forward(x, weight.half(), bias, A, B, 0.5)
    with pytest.raises(ValueError, match="expected at least 3 columns of S"):
        fused.expand(x, weight, bias, torch.zeros(5, 2, device=DEVICE), B)
    S = fused.shrink(x, A, 0.5)
    dy = torch.zeros(5, 7, device=DEVICE)
    for wrong, message in (
        (S[:2], r"S \(2, 16\): expected the shape \(M, R\) with M = 5"),
        (S[:, :1], "expected at least 3 columns of S"),
        (S.T.contiguous().T, "expected contiguous rows, as `shrink` gives them"),
    ):
        with pytest.raises(ValueError, match=message):
            back.lora_backward(dy, x, weight, A, B, wrong, 0.5)
    with pytest.raises(ValueError, match=r"dy \(5, 6\): expected the shape \(M, N\) with N = 7, as in weight"):
        back.lora_backward(torch.zeros(5, 6, device=DEVICE), x, weight, A, B, S, 0.5)


def test_4_bit_and_grouped_launchers_check_too():
    x, weight, bias, A, B = operands(**SHAPES).values()
    packed = quantize(weight)
    with pytest.raises(ValueError, match="expected as many columns in both"):
        nf4_matmul_triton.nf4_matmul(torch.cat([x, x], 1), packed)
    for S, factor in ((fused.shrink(x, A, 0.5), None), (None, B)):
        with pytest.raises(ValueError, match="S and lora_B belong together"):
            nf4_matmul_triton.nf4_matmul(x, packed, None, S, factor)
    with pytest.raises(ValueError, match="expected at least 20 columns of S"):
        nf4_matmul_triton.nf4_matmul(x, packed, None, fused.shrink(x, A, 0.5), torch.zeros(7, 20, device=DEVICE))
    with pytest.raises(ValueError, match=r"bias \(6,\): expected the shape \(N\) with N = 7, as in lora_B"):
        nf4_matmul_triton.nf4_matmul(x, packed, bias[:6], fused.shrink(x, A, 0.5), B)
    table = grouped_lora_triton.TileTable(*(torch.zeros(n, dtype=torch.int32, device=DEVICE) for n in ((5,), (1, 3), (2,))))
    with pytest.raises(ValueError, match=r"stacked_A \(1, 16, 60\): expected the shape \(L, R, K\) with K = 64, as in x"):
        grouped_lora_triton.grouped_shrink(x, torch.zeros(1, 16, 60, device=DEVICE), torch.ones(1, device=DEVICE), table)


def test_layers_of_different_ranks_share_one_input():
    """q of rank 2 and v of rank 5: each has its own columns of S."""
    g = torch.Generator().manual_seed(1)
    x, *rest = (
        torch.randn(s, generator=g).to(DEVICE) for s in ((40, 33), (24, 33), (18, 33), (2, 33), (5, 33), (24, 2), (18, 5))
    )
    weights, lora_As, lora_Bs = rest[:2], rest[2:4], rest[4:]
    ys, _ = fused.shared_forward(x, weights, [None, None], lora_As, lora_Bs, 0.5)
    for y, weight, A, B in zip(ys, weights, lora_As, lora_Bs, strict=True):
        assert error(y, lora_matmul_reference(x.double(), weight.double(), None, A.double(), B.double(), 0.5)) < 1e-6
