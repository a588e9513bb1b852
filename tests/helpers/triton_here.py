"""Where the kernel tests run: on a GPU for real, else in Triton's interpreter (`conftest.py` turns it on)."""

import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is for Linux")

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]  # the interpreter multiplies bf16 wrongly


def needs_triton():
    import numpy as np

    broken = triton.__version__ < "3.7" and np.lib.NumpyVersion(np.__version__) >= "2.4.0"
    return [
        pytest.mark.skipif(not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU and no TRITON_INTERPRET=1"),
        pytest.mark.skipif(not ON_GPU and broken, reason="Triton 3.6's interpreter breaks with numpy 2.4 and later"),
    ]


def bound(dtype: torch.dtype) -> float:
    """Relative error in the Frobenius norm. float32: sums of up to 250 terms, about sqrt(250) roundings of 2^-24. Halves: the
    output and S are each rounded once, at most 2^-11 (2^-8) of an element, and the roundings are independent."""
    return {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]


def error(result: torch.Tensor, wanted: torch.Tensor, size: float | None = None) -> float:
    """|found - wanted| / |wanted|, or |found| where nothing is wanted. size: in place of |wanted|, where a few numbers could
    cancel: sums of n terms err by about sqrt(n) roundings of their typical size, however small they come out."""
    result, wanted = result.detach().double(), wanted.detach().double()
    assert result.shape == wanted.shape, (result.shape, wanted.shape)
    size = float(wanted.norm()) if size is None else size
    return float((result - wanted).norm() / size) if wanted.numel() and size else float(result.abs().sum())
