"""int8 students: exact matmuls on every route, training that equals its export bit for bit, files that bring the bits back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, bert, gpt2, ids
from torch import nn
from transformers.pytorch_utils import Conv1D

from distill.compression import int8_product
from distill.compression.compressed_files import save_compressed
from distill.compression.fake_quant import fake_int8_linear, fake_paths, fake_quantize, unfake
from distill.compression.int8 import Int8Linear, int8_layer, quantize_int8
from distill.compression.int8_product import FLOAT_COLUMNS, ROWS, SMALLEST, int8_matmul, quantize_rows
from loralib import LoraConfig, inject

KINDS = ("bert", "roberta", "distilbert", "gpt2", "llama")
ROUTES = {"int_mm or what stands in for it": int8_matmul, "float32": int8_product._through_float32}


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, *more):
    return model(ids(), *more).logits


@pytest.mark.parametrize("route", ROUTES)
@given(seed=st.integers(0, 10**6), M=st.integers(0, 40), N=st.integers(1, 70), K=st.integers(1, 300))
def test_products_are_exact(route, seed, M, N, K):
    a, w = numbers(seed, M, K), numbers(seed + 1, N, K)
    result = ROUTES[route](a, w)
    assert result.dtype == torch.int32
    np.testing.assert_array_equal(result.numpy(), a.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("K", [FLOAT_COLUMNS, FLOAT_COLUMNS + 1, 4099])
def test_the_largest_sums_are_exact(route, K):
    """All numbers ±127: one float32 sum of them would pass 2²⁴ after 1040 columns and lose the odd numbers."""
    a = torch.full((3, K), 127, dtype=torch.int8)
    w = torch.full((5, K), -127, dtype=torch.int8)
    a[1], w[1, 0] = numbers(K, K), 126
    np.testing.assert_array_equal(ROUTES[route](a, w).numpy(), a.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T)


@pytest.mark.parametrize("route", ROUTES)
def test_single_rows_of_any_stride(route):
    """The step of a dimension of size 1 is arbitrary; `torch._int_mm` on a CPU returns rubbish for 0 (pytorch issue 195066)."""
    a, w = numbers(0, 1, 64), numbers(1, 1, 64)
    loose_a, loose_w = a.as_strided((1, 64), (0, 1)), w.as_strided((1, 64), (1, 1))
    wanted = a.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T
    np.testing.assert_array_equal(ROUTES[route](loose_a, loose_w).numpy(), wanted)
    wide = numbers(2, 5, 64)
    np.testing.assert_array_equal(ROUTES[route](loose_a, wide).double(), a.double() @ wide.double().T)
    np.testing.assert_array_equal(
        ROUTES[route](wide[:, ::2], wide[:, 1::2]).double(), wide[:, ::2].double() @ wide[:, 1::2].double().T
    )


def test_the_widest_sum_that_int32_holds_is_exact():
    """n terms of at most 127² sum to less than 2³¹ for n up to 133,144."""
    widest = torch.full((1, 133_144), 127, dtype=torch.int8)
    assert int8_product.INT_COLUMNS == 133_144
    assert int(int8_matmul(widest, widest)) == 133_144 * 127**2 < 2**31 <= 133_145 * 127**2


def test_a_sum_that_int32_cannot_hold_is_refused():
    wide = torch.zeros(1, int8_product.INT_COLUMNS + 1, dtype=torch.int8)
    with pytest.raises(ValueError, match="does not fit int32"):
        int8_matmul(wide, wide)
    with pytest.raises(ValueError, match="does not fit int32"):
        Int8Linear(wide, torch.ones(1))


ANSWER = """
import hashlib, torch
from distill.compression.int8_product import int8_linear, int_mm_is_exact, quantize_rows
torch.set_num_threads(1)
g = torch.Generator().manual_seed(3)
x, W, b = (torch.randint(-1000, 1000, s, generator=g).float() / 512 for s in ((70, 192), (96, 192), (96,)))
q, s = quantize_rows(W)
y = int8_linear(x, q, s[:, 0], b)
print(hashlib.sha256(y.numpy().tobytes()).hexdigest(), int_mm_is_exact())
"""


def test_a_cpu_without_vnni_gives_the_same_bits():
    """oneDNN set to use AVX2 gives wrong int8 sums and says nothing; the probe must see that, and the answers stay."""
    result = []
    for isa in ("ALL", "AVX2"):
        env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, "-c", ANSWER], env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        result.append(run.stdout.split())
    assert result[0][0] == result[1][0], f"(digest, _int_mm exact): {result}"


@given(seed=st.integers(0, 10**6), exponent=st.integers(-25, 30), rows=st.integers(1, 9), K=st.integers(1, 65))
def test_rows_become_whole_numbers(seed, exponent, rows, K):
    """numpy's float32 says the same; the error is half a step; the largest is ±127."""
    x = normal(seed, rows, K) * 10.0**exponent
    q, scale = quantize_rows(x)
    by_hand = np.maximum(np.abs(x.numpy()).max(1, keepdims=True), np.float32(SMALLEST)) / np.float32(127)
    np.testing.assert_array_equal(scale.numpy(), by_hand)
    np.testing.assert_array_equal(q.numpy(), np.rint(x.numpy() / by_hand).astype(np.int8))
    assert (q.abs().amax(1) == 127).all()
    step = scale.double()
    missed = (q.double() * step - x.double()).abs()
    assert (missed <= step * (0.5 + 128 * 2.0**-24)).all(), "x / scale is off by at most 127 · 2⁻²⁴ before it is rounded"


