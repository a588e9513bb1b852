"""LoRA's family: scales, patterns, DoRA, PiSSA, LoRA+, (IA)³ and biases. Oracles: peft, float64, plain autograd."""

import copy
import json
import math

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import loralib as lora
from kernels.dora_matmul import dora_matmul_reference, row_norms
from loralib.checkpoint import CONFIG, WEIGHTS
from loralib.dora import dora_linear
from loralib.pissa import principal_factors

peft = pytest.importorskip("peft")
TARGETS = {tiny.gpt2: ["c_attn", "c_proj"], tiny.llama: "all-linear", tiny.bert: ["query", "dense"]}
VARIANTS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"c_attn|q_proj|query": 7}, "alpha_pattern": {"c_proj|v_proj|0.output.dense": 3.0}},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
}


def randomise(model, seed=0):
    """Everything that trains gets random numbers, in any library's model."""
    for i, (_, p) in enumerate(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
        p.data.add_(0.2 * noise)


def useful(keys) -> set[str]:
    """Without the two further copies of a head's bias that peft writes with bias="all"."""
    return {k for k in keys if ".original_module." not in k and ".modules_to_save." not in k}


# ---------------------------------------------------------------- PT4: scales and patterns, exactly


@pytest.mark.parametrize(("r", "alpha"), [(1, 8), (4, 6), (16, 1), (7, 3.5)])
def test_pt4_scales(r, alpha):
    assert lora.LoraConfig(r=r, lora_alpha=alpha).scaling == alpha / r
    assert lora.LoraConfig(r=r, lora_alpha=alpha, use_rslora=True).scaling == alpha / math.sqrt(r)


def test_pt4_patterns_are_pefts():
    config = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
    config["rank_pattern"] = {r"0\.self_attn\.q_proj": 2, "q_proj": 5, "^model.layers.1.mlp.up_proj": 9}
    config["alpha_pattern"] = {"k_proj": 1}
    ours, theirs = tiny.llama(), peft.get_peft_model(tiny.llama(), peft.LoraConfig(**config))
    lora.inject(ours, lora.LoraConfig(**config))
    for path, layer in lora.lora_layers(ours).items():
        other = theirs.base_model.model.get_submodule(path)
        slot = layer.slots["default"]
        assert (slot.r, slot.scaling) == (other.r["default"], other.scaling["default"]), path
    ranks = {path: layer.slots["default"].r for path, layer in lora.lora_layers(ours).items()}
    assert ranks["model.layers.0.self_attn.q_proj"] == 2 and ranks["model.layers.2.self_attn.q_proj"] == 5
    assert ranks["model.layers.1.mlp.up_proj"] == 9 and ranks["model.layers.0.mlp.up_proj"] == 4


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_fits_nothing_raises(setting):
    with pytest.raises(ValueError, match=f"{setting}: 'qproj' fits none"):
        lora.inject(tiny.llama(), lora.LoraConfig(**{setting: {"q_proj": 2, "qproj": 3}}))


# ---------------------------------------------------------------- files, both ways, for every variant


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_pt9_variants_go_both_ways(variant, make, tmp_path):
    settings = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[make], **VARIANTS[variant]}
    if make is tiny.llama and "bias" in settings:
        pytest.skip("a Llama has no biases")
    if make is tiny.bert:
        settings["task_type"] = "SEQ_CLS"
    ours = make()
    lora.inject(ours, lora.LoraConfig(**settings))
    randomise(ours)
    lora.save_adapter(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-5, rtol=0)
    assert useful(peft.get_peft_model_state_dict(theirs)) == set(load_file(tmp_path / "ours" / WEIGHTS))

    theirs = peft.get_peft_model(make(), peft.LoraConfig(fan_in_fan_out=make is tiny.gpt2, **settings)).eval()
    randomise(theirs, 100)
    theirs.save_pretrained(tmp_path / "theirs")
    again = make()
    lora.load_adapter(again, tmp_path / "theirs", trainable=False)
    torch.testing.assert_close(again(tiny.ids()).logits, theirs(tiny.ids()).logits, atol=1e-5, rtol=0)
    lora.save_adapter(again, tmp_path / "again")
    first, second = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert useful(first) == set(second) and all(torch.equal(first[k], second[k]) for k in second)


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.bert], ids=lambda make: make.__name__)
def test_pt9_ia3_goes_both_ways(make, tmp_path):
    settings = {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}
    if make is tiny.bert:
        settings = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
        settings["task_type"] = "SEQ_CLS"
    ours = make()
    before = ours(tiny.ids()).logits
    lora.inject(ours, lora.IA3Config(**settings))
    assert torch.equal(ours(tiny.ids()).logits, before)  # l = 1 is the base
    randomise(ours)
    lora.save_adapter(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    again = make()
    lora.load_adapter(again, tmp_path / "theirs", trainable=False)
    torch.testing.assert_close(again(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-6, rtol=0)
    assert set(load_file(tmp_path / "theirs" / WEIGHTS)) == set(load_file(tmp_path / "ours" / WEIGHTS))


def test_every_switched_on_option_of_peft_that_we_lack_raises(tmp_path):
    model = tiny.llama()
    lora.inject(model, lora.LoraConfig(r=2))
    lora.save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / CONFIG).read_text())
    harmless = {"runtime_config", "peft_version", "auto_mapping", "revision", "megatron_core", "qalora_group_size"}
    others = [name for name in peft.LoraConfig().to_dict() if name not in {*settings, *harmless}]
    assert len(others) > 10  # peft has many
    for name in others:
        (tmp_path / CONFIG).write_text(json.dumps(settings | {name: True}))
        with pytest.raises(lora.AdapterFileError, match=name):
            lora.load_adapter(tiny.llama(), tmp_path, trainable=False)


