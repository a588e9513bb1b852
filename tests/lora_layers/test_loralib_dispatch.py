"""Which path a layer takes, that both paths agree through the whole library, and that torch.compile keeps the kernels."""

import pytest
import tiny
import torch
from command import run_code, run_fresh
from torch import nn
from triton_here import DEVICE, error, needs_triton

import loralib as lora
from kernels.formulas import nf4
from loralib.compute.dispatch import use_kernels
from loralib.compute.functional import lora_linear

pytestmark = needs_triton()
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def gradients(f, *inputs):
    y = f(*inputs)
    return [y.detach(), *torch.autograd.grad(y.cos().sum(), [t for t in inputs if t.requires_grad])]


def both_paths(f, *inputs):
    results = []
    for mode in ("torch", "triton"):
        with use_kernels(mode):
            results.append(gradients(f, *inputs))
    return results


@pytest.mark.parametrize("parts", [None, ((0, 16), (32, 48)), ((16, 48),)], ids=str)
@pytest.mark.parametrize("tokens", [3, 20, 150])
@pytest.mark.parametrize("packed", [False, True])
def test_both_paths_agree(parts, tokens, packed):
    """Values and gradients of x, A, B; parts of a wide projection; dense and 4-bit weights; few and many tokens."""
    g = torch.Generator().manual_seed(tokens)
    p, width = (1, 48) if parts is None else (len(parts), sum(high - low for low, high in parts))
    x, A, B = (torch.randn(s, generator=g).to(DEVICE).requires_grad_() for s in ((2, tokens, 64), (p * 3, 64), (width, 3)))
    W, b = (torch.randn(s, generator=g).to(DEVICE) for s in ((48, 64), (48,)))
    weight = nf4.quantize(W, double_quant=True) if packed else W
    first, second = both_paths(lambda x, A, B: lora_linear(x, weight, b, A, B, 0.5, parts=parts), x, A, B)
    for one, other in zip(first, second, strict=True):
        assert error(other, one) < 1e-5  # float32, and a cosine of sums of 64 terms in between


def test_a_trainable_base_and_a_tensor_scale():
    g = torch.Generator().manual_seed(0)
    x, W, b, A, B = (torch.randn(s, generator=g).to(DEVICE).requires_grad_() for s in ((9, 12), (7, 12), (7,), (2, 12), (7, 2)))
    scale = torch.tensor(0.5, device=DEVICE)
    first, second = both_paths(lambda *t: lora_linear(*t, scale), x, W, b, A, B)
    for one, other in zip(first, second, strict=True):
        assert error(other, one) < 1e-5


def test_a_4bit_layer_without_lora():
    layer = nn.Sequential(nn.Linear(64, 40)).to(DEVICE)
    x = torch.randn(6, 64, device=DEVICE, requires_grad=True)
    quantized = lora.Linear4bit(nf4.quantize(layer[0].weight), layer[0].bias)
    first, second = both_paths(quantized, x)
    for one, other in zip(first, second, strict=True):
        assert error(other, one) < 1e-5


def test_dropout_drops_in_training_alone_and_its_backward_has_the_same_mask():
    """The output is linear in x for a fixed mask: y(x) = x · dy/dx only if both passes used one mask."""
    layer = lora.Linear(32, 24, r=4, lora_dropout=0.4, bias=False).to(DEVICE)
    layer.lora_B["default"].data.normal_()
    x = torch.randn(40, 32, device=DEVICE, requires_grad=True)
    dy = torch.randn(40, 24, device=DEVICE)
    with use_kernels("triton"):
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        assert float((x * dx).sum()) == pytest.approx(float((y * dy).sum()), rel=1e-4)
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))


def test_a_transformers_model_trains_alike_on_both_paths():
    losses = {}
    for mode in ("torch", "triton"):
        torch.manual_seed(0)
        model = lora.get_peft_model(tiny.bert(), lora.LoraConfig(r=4, target_modules=["query", "value"])).to(DEVICE).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
        with use_kernels(mode):
            for _ in range(3):
                loss = model(tiny.ids().to(DEVICE)).logits.square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        losses[mode] = float(loss)
    assert losses["triton"] == pytest.approx(losses["torch"], rel=1e-5)


