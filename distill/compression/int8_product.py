"""The matrix multiplication of two int8 matrices, exact in int32, on any CPU; and the linear map that is made of it.

    Q_x = round(x / s_x), s_x = max|x| / 127     one scale for each token (row)
    y = (Q_x Q_wᵀ) · s_x · s_w + b               whole numbers, then three float32 steps (Jacob et al. 2018, section 2.2)

The route is `torch._int_mm`: the name is private, but it is what torchao and Inductor call on a CPU, while torch.ao.quantization
(`quantize_dynamic`) says of itself that it will be removed. It is right only where the CPU has VNNI or AMX: on an x86 without
them nearly all its numbers are wrong, and nothing warns (pytorch issue 136746; ONEDNN_MAX_CPU_ISA=AVX2 shows it anywhere). So
it is tried first. Where it fails, the same whole numbers go through a float32 matmul, exact up to 2²⁴ and not faster.
"""

import functools

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor

LEVELS = 127
"""-128 is not used: the range is symmetric"""
FLOAT_COLUMNS = 2**24 // LEVELS**2
"""so many multiplications of two int8 numbers (1040) sum up exactly in float32, in any order"""
INT_COLUMNS = 2**31 // LEVELS**2
"""the same for int32"""
ROWS = 256
"""done at a time, so that the int32 numbers are scaled while they are in the cache"""
SMALLEST = 1e-30
"""a row below it becomes zeros"""


def quantize_rows(x: Float[Tensor, "*rows K"]) -> tuple[Int8[Tensor, "*rows K"], Float[Tensor, "*rows 1"]]:
    """Whole numbers from -127 to 127 and one float32 scale for each row: x ≈ q · scale, off by scale / 2 at most.

    A row that is not finite gets a scale that is not finite, so it stays visible in every result.
    """
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST) / LEVELS
    return x.div(scale).round_().to(torch.int8), scale  # the largest is 127 · (1 ± 2⁻²³): it rounds to 127


def int8_matmul(a: Int8[Tensor, "M K"], w: Int8[Tensor, "N K"]) -> Int32[Tensor, "M N"]:
    """a wᵀ, exactly. ValueError for more columns than an int32 sum can hold."""
    if a.shape[1] > INT_COLUMNS:
        raise ValueError(f"{a.shape[1]} columns: their sum does not fit int32, which holds {INT_COLUMNS}. Leave the layer out")
    if a.device.type == "cpu" and a.shape[1] > 1 and int_mm_is_exact():
        return torch._int_mm(_packed(a), _packed(w).T)  # pyright: ignore[reportPrivateImportUsage]
    return _through_float32(a, w)


def scaled_product(
    q: Int8[Tensor, "M K"],
    q_scale: Float[Tensor, "M 1"],
    weight: Int8[Tensor, "N K"],
    scale: Float[Tensor, "N"],
    bias: Float[Tensor, "N"] | None,
    out: Float[Tensor, "M N"],
) -> Float[Tensor, "M N"]:
    """Write (q weightᵀ) · q_scale · scale + bias into `out`, and return it."""
    for at in range(0, len(q), ROWS):
        y = out[at : at + ROWS].copy_(int8_matmul(q[at : at + ROWS], weight)).mul_(q_scale[at : at + ROWS]).mul_(scale)
        if bias is not None:
            y.add_(bias)
    return out


def int8_linear(
    x: Float[Tensor, "*batch K"], weight: Int8[Tensor, "N K"], scale: Float[Tensor, "N"], bias: Float[Tensor, "N"] | None
) -> Float[Tensor, "*batch N"]:
    """x through a layer in int8; the answer has the dtype of x. A row's answer does not depend on the other rows."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty(len(rows), len(weight), device=x.device)
    for at in range(0, len(rows), ROWS):
        q, q_scale = quantize_rows(rows[at : at + ROWS])
        scaled_product(q, q_scale, weight, scale, bias, out[at : at + ROWS])
    return out.view(*x.shape[:-1], len(weight)).to(x.dtype)


@functools.cache
def int_mm_is_exact() -> bool:
    """Whether `torch._int_mm` is right on this CPU: tried once, on random numbers and on the largest ones."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-LEVELS, LEVELS + 1, (64, 256), generator=generator, dtype=torch.int8)
    for rows in (1, 16, 64):
        a = torch.randint(-LEVELS, LEVELS + 1, (rows, 256), generator=generator, dtype=torch.int8)
        a[0], w[0] = LEVELS, LEVELS
        try:
            product = torch._int_mm(a, w.T)  # pyright: ignore[reportPrivateImportUsage]
        except (AttributeError, RuntimeError):
            return False
        if not torch.equal(product.double(), a.double() @ w.double().T):
            return False
    return True


def _packed(q: Int8[Tensor, "M K"]) -> Int8[Tensor, "M K"]:
    """The step from row to row is K, also where there is one row: at any other, such as 0, `_int_mm` writes nothing and returns
    what was in the memory (pytorch issue 195066; so does one column, on which the step is 1 both ways)."""
    return q if q.stride() == (q.shape[1], 1) else q.clone(memory_format=torch.contiguous_format)


def _through_float32(a: Int8[Tensor, "M K"], w: Int8[Tensor, "N K"]) -> Int32[Tensor, "M N"]:
    total = torch.zeros(len(a), len(w), dtype=torch.int32, device=a.device)
    with torch.autocast(a.device.type, enabled=False):
        for at in range(0, a.shape[1], FLOAT_COLUMNS):
            part = slice(at, at + FLOAT_COLUMNS)
            total += (a[:, part].float() @ w[:, part].float().T).to(torch.int32)
    return total
