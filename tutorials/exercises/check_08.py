"""The checks of lesson 08's exercises, for your answers and for ours."""

import torch

from kernels.formulas.nf4 import dequantize, quantize


def check_qlora_bytes(answers) -> None:
    found = answers.qlora_bytes(8_000_000, 1_000_000, 10_000)
    assert abs(found - (4_127_000 + 2_000_000 + 160_000)) < 1, f"{found:,}: 4.127 / 8 and 2 bytes, and 16 for each number of LoRA"


def check_merged_error(answers) -> None:
    generator = torch.Generator().manual_seed(0)
    base = quantize(torch.randn(32, 64, generator=generator))
    nothing, some = torch.zeros(32, 64), 0.2 * torch.randn(32, 64, generator=generator)
    found = answers.merged_error(base, nothing)
    assert found < 1e-6, f"no update: found {found}, but what was decoded can be coded again without an error"
    found = answers.merged_error(base, some)
    assert 0.05 < found < 0.12, f"{found}: an update that is no level is rounded, by about 9 % here"


def check_linear4bit_backward(answers) -> None:
    for N, K in ((6, 6), (5, 7)):  # a square one first: there a transpose too much runs, and is wrong
        weight = quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)))
        x = torch.randn(3, K, requires_grad=True)
        dy = torch.randn(3, N)
        expected = torch.autograd.grad(x @ dequantize(weight).T, x, dy)[0]
        found = answers.linear4bit_backward(dy, weight)
        assert found.shape == (3, K), f"dx has the shape of x, (3, {K}); found {tuple(found.shape)}"
        assert torch.allclose(found, expected, atol=1e-5), "dy times the decoded weight, not its transpose"
