"""4-bit layers and QLoRA: what is computed, what is kept, what is stored, and the two merges."""

import copy

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import loralib as lora
from kernels.formulas.nf4 import dequantize, quantize
from kernels.measure import saved_bytes
from loralib.four_bit.merge4bit import merge_dequant, merge_requant
from loralib.four_bit.qlora import prepare_model_for_kbit_training, quantize_model, relative_error
from loralib.layers.linear import QuantizedLinear
from loralib.layers.linear4bit import Linear4bit

ALL_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def layer4(d_out=48, d_in=64, seed=0, **options):
    torch.manual_seed(seed)
    plain = nn.Linear(d_in, d_out)
    return Linear4bit(quantize(plain.weight, **options), plain.bias), plain


def qlora_model(model=None, r=4, seed=0, targets="all-linear", **options):
    model = tiny.llama() if model is None else model
    quantize_model(model, **options)
    lora.inject(model, lora.LoraConfig(r=r, target_modules=targets, init_lora_weights=False, modules_to_save=[]), seed=seed)
    return model


def trained_a_little(model):
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


# ---------------------------------------------------------------- what is computed


@pytest.mark.parametrize("double_quant", [False, True])
def test_pt28_forward_and_gradients_equal_those_of_the_decoded_weight(double_quant):
    layer, _ = layer4(double_quant=double_quant)
    model = nn.Sequential(layer)
    lora.inject(model, lora.LoraConfig(r=5, lora_alpha=3, target_modules=["0"], init_lora_weights=False), seed=1)
    assert isinstance(model[0], QuantizedLinear)
    A, B, W = model[0].lora_A["default"], model[0].lora_B["default"], dequantize(layer.quantized)
    x = torch.randn(4, 7, 64, requires_grad=True)
    y = model(x)
    expected = F.linear(x, W, layer.bias) + (x @ A.T @ B.T) * (3 / 5)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    dy = torch.randn_like(y)
    own = torch.autograd.grad(y, (x, A, B), dy)
    for g, e in zip(own, torch.autograd.grad(expected, (x, A, B), dy), strict=True):
        torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-5)


def test_the_bare_layer_equals_the_decoded_one_and_sends_gradients_down():
    layer, _ = layer4()
    x = torch.randn(9, 64, requires_grad=True)
    expected = F.linear(x, dequantize(layer.quantized), layer.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
    (g,), (e,) = torch.autograd.grad(layer(x).sum(), x), torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-5)


def test_compute_dtype_is_what_was_asked_for():
    plain = nn.Linear(64, 48)
    layer = Linear4bit(quantize(plain.weight), plain.bias, compute_dtype=torch.bfloat16)
    x = torch.randn(3, 64)
    W = dequantize(layer.quantized, torch.bfloat16)
    assert layer(x).dtype == torch.float32
    assert torch.equal(layer(x), F.linear(x.bfloat16(), W, plain.bias.bfloat16()).float())
    assert Linear4bit(quantize(plain.weight.half())).compute_dtype == torch.float16


@pytest.mark.parametrize("parts", [None, [True, False, True]])
def test_parts_and_dropout_work_as_on_a_float_layer(parts):
    layer, _ = layer4()
    config = lora.LoraConfig(
        r=2, target_modules=["0"], lora_dropout=0.3, init_lora_weights=False, enable_lora={"0": parts} if parts else {}
    )
    packed, plain = nn.Sequential(layer), nn.Sequential(nn.Linear(64, 48))
    plain[0].weight.data, plain[0].bias.data = dequantize(layer.quantized), layer.bias.data.clone()
    x, outputs = torch.randn(5, 64), []
    for model in (packed, plain):
        lora.inject(model.train(), config, seed=3)
        torch.manual_seed(4)
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_variants_that_need_the_weight_itself_are_refused(variant):
    with pytest.raises(ValueError, match="not for Linear4bit"):
        lora.inject(nn.Sequential(layer4()[0]), lora.LoraConfig(target_modules=["0"], **variant))


# ---------------------------------------------------------------- what is kept


def test_backward_keeps_no_decoded_weight():
    layer, _ = layer4(512, 512)
    model = nn.Sequential(layer)
    x = torch.randn(2, 512, requires_grad=True)
    assert saved_bytes(lambda: model(x), model.parameters()) == 0
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["0"]))
    remaining = saved_bytes(lambda: model(x), model.parameters())
    assert remaining == x.nbytes + 2 * 4 * 4, "x and S, of 2 rows"
    assert remaining < 512 * 512, "far below the decoded weight's 1 MB"


def test_the_codes_are_the_same_after_100_steps_and_the_loss_falls():
    model = qlora_model()
    before = {n: p.clone() for n, p in model.state_dict().items() if "lora" not in n}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    ids = tiny.ids(batch=1)
    losses = []
    for _ in range(100):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    after = model.state_dict()
    assert all(torch.equal(after[n], p) for n, p in before.items()) and any("nested_absmax" in n for n in before)


def test_all_seven_projections_of_a_llama():
    model = qlora_model(targets=ALL_SEVEN)
    assert len(lora.lora_layers(model)) == 7 * 3
    model(tiny.ids(), labels=tiny.ids()).loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if p.requires_grad]
    assert len(grads) == 2 * 21 and all(g is not None and g.abs().sum() > 0 for g in grads)


# ---------------------------------------------------------------- the whole model


