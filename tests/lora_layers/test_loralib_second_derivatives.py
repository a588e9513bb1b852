"""Derivatives of gradients, and transforms of `torch.func`, pass every kind of adapted layer.

Oracle: the same model with the updates merged into plain layers, whose derivatives autograd knows by itself, in float64.
"""

import copy

import pytest
import torch
from torch import nn

import loralib as lora

SETTINGS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "parts": {"enable_lora": {"0": [True, False, True]}},
    "dora": {"use_dora": True},
}


def adapted(**settings) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False, **settings))
    return model


def penalty(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The squared norm of the gradient with respect to the input."""
    [slope] = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    return slope.square().sum()


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if kind != "parts"])
def test_a_gradient_penalty_trains_the_factors(kind):
    """Its gradient against differences of its value."""
    model = adapted(**SETTINGS[kind])
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    penalty(model, x).backward()
    for name, p in trained.items():
        step = torch.zeros_like(p)
        step.view(-1)[0] = 1e-6
        if kind == "dora" and "magnitude" not in name:
            continue  # DoRA's norm counts as a constant, which a difference does not know
        with torch.no_grad():
            p += step
        above = penalty(model, x).item()
        with torch.no_grad():
            p -= 2 * step
        below = penalty(model, x).item()
        with torch.no_grad():
            p += step
        assert p.grad.view(-1)[0].item() == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_of_a_layer_learns_from_a_graph_too(kind, bias):
    """A trained bias gets its gradient; a layer without one has nothing to add."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=bias)).double()
    lora.inject(
        model,
        lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, bias="all" if bias else "none", **SETTINGS[kind]),
    )
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    given = [x, *(p for p in model.parameters() if p.requires_grad)]
    assert len(given) == 3 + (kind == "dora") + bias
    plain = torch.autograd.grad(model(x).square().sum(), given)
    again = torch.autograd.grad(model(x).square().sum(), given, create_graph=True)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_first_derivative_is_the_same_with_and_without_a_graph(kind):
    """And that of the merged model with respect to the input."""
    if kind == "parts":
        model = nn.Sequential(nn.Linear(4, 6)).double()
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, **SETTINGS[kind]))
    else:
        model = adapted(**SETTINGS[kind])
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    given = [x, *(p for p in model.parameters() if p.requires_grad)]
    plain = torch.autograd.grad(model(x).square().sum(), given)
    again = torch.autograd.grad(model(x).square().sum(), given, create_graph=True)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-12, rtol=1e-12)
    merged = lora.merge_and_unload(copy.deepcopy(model))
    [slope] = torch.autograd.grad(merged(x).square().sum(), x)
    torch.testing.assert_close(plain[0], slope, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_gradients_of_each_example_with_vmap(kind):
    model = adapted(**SETTINGS[kind])
    x = torch.randn(5, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values, row):
        return torch.func.functional_call(model, values, (row[None],)).square().sum()

    result = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for index, row in enumerate(x):
        model.zero_grad()
        model(row[None]).square().sum().backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(result[name][index], p.grad, atol=1e-10, rtol=1e-10)


def test_a_penalty_through_a_4_bit_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    lora.quantize_model(model)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    x = torch.randn(5, 8, requires_grad=True)
    penalty(model, x).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    rows = torch.func.vmap(lambda row: model(row[None])[0])(x.detach())
    torch.testing.assert_close(rows, model(x).detach(), atol=1e-5, rtol=1e-5)


def test_dropout_keeps_its_mask_in_the_second_derivative():
    model = adapted(lora_dropout=0.5).train()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = model(x).square().sum()
    [plain] = torch.autograd.grad(y, x, retain_graph=True)
    [again] = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(plain, again.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_kernel_gives_the_same_gradients_with_a_graph(bias):
    """In Triton's interpreter. Oracle: the same layer on PyTorch's path."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=bias))
    settings = {"bias": "all" if bias else "none"}
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, **settings))
    x = torch.randn(5, 16, requires_grad=True)
    given = [x, *(p for p in model.parameters() if p.requires_grad)]
    wanted = torch.autograd.grad(model(x).square().sum(), given)
    with lora.use_kernels("triton"):
        plain = torch.autograd.grad(model(x).square().sum(), given)
        again = torch.autograd.grad(model(x).square().sum(), given, create_graph=True)
    for reference, one, other in zip(wanted, plain, again, strict=True):
        torch.testing.assert_close(one, reference, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other.detach(), reference, atol=1e-4, rtol=1e-4)
