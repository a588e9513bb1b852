"""What only a GPU can show: compiled by inductor, captured in a graph, the same bits every time, half precision of both kinds."""

import pytest
import torch
from torch import nn
from triton_here import ON_GPU

import loralib as lora
from kernels.formulas import nf4
from loralib.compute.dispatch import use_kernels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="no GPU")]
HALVES = [torch.bfloat16, torch.float16]


def layer_of(kind: str, dtype: torch.dtype, dropout: float = 0.0) -> nn.Module:
    """A LoRA layer 256 → 192 with r = 8 and random factors, dense or on a 4-bit weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 192, bias=False).to(dtype))
    if kind == "nf4":
        model[0] = lora.Linear4bit(nf4.quantize(model[0].weight.detach(), double_quant=True))
    lora.inject(model, lora.LoraConfig(r=8, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False))
    return model.cuda().train()


def results(model, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """The output and every gradient."""
    torch.manual_seed(seed)
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    y = model(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), leaves)]


def rows(M: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(M)
    return torch.randn(M, 256, generator=generator, device="cuda").to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("M", [1, 20, 70, 700])
@pytest.mark.parametrize("kind", ["dense", "nf4"])
def test_the_kernels_agree_with_torch(kind, M, dtype):
    """Each side rounds x Wᵀ, S and the output once or twice: 4 roundings of half an epsilon, relative to the norm."""
    model, x = layer_of(kind, dtype), rows(M, dtype)
    result = {}
    for mode in ("triton", "torch"):
        with use_kernels(mode):
            result[mode] = results(model, x)
    for ours, other in zip(result["triton"], result["torch"], strict=True):
        assert float((ours.double() - other.double()).norm() / other.double().norm()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", ["dense", "nf4"])
def test_two_runs_give_the_same_bits(kind):
    """No sum depends on the order in which programs end; dropout comes from a seed."""
    model = layer_of(kind, torch.bfloat16, dropout=0.1)
    x = rows(700, torch.bfloat16)
    with use_kernels("triton"):
        first, second, other = results(model, x), results(model, x), results(model, x, seed=1)
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("kind", ["dense", "nf4"])
def test_inductor_compiles_the_whole_layer(kind):
    model, x = layer_of(kind, torch.bfloat16), rows(70, torch.bfloat16)
    with use_kernels("triton"):
        eager = results(model, x)
        compiled = results(torch.compile(model, fullgraph=True), x)
    for ours, other in zip(compiled, eager, strict=True):
        assert float((ours.double() - other.double()).norm() / other.double().norm()) < 2 * torch.finfo(torch.bfloat16).eps


def test_a_graph_draws_a_new_dropout_mask_at_every_replay():
    model, x = layer_of("dense", torch.bfloat16, dropout=0.5), rows(70, torch.bfloat16).detach()
    with use_kernels("triton"), torch.no_grad():
        model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
    outputs = []
    for _ in range(2):
        graph.replay()
        outputs.append(y.clone())
    assert not torch.equal(*outputs)