# ---------------------------------------------------------------- PT31: DoRA


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pt31_the_closed_form_norm(dtype):
    torch.manual_seed(0)
    W, A, B = torch.randn(33, 47, dtype=dtype), torch.randn(5, 47, dtype=dtype), torch.randn(33, 5, dtype=dtype)
    W[3], B[3] = 0, 0  # a row of zeros divides by one, where peft gives NaN
    direct = (W.double() + 0.7 * B.double() @ A.double()).norm(dim=1)
    found = row_norms(W, W.square().sum(1), A, B, 0.7)
    assert found[3] == 1 and direct[3] == 0
    direct[3] = 1
    # a sum of 47 squares and 5 products: some tens of roundings, which the root halves
    assert ((found.double() - direct) / direct).abs().max() < 16 * torch.finfo(dtype).eps


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
    found = layer(x)
    torch.manual_seed(1)
    dropped = x * torch.empty(x.shape, dtype=torch.bool).bernoulli_(0.5) / 0.5
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    gain = layer.lora_magnitude_vector["default"] / layer.row_norms("default")
    wanted = gain * (x @ layer.weight.T + layer.slots["default"].scaling * dropped @ A.T @ B.T) + layer.bias
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


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
    with Sizes() as seen:  # the first call also computes ‖W‖²
        model(x).sum().backward()
    assert seen.largest <= r * max(d_in, d_out) < d_in * d_out
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(d_in, d_out)), peft.LoraConfig(r=r, use_dora=True, target_modules=["0"]))
    with Sizes() as seen:
        theirs(x).sum().backward()
    assert seen.largest >= d_in * d_out  # the test can fail: peft makes one


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


# ---------------------------------------------------------------- merging, switching and identity for every variant


def build(variant, make=tiny.bert):
    model = make()
    if variant == "ia3":
        config = lora.IA3Config(["key", "value", "output.dense"], feedforward_modules=["output.dense"])
    elif variant == "pissa":
        config = lora.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[make], init_lora_weights="pissa")
    else:
        config = lora.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[make], **VARIANTS[variant])
    lora.inject(model, config)
    randomise(model)
    return model


ALL = [*VARIANTS, "pissa", "ia3"]


@pytest.mark.parametrize("variant", ALL)
def test_merged_is_unmerged_and_unmerge_restores_the_bits(variant):
    model = build(variant)
    state = copy.deepcopy(model.state_dict())
    adapted = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, adapted, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    after = model.state_dict()
    assert all(torch.equal(state[k], after[k]) for k in state) and torch.equal(model(tiny.ids()).logits, adapted)
    plain = lora.merge_and_unload(model)
    torch.testing.assert_close(plain(tiny.ids()).logits, adapted, atol=1e-5, rtol=1e-5)
    assert not any("lora" in n or "ia3" in n for n in plain.state_dict())


@pytest.mark.parametrize("variant", ALL)
def test_disabled_is_the_base_and_deleting_leaves_it(variant):
    base = tiny.bert()(tiny.ids()).logits
    model = build(variant)
    adapted = model(tiny.ids()).logits
    assert not torch.allclose(adapted, base, atol=1e-3)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
    assert torch.equal(model(tiny.ids()).logits, adapted)
    lora.merge(model)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
    lora.unmerge(model)
    lora.delete_adapter(model, "default")
    assert torch.equal(model(tiny.ids()).logits, base)
    assert set(model.state_dict()) == set(tiny.bert().state_dict())


