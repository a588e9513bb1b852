"""Each kind of LoRA layer against peft with the same tensors, and the start of the factors. Oracle: peft, scipy."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import loralib as lora

peft = pytest.importorskip("peft")


class One(nn.Module):
    """A model of one layer, so that peft has a path to match."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def pair(make, r=4, alpha=12, dropout=0.0):
    """(ours, peft's) around equal layers with equal random factors."""
    torch.manual_seed(0)
    base = make()
    ours, others = One(make()), One(make())
    for model in (ours, others):
        model.load_state_dict({f"layer.{k}": v for k, v in base.state_dict().items()})
    lora.inject(
        ours, lora.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=["layer"], init_lora_weights=False)
    )
    fan = isinstance(base, Conv1D)
    others = peft.get_peft_model(
        others, peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=["layer"], fan_in_fan_out=fan)
    )
    tensors = [p for n, p in others.named_parameters() if "lora_" in n]
    for own, other in zip((ours.layer.lora_A["default"], ours.layer.lora_B["default"]), tensors, strict=True):
        torch.nn.init.normal_(own, std=0.3)
        other.data.copy_(own)
    return ours, others


MAKERS = {
    "linear": (lambda: nn.Linear(20, 12), lambda: torch.randn(3, 5, 20)),
    "linear without bias": (lambda: nn.Linear(20, 12, bias=False), lambda: torch.randn(7, 20)),
    "conv1d": (lambda: Conv1D(12, 20), lambda: torch.randn(3, 5, 20)),
    "conv1d square": (lambda: Conv1D(20, 20), lambda: torch.randn(3, 5, 20)),
    "embedding": (lambda: nn.Embedding(30, 12), lambda: torch.randint(0, 30, (3, 5))),
    "embedding with padding": (lambda: nn.Embedding(30, 12, padding_idx=0), lambda: torch.randint(0, 3, (3, 5))),
    "conv2d": (lambda: nn.Conv2d(3, 8, 3, padding=1, stride=2), lambda: torch.randn(2, 3, 9, 7)),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("r", [1, 4, 16])
def test_pt1_pt2_forward_and_gradients_equal_pefts(kind, r):
    make, draw = MAKERS[kind]
    ours, others = pair(make, r=r)
    x = draw()
    inputs = [x.clone().requires_grad_() for _ in range(2)] if x.is_floating_point() else [x, x]
    y, z = ours(inputs[0]), others(inputs[1])
    torch.testing.assert_close(y, z, atol=1e-5, rtol=1e-5)
    dy = torch.randn(y.shape)
    y.backward(dy)
    z.backward(dy)
    theirs_grads = [p.grad for n, p in others.named_parameters() if "lora_" in n]
    for own, other in zip((ours.layer.lora_A["default"], ours.layer.lora_B["default"]), theirs_grads, strict=True):
        torch.testing.assert_close(own.grad, other, atol=1e-5, rtol=1e-4)
    if x.is_floating_point():
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_pt12_merged_equals_unmerged(kind):
    make, draw = MAKERS[kind]
    ours, _ = pair(make)
    ours.eval()
    x = draw()
    before = ours(x)
    lora.merge(ours)
    torch.testing.assert_close(ours(x), before, atol=1e-5, rtol=1e-5)
    lora.merge_and_unload(ours)
    assert type(ours.layer) is type(make())
    torch.testing.assert_close(ours(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("enable", [[True, False, True], [True, True, True], [False, True, False]])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_pt12_merged_qkv_changes_only_its_parts(enable, kind):
    base = nn.Linear(10, 18) if kind == "linear" else Conv1D(18, 10)
    model = One(base)
    x = torch.randn(4, 10)
    plain = model(x).detach()
    config = lora.LoraConfig(r=2, target_modules=["layer"], enable_lora={"layer": enable}, init_lora_weights=False)
    lora.inject(model, config)
    y = model.eval()(x)
    layer = model.layer
    for i, on in enumerate(enable):
        part = slice(6 * i, 6 * i + 6)
        if on:
            j = sum(enable[:i])
            A, B = layer.lora_A["default"][2 * j : 2 * j + 2], layer.lora_B["default"][6 * j : 6 * j + 6]
            wanted = plain[:, part] + config.scaling * x @ A.T @ B.T
            torch.testing.assert_close(y[:, part], wanted, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(y[:, part], plain[:, part])
    lora.merge(model)
    torch.testing.assert_close(model(x), y, atol=1e-5, rtol=1e-5)


def test_merged_linear_by_microsofts_name():
    layer = lora.MergedLinear(8, 12, r=2, enable_lora=[True, False, True])
    assert layer.lora_A["default"].shape == (4, 8) and layer.lora_B["default"].shape == (8, 2)
    assert not layer.weight.requires_grad and layer.lora_A["default"].requires_grad


def test_parts_must_divide_the_output():
    with pytest.raises(ValueError, match="multiple"):
        lora.MergedLinear(8, 10, r=2, enable_lora=[True, False, True])


@pytest.mark.parametrize("kind", MAKERS)
def test_pt3_the_start_is_the_base_model_bit_for_bit(kind):
    make, draw = MAKERS[kind]
    model, x = One(make()), draw()
    before = model(x)
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["layer"]))
    zero = model.layer.lora_A if kind.startswith("embedding") else model.layer.lora_B
    assert torch.equal(model(x), before) and not zero["default"].any()


def test_pt3_A_starts_uniform_within_one_over_root_d_in():
    d_in = 300
    model = One(nn.Linear(d_in, 4))
    lora.inject(model, lora.LoraConfig(r=64, target_modules=["layer"]), seed=0)
    A = model.layer.lora_A["default"].detach()
    bound = 1 / math.sqrt(d_in)
    assert A.abs().max() <= bound
    assert abs(A.std() * math.sqrt(3 * d_in) - 1) < 0.02
    assert kstest(A.flatten().numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 0.01


def test_a_seed_fixes_the_start_and_leaves_the_global_generator_alone():
    starts = []
    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        model = One(nn.Linear(8, 4))
        torch.set_rng_state(state)
        lora.inject(model, lora.LoraConfig(target_modules=["layer"]), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(model.layer.lora_A["default"].detach())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_pt4_scaling():
    assert lora.LoraConfig(r=8, lora_alpha=16).scaling == 2.0
    assert lora.Linear(4, 4, r=8).variants["default"].scaling == 1 / 8  # Microsoft's default alpha is 1, not r


@pytest.mark.parametrize("r", [0, -1, True, 2.0])
def test_a_rank_that_is_no_rank_raises(r):
    with pytest.raises((ValueError, Exception), match="r"):
        lora.LoraConfig(r=r)


def test_grouped_convolutions_are_refused_before_anything_changes():
    model = One(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="groups"):
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["layer"]))
    assert type(model.layer) is nn.Conv2d and all(p.requires_grad for p in model.parameters())


def test_two_active_adapters_add_up():
    torch.manual_seed(0)
    model = One(nn.Linear(6, 5)).eval()
    x = torch.randn(3, 6)
    config = lora.LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False)
    lora.inject(model, config, "a")
    lora.add_adapter(model, config, "b")
    base = F.linear(x, model.layer.weight, model.layer.bias)
    alone = {}
    for name in "ab":
        lora.set_active(model, name)
        alone[name] = model(x) - base
    lora.set_active(model, ["a", "b"])
    torch.testing.assert_close(model(x), base + alone["a"] + alone["b"], atol=1e-5, rtol=1e-5)


def test_dropout_on_an_input_that_is_not_contiguous():
    model = One(nn.Linear(6, 5))
    lora.inject(model, lora.LoraConfig(r=2, lora_dropout=0.5, target_modules=["layer"], init_lora_weights=False))
    model(torch.randn(3, 4, 6).transpose(0, 1)).sum().backward()
    assert model.layer.lora_A["default"].grad.any()


def test_pickle_and_deepcopy_keep_the_layer(tmp_path):
    import copy

    model = One(nn.Linear(6, 5))
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
    x = torch.randn(3, 6)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