def test_rows_of_zeros_and_rows_that_are_not_finite():
    x = torch.zeros(4, 8)
    x[1, 2], x[2, 3], x[3, 0] = torch.nan, torch.inf, SMALLEST / 1000
    layer = nn.Linear(8, 3)
    y = int8_layer(layer)(x)
    assert torch.equal(y[0], layer.bias.detach()) and torch.equal(y[3], layer.bias.detach())
    assert not torch.isfinite(y[1:3]).any(), "a broken row must not come out as an ordinary number"


def test_the_layer_is_its_definition_and_no_row_depends_on_another():
    """More rows than one block; the three float32 steps as they are written down."""
    layer = nn.Linear(50, 33)
    rows = 3 * (ROWS // 2 + 1)
    own, x = int8_layer(layer), normal(1, rows, 50)
    y = own(x)
    q, s = quantize_rows(x)
    exact = torch.from_numpy(q.numpy().astype(np.int64) @ own.weight.numpy().astype(np.int64).T)
    assert torch.equal(y, exact.float() * s * own.scale + layer.bias.detach())
    assert torch.equal(own(x[40:41]), y[40:41]) and torch.equal(own(x.flip(0)), y.flip(0))
    assert own(x.view(3, -1, 50)).shape == (3, rows // 3, 33) and own(x[:0]).shape == (0, 33)


def test_the_error_is_within_its_bound():
    """|y - xWᵀ| ≤ Σ (s_x/2 |w| + s_w/2 |x| + s_x s_w / 4), each a rounding by half a step."""
    layer, x = nn.Linear(96, 40), normal(2, 30, 96)
    own = int8_layer(layer)
    w = layer.weight.detach().double()
    exact = x.double() @ w.T + layer.bias.detach().double()
    s_x, s_w = quantize_rows(x)[1].double(), own.scale.double()
    bound = s_x / 2 * w.abs().sum(1) + s_w / 2 * x.double().abs().sum(1, keepdim=True) + 96 * s_x * s_w / 4
    missed = (own(x).double() - exact).abs()
    assert (missed <= bound * 1.001).all() and missed.max() > 1e-3 * bound.max()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_training_computes_what_the_export_computes(kind, exact, monkeypatch):
    """Also after steps of an optimizer, and on either route."""
    monkeypatch.setattr(int8_product, "int_mm_is_exact", lambda: exact)
    model = FAMILIES[kind]()
    before, names = logits(model), list(dict(model.named_parameters()))
    paths = fake_quantize(model)
    assert list(dict(model.named_parameters())) == names and fake_paths(model) == paths
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(ids()).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = logits(model)
    assert not torch.allclose(trained, before)
    report = quantize_int8(model)
    assert [row.path for row in report.rows] == paths and not fake_paths(model)
    assert torch.equal(logits(model), trained)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_is_that_of_the_rounded_layer(transposed):
    """As if x̂, Ŵ had been the numbers: autograd on them gives the same bits; without the rounding's own derivative."""
    x = normal(3, 2, 5, 24).requires_grad_()
    layer = Conv1D(16, 24) if transposed else nn.Linear(24, 16)
    box = nn.ModuleList([layer])
    fake_quantize(box)
    grad = normal(4, 2, 5, 16)
    box[0](x).backward(grad)
    weight = layer.weight.detach().T if transposed else layer.weight.detach()
    (q, s), (q_w, s_w) = quantize_rows(x.detach().view(-1, 24)), quantize_rows(weight)
    x_hat, w_hat = (q * s).requires_grad_(), (q_w * s_w).requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    (x_hat @ w_hat.T + bias).backward(grad.view(-1, 16))
    assert torch.equal(x.grad.view(-1, 24), x_hat.grad)
    assert torch.equal(layer.weight.grad.T if transposed else layer.weight.grad, w_hat.grad)
    assert torch.equal(layer.bias.grad, bias.grad)


def test_numbers_on_the_grid_have_the_gradient_of_the_plain_layer():
    """Where rounding changes nothing the layer is nn.Linear, forward and backward: whole numbers, so float32 is exact."""
    x, w, b = (numbers(i, *shape).float() for i, shape in enumerate([(6, 20), (9, 20), (9,)]))
    x[:, 0], w[:, 0] = 127, -127  # every scale is 1
    one, other = ([t.clone().requires_grad_() for t in (x, w, b)] for _ in range(2))
    grad = numbers(9, 6, 9).float()
    y, z = fake_int8_linear(*one), nn.functional.linear(*other)
    y.backward(grad)
    z.backward(grad)
    assert torch.equal(y, z)
    for own, plain in zip(one, other, strict=True):
        assert torch.equal(own.grad, plain.grad)


def test_frozen_parts_get_no_gradient_and_x_is_kept_in_8_bits():
    x = normal(5, 64, 32)
    weight, bias = nn.Parameter(normal(6, 48, 32)), nn.Parameter(torch.zeros(48), requires_grad=False)
    remaining: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: remaining.append(t) or t, lambda t: t):
        y = fake_int8_linear(x, weight, bias)
    y.sum().backward()
    assert bias.grad is None and weight.grad is not None
    assert sum(t.nbytes for t in remaining if len(t) == 64) == 64 * 32 + 64 * 4


def test_unfake_gives_back_the_float_model():
    model = bert()
    plain = logits(model)
    paths = fake_quantize(model)
    with pytest.raises(ValueError, match=f"{len(paths)} layers compute in int8 already"):
        fake_quantize(model)
    assert not torch.equal(logits(model), plain)
    assert unfake(model) == paths and torch.equal(logits(model), plain)
    assert all(type(model.get_submodule(path)) is nn.Linear for path in paths)
    with pytest.raises(ValueError, match="nothing to turn back"):
        unfake(model)


def test_heads_and_excluded_layers_stay_float():
    model = bert()
    paths = [row.path for row in quantize_int8(model, exclude=["pooler.dense"]).rows]
    assert len(paths) == 12 and type(model.classifier) is nn.Linear and type(model.bert.pooler.dense) is nn.Linear
    assert type(gpt2().lm_head) is nn.Linear
    model = gpt2()
    assert len(quantize_int8(model).rows) == 8 and type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.transformer.wte.weight


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match=r"pooler.dens'.*nearest: .*pooler.dense"):
        quantize_int8(bert(), exclude=["pooler.dens"])
    model = bert()
    quantize_int8(model)
    for again, match in ((quantize_int8, "in int8 already"), (fake_quantize, "found no Linear")):
        with pytest.raises(ValueError, match=match):
            again(model)
    model = bert()
    inject(model, LoraConfig(r=2, target_modules=["query"]))
    for do in (quantize_int8, fake_quantize):
        with pytest.raises(ValueError, match="merge the adapters"):
            do(model)
    model = bert()
    fake_quantize(model)
    with pytest.raises(ValueError, match="leave out exclude"):
        quantize_int8(model, exclude=["pooler.dense"])
    with pytest.raises(ValueError, match="quantize_int8"):
        save_compressed(model, "nowhere")
    broken = nn.ModuleList([nn.Linear(4, 4)])
    broken[0].weight.data[1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"0.weight has values that are not finite"):
        quantize_int8(broken)
    assert type(broken[0]) is nn.Linear
    with pytest.raises(ValueError, match="expected int8"):
        Int8Linear(torch.zeros(2, 3), torch.ones(2))


def test_no_gradient_passes_silently_and_no_cast_rounds_the_scales():
    model = bert()
    quantize_int8(model)
    assert not any(p.requires_grad for p in model.parameters())
    layer = model.bert.pooler.dense
    with pytest.raises(ValueError, match="no gradient"):
        layer(torch.zeros(1, 24, requires_grad=True))
    scale = layer.scale.clone()
    model.to(torch.bfloat16)
    assert torch.equal(layer.scale, scale) and layer.weight.dtype == torch.int8
    assert layer(torch.ones(1, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16
