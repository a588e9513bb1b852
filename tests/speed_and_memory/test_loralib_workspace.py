"""The reused buffer for decoded 4-bit weights: reuse, nested calls, threads, checkpointing, and no view of it outside."""

import threading

import pytest
import torch
from command import run_code
from torch import nn
from torch.utils.checkpoint import checkpoint

import loralib as lora
from kernels.formulas.nf4 import dequantize, quantize
from kernels.measure import saved_bytes
from loralib.compute.workspace import decoded, held_bytes, release


@pytest.fixture(autouse=True)
def no_buffers():
    release()
    yield
    release()


def weights(*shapes):
    return [quantize(torch.randn(shape, generator=torch.Generator().manual_seed(i))) for i, shape in enumerate(shapes)]


def model_of(double=False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 40), nn.Tanh(), nn.Linear(40, 48), nn.Tanh(), nn.Linear(48, 24))
    lora.quantize_model(model, double_quant=double)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    return model


def gradients(model: nn.Module, x: torch.Tensor, run=lambda model, x: model(x)) -> list[torch.Tensor]:
    return list(torch.autograd.grad(run(model, x).square().sum(), [x, *(p for p in model.parameters() if p.requires_grad)]))


def test_the_buffer_is_reused_and_grows():
    small, large = weights((8, 64), (16, 64))
    addresses = []
    for weight in (large, small, large):
        with decoded(weight, torch.float32) as W:
            assert torch.equal(W, dequantize(weight))
            addresses.append(W.data_ptr())
    assert len(set(addresses)) == 1 and held_bytes() == 16 * 64 * 4
    with decoded(*weights((32, 64)), torch.float32):
        pass
    assert held_bytes() == 32 * 64 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_each_dtype_has_its_own_and_odd_sizes_fit(dtype):
    [weight] = weights((5, 7))
    with decoded(weight, dtype) as W, decoded(weight, torch.float32) as other:
        assert torch.equal(W, dequantize(weight, dtype)) and torch.equal(other, dequantize(weight))


def test_nested_calls_do_not_share():
    first, second = weights((8, 64), (8, 64))
    with decoded(first, torch.float32) as W:
        with decoded(second, torch.float32) as V:
            assert W.data_ptr() != V.data_ptr()
        assert torch.equal(W, dequantize(first))
    assert held_bytes() == 8 * 64 * 4, "one of the two is free again"


def test_an_error_gives_the_buffer_back():
    [weight] = weights((8, 64))
    with pytest.raises(KeyError), decoded(weight, torch.float32):
        raise KeyError
    assert held_bytes() == 8 * 64 * 4


def test_threads_have_their_own():
    several, wrong = weights(*[(64, 64)] * 4), []

    def run(weight):
        wanted = dequantize(weight)
        for _ in range(50):
            with decoded(weight, torch.float32) as W:
                if not torch.equal(W, wanted):
                    wrong.append(weight)

    threads = [threading.Thread(target=run, args=(weight,)) for weight in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and held_bytes() == 0


@pytest.mark.parametrize("double", [False, True])
def test_outputs_and_gradients_are_those_of_new_tensors(double, monkeypatch):
    """All layers of a model share one buffer: nothing may be a view of it."""
    model, x = model_of(double), torch.randn(5, 48, requires_grad=True)
    y, ours = model(x), gradients(model, x)
    from contextlib import nullcontext

    from loralib.compute import functional

    monkeypatch.setattr(functional, "decoded", lambda weight, dtype: nullcontext(dequantize(weight, dtype)))
    assert torch.equal(model(x), y)
    assert all(map(torch.equal, gradients(model, x), ours))


def test_it_is_never_saved_for_the_backward_pass():
    model, x = model_of(), torch.randn(5, 48, requires_grad=True)
    saved = saved_bytes(lambda: model(x), model.parameters())
    assert saved < 5 * 4 * (48 + 40 + 40 + 48 + 48 + 2 * 2 + 24) + 1, saved


def test_checkpointing_and_retained_graphs():
    model, x = model_of(), torch.randn(5, 48, requires_grad=True)
    again = gradients(model, x, lambda model, x: checkpoint(model, x, use_reentrant=False))
    assert all(map(torch.equal, again, gradients(model, x)))
    loss = model(x).square().sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_inference_first_and_training_afterwards():
    model, x = model_of(), torch.randn(5, 48, requires_grad=True)
    with torch.inference_mode():
        model(x)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model, x))


COMPILED = """
import torch, loralib as lora
from torch import nn
model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 64))
lora.quantize_model(model)
lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
x = torch.randn(4, 64, requires_grad=True)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
grads = [torch.autograd.grad(f(x).sum(), [x, *(p for p in model.parameters() if p.requires_grad)]) for f in (compiled, model)]
assert all(map(torch.equal, *grads))
"""


def test_a_compiled_model_has_no_graph_break():
    done = run_code(COMPILED)
    assert done.returncode == 0, done.stderr[-3000:]