@pytest.mark.parametrize("variant", ALL)
def test_what_trains_is_what_is_saved(variant, tmp_path):
    """Train a step, save, load into a fresh base: the same bits. And every trainable tensor is in the file."""
    model = build(variant)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tiny.ids()).logits.square().mean().backward()
    optimizer.step()
    lora.save_adapter(model, tmp_path)
    file = load_file(tmp_path / WEIGHTS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    start = trained - _head(model) if variant == "pissa" else 0  # PiSSA's start is written beside what was learnt
    assert sum(t.numel() for t in file.values()) == trained + start
    again = tiny.bert()
    lora.load_adapter(again, tmp_path, trainable=False)
    tolerance = 1e-6 if variant == "pissa" else 0  # there the file holds one adapter of rank 2r, and the sum is taken at once
    torch.testing.assert_close(again(tiny.ids()).logits, model(tiny.ids()).logits, atol=tolerance, rtol=0)


def _head(model) -> int:
    return sum(p.numel() for p in model.classifier.copies["default"].parameters())


@pytest.mark.parametrize("variant", ["dora", "ia3", "pissa", "rslora"])
def test_two_adapters_add_their_updates(variant):
    model = build(variant)
    lora.add_adapter(model, lora.LoraConfig(r=3, target_modules=["query"], modules_to_save=[], init_lora_weights=False), "b")
    lora.set_active(model, ["default", "b"])
    both = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, both, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    with pytest.raises(ValueError, match="named twice"):
        lora.set_active(model, ["b", "b"])


# ---------------------------------------------------------------- PiSSA, LoRA+, biases


def test_pissa_starts_as_the_base_with_the_best_rank_r_part_in_the_factors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9))
    W = model[0].weight.detach().double()
    lora.inject(model, lora.LoraConfig(r=3, lora_alpha=6, init_lora_weights="pissa", target_modules=["0"]))
    x = torch.randn(5, 12)
    torch.testing.assert_close(model(x).double(), F.linear(x.double(), W, model[0].bias.double()), atol=1e-6, rtol=1e-5)
    A, B = (model[0].get_parameter(f"lora_{k}.default").double() for k in "AB")
    S = torch.linalg.svdvals(W)
    torch.testing.assert_close((W - 2 * B @ A).norm(), S[3:].norm(), atol=1e-6, rtol=1e-6)  # Eckart and Young
    assert sum(p.requires_grad for p in model.parameters()) == 2


def test_pissa_trains_as_pefts(tmp_path):
    ours, theirs = tiny.llama(), tiny.llama()
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"}
    lora.inject(ours, lora.LoraConfig(**config))
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(**config))
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for step in range(5):
            optimizer.zero_grad()
            model(input_ids=tiny.ids(step), labels=tiny.ids(step)).loss.backward()
            optimizer.step()
    torch.testing.assert_close(ours(tiny.ids()).logits, theirs(tiny.ids()).logits, atol=2e-5, rtol=0)


def test_pissa_refuses_what_has_no_principal_directions():
    with pytest.raises(ValueError, match="only 24 directions"):
        lora.inject(tiny.llama(), lora.LoraConfig(r=25, target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="pissa is for Conv1D, Linear"):
        lora.inject(tiny.gpt2(), lora.LoraConfig(r=2, target_modules=["wte"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="scale above 0"):
        principal_factors(torch.eye(3), 1, 0.0)


@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_lora_plus_groups_are_pefts(ratio):
    from peft.optimizers import create_loraplus_optimizer

    ours, theirs = tiny.gpt2(), tiny.gpt2()
    targets = ["c_attn", "wte"]
    lora.inject(ours, lora.LoraConfig(r=2, target_modules=targets))
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=targets))
    groups = lora.lora_plus_groups(ours, 1e-3, ratio)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    names = {n: rate[id(p)] for n, p in ours.named_parameters() if p.requires_grad}
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in theirs.named_parameters():
        if p.requires_grad and "embedding" not in name:  # peft has a rate of its own for embeddings
            ours_name = name.removeprefix("base_model.model.").removesuffix(".weight")
            assert names[ours_name] == rate[id(p)], name
    assert names["transformer.wte.lora_A.default"] == ratio * names["transformer.wte.lora_B.default"]


def test_lora_plus_refuses_a_model_without_trainable_b():
    model = tiny.bert()
    lora.inject(model, lora.IA3Config(["key", "value"]))
    with pytest.raises(ValueError, match="no trainable lora_B"):
        lora.lora_plus_groups(model, 1e-3)


def test_adapters_have_biases_of_their_own():
    model = tiny.bert()
    base = model(tiny.ids()).logits
    for name, kind in (("a", "all"), ("b", "lora_only")):
        config = lora.LoraConfig(r=2, target_modules=["query"], bias=kind, modules_to_save=[])
        lora.inject(model, config, name)
        randomise(model, seed=ord(name))
    outputs = {}
    for name in ("a", "b"):
        lora.set_active(model, name)
        outputs[name] = model(tiny.ids()).logits
    lora.set_active(model, [])
    assert torch.equal(model(tiny.ids()).logits, base) and not torch.allclose(outputs["a"], outputs["b"])
    with pytest.raises(ValueError, match="each have biases"):
        lora.set_active(model, ["a", "b"])
    lora.set_active(model, "a")
    assert torch.equal(model(tiny.ids()).logits, outputs["a"])


def test_a_bias_that_is_asked_for_and_not_there_raises():
    with pytest.raises(ValueError, match="bias='lora_only': none of the adapted modules has a bias"):
        lora.inject(tiny.llama(), lora.LoraConfig(bias="lora_only"))
    with pytest.raises(ValueError, match="bias='some'"):
        lora.lora_state_dict(build("rslora"), bias="some")


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_microsofts_biases_are_saved_with_what_trains(kind):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"], modules_to_save=[]))
    lora.mark_only_lora_as_trainable(model, bias=kind)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora.lora_state_dict(model, bias=kind)) and any(n.endswith("bias") for n in trained)
    with pytest.raises(ValueError, match="biases train and bias='none' would not save them"):
        lora.lora_state_dict(model)