def test_a_mixed_batch_in_one_launch():
    """Two adapters of different ranks and the base, three-dimensional input: as the loop, in values and gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).to(DEVICE)
    for name, r in (("a", 4), ("b", 8)):
        config = lora.LoraConfig(r=r, target_modules=["0", "2"], init_lora_weights=False)
        lora.inject(model, config, adapter_name=name) if name == "a" else lora.add_adapter(model, config, name)
    x = torch.randn(5, 7, 20, device=DEVICE)
    results = []
    for mode in ("torch", "triton"):
        model.zero_grad()
        with use_kernels(mode), lora.mixed_batch(model, ["a", "b", None, "b", "a"]):
            y = model(x)
            y.cos().sum().backward()
        results.append([y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == 5
    for one, other in zip(*results, strict=True):
        assert error(other, one) < 1e-5
    with use_kernels("triton"), lora.mixed_batch(model, ["a", None]), pytest.raises(ValueError, match="for 2 rows"):
        model(x)


# ---------------------------------------------------------------- mixed batches, where a review broke them


def mixed(dtype=torch.float32, quantized=False, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 24)).to(DEVICE)
    if quantized:
        model[0] = lora.Linear4bit(nf4.quantize(model[0].weight.detach()), model[0].bias)
    for name, r in (("a", 4), ("b", 8)):
        config = lora.LoraConfig(r=r, target_modules=["0"], init_lora_weights=False)
        lora.inject(model, config, adapter_name=name) if name == "a" else lora.add_adapter(model, config, name)
    lora.set_trainable(model, ["a", "b"])
    return model


def run_mixed(model, x, path):
    model.zero_grad()
    x = x.detach().requires_grad_()
    with use_kernels(path), lora.mixed_batch(model, ["a", None, "b"]):
        y = model(x)
        y.float().cos().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("case", ["plain", "transposed x", "4-bit", "autocast"])
def test_mixed_batches_agree_in_values_and_gradients(case):
    model = mixed(quantized=case == "4-bit")
    x = torch.randn(3, 5, 64, device=DEVICE)
    if case == "transposed x":
        x = torch.randn(64, 5, 3, device=DEVICE).transpose(0, 2)
    if case == "autocast":
        results = []
        for path in ("torch", "triton"):
            with torch.autocast(DEVICE, dtype=torch.float16):
                results.append(run_mixed(model, x, path))
    else:
        results = [run_mixed(model, x, path) for path in ("torch", "triton")]
    assert len(results[0]) == len(results[1]) == 6
    for one, other in zip(*results, strict=True):
        assert error(other, one) < (5e-3 if case == "autocast" else 1e-5)


def test_an_adapter_that_is_not_two_factors_sends_the_whole_batch_through_the_loop():
    """DoRA beside LoRA: the kernels would leave out DoRA's norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24)).to(DEVICE)
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False), adapter_name="a")
    lora.add_adapter(model, lora.LoraConfig(r=4, target_modules=["0"], use_dora=True, init_lora_weights=False), "b")
    lora.set_trainable(model, ["a", "b"])
    model[0].lora_magnitude_vector["b"].data.mul_(1.5)
    x = torch.randn(3, 5, 64, device=DEVICE)
    for one, other in zip(*(run_mixed(model, x, path) for path in ("torch", "triton")), strict=True):
        assert torch.equal(one, other)


def test_the_kept_stack_follows_its_adapters():
    """In inference the factors are stacked once; a trained or loaded adapter is stacked anew."""
    model, x = mixed(), torch.randn(3, 64, device=DEVICE)
    outs = {}
    for path in ("triton", "torch"):
        with torch.no_grad(), use_kernels(path), lora.mixed_batch(model, ["a", None, "b"]):
            outs[path] = [model(x)]
            model[0].lora_B["b"].mul_(2)
            outs[path].append(model(x))
            model[0].lora_B["b"].div_(2)
    for one, other in zip(outs["torch"], outs["triton"], strict=True):
        assert error(other, one) < 1e-6
    assert torch.equal(outs["triton"][0][:2], outs["triton"][1][:2]) and not torch.equal(
        outs["triton"][0][2], outs["triton"][1][2]
    )


MIXED_COMPILE = """
import sys; sys.path.insert(0, "tests")
import torch
from lora_layers.test_loralib_dispatch import error, mixed, run_mixed
x = torch.randn(3, 5, 64)
model = mixed()
results = [run_mixed(f, x, path) for f, path in ((model, "torch"), (torch.compile(model, backend="aot_eager"), "triton"))]
assert len(results[0]) == len(results[1]) == 6, [len(r) for r in results]
assert all(error(a, b) < 1e-5 for a, b in zip(*results)), [error(a, b) for a, b in zip(*results)]
"""


@pytest.mark.skipif(DEVICE != "cpu", reason="written for the interpreter")
def test_a_compiled_mixed_batch_keeps_its_gradients():
    done = run_code(MIXED_COMPILE)
    assert done.returncode == 0, done.stderr[-3000:]


MEASURED_COMPILE = """
import torch, loralib as lora
from loralib.compute import dispatch, functional
dispatch.MEASUREMENTS["Some GPU"] = {"float32": {"lora forward": [[1, 64, 64, 1.5], [100, 64, 64, 0.5]]}}
chosen = []
def choose(operation, device, dtype, shape, r=0, mode="forward"):
    return dispatch.by_measurement(f"{operation} {mode}", "Some GPU", dtype, shape)
functional.choose = choose
layer = lora.Linear(64, 64, r=2).eval().requires_grad_(False)
compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
for M in (3, 5, 7, 9, 40, 77):
    x = torch.randn(M, 64)
    assert torch.allclose(compiled(x), layer(x), atol=1e-5)
frames = torch._dynamo.utils.counters["frames"]["total"]
assert frames <= 3, frames  # one for each side of the border, not one for each M
"""


def test_a_compiled_layer_with_a_changing_number_of_tokens():
    done = run_fresh(MEASURED_COMPILE)  # torch.compile looks for the names of a main module
    assert done.returncode == 0, done.stderr[-3000:]
