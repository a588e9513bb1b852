"""The checks of lesson 14's exercises, for your answers and for ours."""

import torch

from adapters.fusion.fusion import AdapterFusion, fusion_penalty


def check_fusion_parameters(answers) -> None:
    assert answers.fusion_parameters(768, 12, 2, True) == 21_252_096, "RoBERTa-base: V has no bias, Q and K have one each"
    assert answers.fusion_parameters(768, 12, 5, True) == 21_252_096, "Q, K and V are shared by all adapters"
    assert answers.fusion_parameters(64, 2, 3, False) == 2 * (64 * 64 + 3), "static: V stays, and one score for each adapter"


def check_fused_output(answers) -> None:
    g = torch.Generator().manual_seed(0)
    fusion = AdapterFusion(8, 3, generator=g)
    with torch.no_grad():
        for p in fusion.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
        x, outputs = torch.randn(4, 8, generator=g), torch.randn(4, 3, 8, generator=g)
        query, key = ((layer.weight, layer.bias) for layer in (fusion.query, fusion.key))
        found = answers.fused_output(x, outputs, query, key, fusion.value.weight)
        assert found.shape == (4, 8), f"one vector for each token, found {tuple(found.shape)}"
        assert torch.allclose(found, fusion(x, outputs), atol=1e-5), "softmax over the adapters; V is for the values only"


def check_penalty_gradient(answers) -> None:
    fusion = AdapterFusion(5, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fusion.value.weight.add_(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    fusion_penalty(fusion).backward()
    found = answers.penalty_gradient(fusion.value.weight.detach(), 0.01)
    assert torch.allclose(found, fusion.value.weight.grad, atol=1e-7), "the square gives a 2; I is subtracted from V"