def test_an_adapter_goes_from_a_4bit_base_to_a_file_and_back(tmp_path):
    model = trained_a_little(qlora_model())
    lora.save_adapter(model, tmp_path)
    fresh = tiny.llama()
    quantize_model(fresh)
    lora.load_adapter(fresh, tmp_path, trainable=False)
    assert torch.equal(fresh(tiny.ids()).logits, model(tiny.ids()).logits)
    with lora.disable_adapters(model):
        without = model(tiny.ids()).logits
    plain = tiny.llama()
    quantize_model(plain)
    assert torch.equal(without, plain(tiny.ids()).logits)


# ---------------------------------------------------------------- merging


def test_the_reported_error_is_that_of_the_whole_matrix():
    weight = torch.randn(700, 900)  # more than one chunk
    q = quantize(weight, double_quant=True)
    whole = float((dequantize(q) - weight).norm() / weight.norm())
    assert relative_error(q, weight) == pytest.approx(whole, rel=1e-5)
    assert relative_error(quantize(weight.T), weight.T) == pytest.approx(whole, rel=0.01)


# ---------------------------------------------------------------- what a hostile review found


def test_a_model_that_answers_goes_on_answering_without_dropout():
    model = tiny.llama().eval()
    called = []
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: called.append(1))
    quantize_model(model)
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False))
    assert torch.equal(model(tiny.ids()).logits, model(tiny.ids()).logits) and called
    merge_requant(model)
    assert not any(m.training for m in model.modules())


def test_t5s_wo_stays_and_other_readers_of_a_dtype_are_refused():
    """T5 casts its states to the dtype of `wo`: in 4 bits they would become whole numbers."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 64}
    model = T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0)).eval()
    plain = copy.deepcopy(model)
    report = quantize_model(model)
    assert report.rows and not any(row.path.endswith("wo") for row in report.rows)
    for row in report.rows:
        plain.get_submodule(row.path).weight.data = dequantize(model.get_submodule(row.path).quantized)
    ids = tiny.ids()
    with torch.no_grad():
        a, b = (m(input_ids=ids, decoder_input_ids=ids).logits for m in (model, plain))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Linear(64, 64)

        def forward(self, x):
            return self.down(x.to(self.down.weight.dtype))

    with pytest.raises(ValueError, match=r"skip=\['down'\]"):
        quantize_model(nn.Sequential(Reader()))


def test_after_a_refused_merge_the_state_dict_is_what_it_was():
    model = trained_a_little(qlora_model())
    keys = set(model.state_dict())
    with pytest.raises(ValueError, match="cannot merge"):
        merge_dequant(model, "nobody")
    assert set(model.state_dict()) == keys


def test_the_usual_16_bit_path_ends_in_a_model_that_runs():
    model = tiny.llama(dtype=torch.bfloat16)
    quantize_model(model)
    prepare_model_for_kbit_training(model, False)
    with pytest.raises(ValueError, match="prepare it first"):
        prepare_model_for_kbit_training(trained_a_little(qlora_model()))
    lora.inject(model, lora.LoraConfig(r=4, target_modules="all-linear", modules_to_save=[]))
    logits = trained_a_little(model)(tiny.ids()).logits
    merge_dequant(model)
    torch.testing.assert_close(model(tiny.ids()).logits, logits, atol=0.05, rtol=0.05)  # matmuls in float32 now, not bfloat16


def test_a_sum_that_does_not_fit_is_refused_before_anything_changes():
    model = nn.Sequential(nn.Linear(64, 64)).half()
    model[0].weight.data[0] = 60000.0
    quantize_model(model)
    lora.inject(model, lora.LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    for factors in (model[0].lora_A, model[0].lora_B):
        factors["default"].data.fill_(100.0)
    with pytest.raises(ValueError, match="not be finite"):
        merge_dequant(model)
    assert isinstance(model[0], QuantizedLinear)
    with pytest.raises(ValueError, match="double_quant=False"):
        quantize(torch.full((256, 64), 3e38), double_quant=True)


def test_a_layer_in_two_places_is_refused():
    layer = nn.Linear(64, 64)
    with pytest.raises(ValueError, match="one and the same layer"):
        quantize_model(nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}))


def test_a_head_to_train_must_not_be_in_4_bits():
    model = tiny.bert()
    quantize_model(model)
    with pytest.raises(ValueError, match="pooler has 4-bit weights"):
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"], modules_to_save=["pooler"]))
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())


def test_half_a_description_is_refused_and_adapters_alone_load_without_strict():
    from loralib.layers.nf4_files import from_file, to_file

    w = torch.randn(64, 64)
    for double_quant, key, value in (
        (False, ".absmax", torch.ones(64, dtype=torch.int64)),
        (True, ".absmax", torch.ones(64)),
        (False, ".absmax", torch.full((64,), float("nan"))),
        (False, ".nested_absmax", torch.ones(1)),
    ):
        tensors = to_file(quantize(w, double_quant=double_quant)) | {key: value}
        with pytest.raises(ValueError, match=r"absmax|finite"):
            from_file(tensors, "w")
    model = trained_a_little(qlora_model())
    other = qlora_model(seed=5)
    with pytest.raises(RuntimeError, match="SCB"):
        other.load_state_dict(model.state_dict() | {"model.layers.0.mlp.up_proj.weight.SCB": torch.ones(1)})
    other.load_state_dict(lora.lora_state_dict(model), strict=False)
    assert torch.equal(other(tiny.ids()).logits, model(tiny.ids()).logits)
