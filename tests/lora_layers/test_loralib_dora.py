"""DoRA: the norm, its gradient, and what it keeps (PT31)."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import loralib as lora
from kernels.formulas.dora_matmul import dora_matmul_reference, row_norms
from kernels.formulas.dropout import keep_mask, plain_dropout
from lora_layers.test_loralib_variants import peft
from loralib.variants.dora import dora_linear, updated_norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pt31_the_closed_form_norm(dtype):
    torch.manual_seed(0)
    W, A, B = torch.randn(33, 47, dtype=dtype), torch.randn(5, 47, dtype=dtype), torch.randn(33, 5, dtype=dtype)
    W[3], B[3] = 0, 0  # a row of zeros divides by one, where peft gives NaN
    direct = (W.double() + 0.7 * B.double() @ A.double()).norm(dim=1)
    result = row_norms(W, W.square().sum(1), A, B, 0.7)
    assert result[3] == 1 and direct[3] == 0
    direct[3] = 1
    # a sum of 47 squares and 5 multiplications: some tens of roundings, which the root halves
    assert ((result.double() - direct) / direct).abs().max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("with_bias", [True, False])
def test_pt31_dora_gradients_are_those_of_the_definition(with_bias):
    torch.manual_seed(0)
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, W, A, B, m = make(2, 3, 11), make(7, 11), make(4, 11), make(7, 4), make(7)
    bias = make(7) if with_bias else None
    given = [t for t in (x, W, bias, A, B, m) if t is not None]
    out = torch.randn(2, 3, 7, dtype=torch.float64)
    ours = dora_linear(x, W, bias, A, B, m, W.detach().square().sum(1), 0.5)
    truth = dora_matmul_reference(x, W, bias, A, B, m, 0.5)
    torch.testing.assert_close(ours, truth, atol=1e-12, rtol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, given, out), torch.autograd.grad(truth, given, out), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_dora_drops_the_lora_branch_alone():
    model = nn.Sequential(nn.Linear(8, 6))
    lora.inject(model, lora.LoraConfig(r=2, use_dora=True, lora_dropout=0.5, init_lora_weights=False, target_modules=["0"]))
    layer, x = model[0].train(), torch.randn(4, 8)
    torch.manual_seed(1)
    result = layer(x)
    torch.manual_seed(1)
    dropped = plain_dropout(x, keep_mask(x.shape, 0.5), 0.5)
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    gain = layer.lora_magnitude_vector["default"] / updated_norms(layer, "default")
    wanted = gain * (x @ layer.weight.T + layer.variants["default"].scaling * dropped @ A.T @ B.T) + layer.bias
    torch.testing.assert_close(result, wanted, atol=1e-6, rtol=1e-6)


class Sizes(TorchDispatchMode):
    """The number of elements of every new tensor, views left out."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_dora_makes_no_temporary_of_the_weights_size():
    tokens, d_in, d_out, r = 4, 96, 80, 8
    model = nn.Sequential(nn.Linear(d_in, d_out))
    lora.inject(model, lora.LoraConfig(r=r, use_dora=True, init_lora_weights=False, target_modules=["0"]))
    x = torch.randn(tokens, d_in, requires_grad=True)
    with Sizes() as visited:  # the first call also computes ‖W‖²
        model(x).sum().backward()
    assert visited.largest <= r * max(d_in, d_out) < d_in * d_out
    other = peft.get_peft_model(nn.Sequential(nn.Linear(d_in, d_out)), peft.LoraConfig(r=r, use_dora=True, target_modules=["0"]))
    with Sizes() as visited:
        other(x).sum().backward()
    assert visited.largest >= d_in * d_out  # the test can fail: peft makes one


def test_dora_is_counted_without_memory_as_lora_is():
    model = nn.Sequential(nn.Linear(4, 4))
    lora.inject(model, lora.LoraConfig(r=2, use_dora=True, target_modules=["0"]))
    model.to("meta")(torch.empty(3, 4, device="meta")).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_dora_sees_a_base_that_changed():
    model = nn.Sequential(nn.Linear(8, 6))
    lora.inject(model, lora.LoraConfig(r=2, use_dora=True, init_lora_weights=False, target_modules=["0"]))
    x = torch.randn(3, 8)
    model(x)
    with torch.no_grad():
        model[0].weight.mul_(2)
    layer = model[0]
    W, A, B, m = layer.weight, layer.lora_A["default"], layer.lora_B["default"], layer.lora_magnitude_vector["default"]
    truth = dora_matmul_reference(x.double(), W.double(), layer.bias.double(), A.double(), B.double(), m.double(), 4.0)
    torch.testing.assert_close(model(x).double(), truth, atol=1e-5, rtol=1e-5)
