"""The hand-written autograd node: gradcheck, dropout, autocast, and what it keeps. Oracle: autograd, peft."""

import pytest
import torch
from command import run_code
from torch import nn
from torch.nn import functional as F

import loralib as lora
from kernels.formulas.dropout import keep_mask, plain_dropout
from kernels.measure import count_operations, saved_bytes
from loralib.compute.functional import LoraLinearFunction, lora_linear


def tensors(dtype=torch.float64, M=5, K=4, N=6, r=2, p=1):
    g = torch.Generator().manual_seed(0)
    shapes = [(2, M, K), (N, K), (N,), (p * r, K), (N if p == 1 else p * N // 3, r)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("parts", [None, ((0, 2), (4, 6))])
@pytest.mark.parametrize("dropped", [False, True])
def test_gradcheck_float64(parts, dropped):
    x, W, b, A, B = tensors(p=1 if parts is None else 2)
    keep = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6) if dropped else None
    ranges = parts or ((0, 6),)
    f = lambda *t: LoraLinearFunction.apply(*t, 0.8, keep, ranges)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, W, b, A, B), atol=1e-6)


def test_pt5_dropout_is_on_the_lora_branch_alone():
    x, W, b, A, B = tensors(torch.float32)
    torch.manual_seed(3)
    ours = lora_linear(x, W, b, A, B, 0.5, dropout=0.3)
    torch.manual_seed(3)
    S = F.linear(plain_dropout(x, keep_mask(x.shape, 0.3), 0.3), A)
    wanted = F.linear(x, W, b).flatten(0, 1).addmm(S.flatten(0, 1), B.T, alpha=0.5).view_as(ours)
    torch.testing.assert_close(ours, wanted)  # the division by P(m = 1) stands at another place


def test_dropout_is_off_in_eval_mode_and_never_touches_the_base():
    layer = lora.Linear(8, 8, r=2, lora_dropout=0.5)
    x = torch.randn(64, 8)
    base = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), base)  # B is zero: the branch adds nothing, dropped or not
    layer.lora_B["default"].data.fill_(1.0)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_cpu_bf16_autocast_forward_and_backward():
    x, W, b, A, B = tensors(torch.float32, M=32, K=64, N=48, r=4)
    exact = lora_linear(*(t.double() for t in (x, W, b, A, B)), 0.5)
    exact_grads = torch.autograd.grad(exact.sum(), (x, A, B))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = lora_linear(x, W, b, A, B, 0.5)
    grads = torch.autograd.grad(y.float().sum(), (x, A, B))
    assert y.dtype == torch.bfloat16 and all(g.dtype == torch.float32 for g in grads)
    # bf16 keeps 8 bits: each operand is off by 2^-9 relative, and a few roundings follow one another
    for got, want in zip((y.double(), *grads), (exact, *exact_grads), strict=True):
        assert (got - want).norm() / want.norm() < 4 * 2**-8


def test_backward_inside_autocast_keeps_the_forwards_dtype():
    x, W, b, A, B = tensors(torch.float32)
    y = lora_linear(x, W, b, A, B, 0.5)
    plain = torch.autograd.grad(y.sum(), (x, A, B), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(y.sum(), (x, A, B))
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("base", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("adapter", ["float32", "same"])
def test_pt27_dtype_matrix(base, adapter):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).to(base)
    lora.inject(
        model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), autocast_adapter_dtype=adapter == "float32"
    )
    assert model[0].lora_A["default"].dtype == (torch.float32 if adapter == "float32" else base)
    y = model(torch.randn(4, 16, dtype=base))
    y.float().sum().backward()
    assert y.dtype == base and torch.isfinite(y).all()
    grad = model[0].lora_A["default"].grad
    assert grad.dtype == model[0].lora_A["default"].dtype and torch.isfinite(grad).all()


def test_it_keeps_x_and_the_rank_r_product_only():
    x, W, b, A, B = tensors(torch.float32, M=32, K=64, N=48, r=4)
    tokens = x.shape[0] * x.shape[1]
    parameters = (W, b, A, B)
    assert saved_bytes(lambda: lora_linear(x, *parameters, 0.5), parameters) == x.nbytes + tokens * 4 * 4
    with_mask = saved_bytes(lambda: lora_linear(x, *parameters, 0.5, dropout=0.1), parameters)
    assert with_mask == x.nbytes + tokens * 4 * 4 + x.numel()  # one byte for each mask entry


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_no_more_and_runs_fewer_operations_than_peft(dtype, dropout):
    peft = pytest.importorskip("peft")
    ours, other = (nn.Sequential(nn.Linear(64, 48)).to(dtype) for _ in range(2))
    lora.inject(ours, lora.LoraConfig(r=4, lora_dropout=dropout, target_modules=["0"]))
    other = peft.get_peft_model(other, peft.LoraConfig(r=4, lora_dropout=dropout, target_modules=["0"]))
    x = torch.randn(32, 64, dtype=dtype, requires_grad=True)
    remaining = [saved_bytes(lambda m=m: m(x), m.parameters()) for m in (ours.train(), other.train())]
    assert remaining[0] <= remaining[1], remaining
    counts = [sum(count_operations(lambda m=m: m(x)).values()) for m in (ours.eval(), other.eval())]
    casts = 2 if dtype == torch.bfloat16 else 0  # the small A and B
    assert counts[0] == 3 + casts and counts[0] < counts[1], counts


COMPILE = """
import torch, loralib as lora
layer = lora.Linear(8, 6, r=2)
layer.lora_B["default"].data.normal_()
x = torch.randn(4, 8, requires_grad=True)
compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
assert torch.equal(compiled(x), layer(x))
ours, theirs = (torch.autograd.grad(f(x).sum(), [x, *layer.lora_A.parameters()]) for f in (compiled, layer))
assert all(map(torch.equal, ours, theirs))
"""


def test_torch_compile_takes_the_node_whole():
    """In a process of its own: the shape checker under pytest cannot be traced."""
    done = run_code(COMPILE)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_trainable_base_gets_its_gradients():
    x, W, b, A, B = tensors()
    lora_linear(x, W, b, A, B, 0.5).sum().backward()
    torch.testing.assert_close(W.grad, x.detach().flatten(0, 1).sum(0).expand_as(W))
    assert b.grad is not None
