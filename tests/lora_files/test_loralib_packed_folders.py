"""Folders whose weights lie in 4 bits already are read back, by every command that takes a model; and what is refused says why.

Oracle: `from_pretrained` with bitsandbytes, and the model before it was saved. No Llama: Qwen3, Phi, OPT (with biases) and BERT.
"""

import json

import pytest
import tiny_folder
import torch
import transformers as T
from command import run_module
from safetensors.torch import load_file, save_file
from torch import nn

import loralib as lora
from loralib.four_bit.save4bit import save_4bit

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
CAUSAL = {
    "qwen3": (T.Qwen3ForCausalLM, T.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)),
    "phi": (T.PhiForCausalLM, T.PhiConfig(**SMALL)),
    "opt": (T.OPTForCausalLM, T.OPTConfig(**(SMALL | {"word_embed_proj_dim": 32}), ffn_dim=48)),
}
each = pytest.mark.parametrize("kind", CAUSAL)


WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 128, "ffn_dim": 128, "word_embed_proj_dim": 64, "head_dim": 16}


def made(kind: str, sizes: dict | None = None) -> nn.Module:
    torch.manual_seed(0)
    model_class, config = CAUSAL[kind]
    if sizes:
        known = config.to_dict()
        config = type(config).from_dict(known | {name: size for name, size in sizes.items() if name in known})
    return model_class(config).eval()


def ids() -> torch.Tensor:
    return torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(1))


@each
@pytest.mark.parametrize("double_quant", [True, False])
def test_our_own_folder_comes_back_bit_for_bit(kind, double_quant, tmp_path):
    model = made(kind)
    lora.quantize_model(model, double_quant=double_quant)
    save_4bit(model, tmp_path)
    back, report = lora.load_4bit(tmp_path, type(model))
    assert torch.equal(back(ids()).logits, model(ids()).logits)
    assert len(report.rows) == sum(isinstance(m, lora.Linear4bit) for m in model.modules())
    assert not hasattr(back.config, "quantization_config")
    lora.inject(back, lora.LoraConfig(r=2))
    back(ids()).logits.sum().backward()


@each
def test_a_folder_of_bitsandbytes_gives_its_logits(kind, tmp_path):
    """Rows of whole blocks: on a CPU with AVX-512 bitsandbytes decodes others wrongly (kernels/results/README.md)."""
    pytest.importorskip("bitsandbytes")
    made(kind, WHOLE_BLOCKS).save_pretrained(tmp_path / "float")
    options = T.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    other = CAUSAL[kind][0].from_pretrained(tmp_path / "float", quantization_config=options)
    other.save_pretrained(tmp_path / "packed")
    ours, _ = lora.load_4bit(tmp_path / "packed", CAUSAL[kind][0], compute_dtype=torch.float32)
    torch.testing.assert_close(ours(ids()).logits, other(ids()).logits.float(), atol=1e-4, rtol=1e-3)


@each
def test_layers_of_bitsandbytes_are_refused_with_one_way_on(kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    made(kind).save_pretrained(tmp_path)
    model = CAUSAL[kind][0].from_pretrained(tmp_path, quantization_config=T.BitsAndBytesConfig(load_in_4bit=True))
    for refused in (
        lambda: lora.inject(model, lora.LoraConfig(r=2)),
        lambda: lora.inject(model, lora.LoraConfig(r=2, target_modules=["q_proj"])),
        lambda: lora.quantize_model(model),
        lambda: lora.prepare_model_for_kbit_training(model),
    ):
        with pytest.raises(ValueError, match=r"Linear4bit of bitsandbytes.*loralib\.load_4bit"):
            refused()


@pytest.mark.parametrize(("kind", "head"), [("qwen3", "score"), ("phi", "score")])
def test_a_causal_base_becomes_a_classifier_with_a_new_head_that_the_report_names(kind, head, tmp_path):
    made(kind).save_pretrained(tmp_path)
    torch.manual_seed(7)
    model, report = lora.load_4bit(tmp_path, T.AutoModelForSequenceClassification)
    assert report.new_heads == (head,) and f"starts at random: {head}" in str(report)
    weight = model.get_submodule(head).weight
    assert weight.isfinite().all() and 0.001 < weight.std() < 0.1
    whole = T.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    lora.quantize_model(whole)
    whole.get_submodule(head).load_state_dict(model.get_submodule(head).state_dict())
    model.config.pad_token_id = whole.config.pad_token_id = 0
    torch.testing.assert_close(model(ids()).logits, whole(ids()).logits)


def test_old_names_of_layer_norms_are_read(tmp_path):
    """As in the first files of BERT, here for BERT and for Electra."""
    for model_class, config in ((T.BertForMaskedLM, T.BertConfig(**SMALL)), (T.ElectraForMaskedLM, T.ElectraConfig(**SMALL))):
        torch.manual_seed(0)
        model = model_class(config).eval()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in tensors}
        assert old != set(tensors)
        renamed = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for k, t in tensors.items()
        }
        save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        back, _ = lora.load_4bit(tmp_path, model_class)
        lora.quantize_model(model)
        assert torch.equal(back(ids()).logits, model(ids()).logits)


@pytest.mark.fault
def test_a_packed_folder_with_a_hole_is_refused(tmp_path):
    model = made("qwen3")
    lora.quantize_model(model)
    save_4bit(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    for lost, records in ((f"{name}.absmax", "needs"), (name, "needs"), ("model.norm.weight", "in no file")):
        rest = {key: tensor for key, tensor in tensors.items() if key != lost}
        save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=records):
            lora.load_4bit(tmp_path, type(model))


def test_the_commands_take_a_packed_folder_or_say_what_to_give(tmp_path):
    peft = pytest.importorskip("peft")
    base = tiny_folder.decoder(tmp_path / "base")
    assert run_module("loralib", "quantize", base, "--out", tmp_path / "packed").returncode == 0
    model = T.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    done = run_module("loralib", "merge", tmp_path / "packed", tmp_path / "adapter", "--out", tmp_path / "merged")
    assert done.returncode == 0 and "decoded and merged" in done.stdout, done.stderr
    merged = T.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    packed, _ = lora.load_4bit(tmp_path / "packed", T.AutoModelForCausalLM)
    lora.load_adapter(packed, tmp_path / "adapter", trainable=False)
    torch.testing.assert_close(merged(ids()).logits, packed(ids()).logits, atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    done = run_module("loralib", "quantize", tmp_path / "packed", "--out", tmp_path / "again")
    assert done.returncode != 0 and "quantised already" in done.stderr and "Traceback" not in done.stderr
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        rows = [{"prompt": f"Say the number {i}.", "completion": f" It is {i}."} for i in range(12)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "prompt", "--data-dir", data, "--model", tmp_path / "packed", "--steps", 2, "--batch-size", 2]
    words += ["--eval-rows", 4, "--trackers", "", "--score-texts", 2, "--max-new-tokens", 4]
    done = run_module("training", *words, "--method", "qlora", "--out", tmp_path / "qlora")
    assert done.returncode == 0, done.stderr
    done = run_module("training", *words, "--method", "lora", "--out", tmp_path / "lora")
    assert done.returncode != 0 and "--method qlora" in done.stderr and "Traceback" not in done.stderr
