"""`python -m loralib merge` on adapters that peft wrote: without a task type, of an encoder, with heads of any shape."""

import pytest
import tiny
import tiny_folder
import torch
import transformers as T

import loralib as lora
from loralib.commands.merge_command import Merge, merge
from loralib.injection.matching import output_head

peft = pytest.importorskip("peft")


def folders(tmp_path, base, model, **config):
    """(base folder, adapter folder, the logits or states of peft's model)."""
    base.save_pretrained(tmp_path / "base")
    tiny_folder.tokenizer().save_pretrained(tmp_path / "base")
    other = peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, **config)).eval()
    other.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return other(tiny.ids())[0]


def merged(tmp_path, model_class, **options):
    merge(Merge(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "out", **options))
    with torch.no_grad():
        return model_class.from_pretrained(tmp_path / "out").eval()(tiny.ids())[0]


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_heads_of_any_number_of_labels(family, labels, tmp_path):
    base = tiny.FAMILIES[family]().base_model
    config = type(base.config).from_dict(base.config.to_dict() | {"num_labels": labels})
    model = T.AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(base.state_dict())
    target = {"distilbert": "q_lin", "roberta": "query"}[family]
    wanted = folders(tmp_path, base, model, task_type="SEQ_CLS", target_modules=[target])
    assert wanted.shape == (3, labels)
    result = merged(tmp_path, T.AutoModelForSequenceClassification)
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=0)


def test_without_a_task_type_the_base_names_its_class(tmp_path):
    wanted = folders(tmp_path, tiny.gpt2(), tiny.gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    torch.testing.assert_close(merged(tmp_path, T.GPT2LMHeadModel), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "target"), [("distilbert", "q_lin"), ("gpt2", "c_attn")])
def test_a_model_for_features(family, target, tmp_path):
    base = tiny.FAMILIES[family]().base_model
    config = {"task_type": "FEATURE_EXTRACTION", "target_modules": [target], "fan_in_fan_out": family == "gpt2"}
    wanted = folders(tmp_path, base, tiny.twin(base), **config)
    torch.testing.assert_close(merged(tmp_path, T.AutoModel), wanted, atol=1e-5, rtol=0)


def test_the_option_overrules_and_a_class_that_nobody_names_is_asked_for(tmp_path):
    wanted = folders(tmp_path, tiny.gpt2(), tiny.gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    assert torch.allclose(merged(tmp_path, T.GPT2LMHeadModel, task_type="CAUSAL_LM"), wanted, atol=1e-5)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace("GPT2LMHeadModel", "SomebodysModel"))
    with pytest.raises(ValueError, match="name no model class; give --task-type, one of SEQ_CLS"):
        merged(tmp_path, T.GPT2LMHeadModel)


# ---------------------------------------------------------------- a model that changed after the adapter was added


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_resized_head_that_lost_its_adapter_is_not_saved(family, tmp_path):
    if family == "gpt2":
        config = tiny.gpt2().config.to_dict() | {"tie_word_embeddings": False}
        model = T.GPT2LMHeadModel(T.GPT2Config.from_dict(config))
    else:
        sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = T.GPTNeoXForCausalLM(T.GPTNeoXConfig(**sizes))
    head = output_head(model)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=[head], modules_to_save=[]))
    lora.save_adapter(model, tmp_path / "before")
    model.resize_token_embeddings(45, mean_resizing=False)
    with pytest.raises(ValueError, match=rf"{head} had LoRA for 'default' and is now a Linear without it"):
        lora.save_adapter(model, tmp_path / "after")
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_a_weight_of_another_shape_is_not_saved(family, tmp_path):
    model = tiny.FAMILIES[family]()
    words = {"gpt2": "wte", "roberta": "word_embeddings"}[family]
    lora.inject(model, lora.LoraConfig(r=2, target_modules=[words], modules_to_save=[]))
    path = next(name for name, _ in model.named_modules() if name.endswith(words))
    layer = model.get_submodule(path)
    layer.weight = torch.nn.Parameter(torch.cat([layer.weight.detach(), torch.zeros(2, layer.embedding_dim)]))
    with pytest.raises(ValueError, match=r"had a weight of \(40, 24\).*one of \(42, 24\)"):
        lora.save_adapter(model, tmp_path)


# ---------------------------------------------------------------- beams of an encoder-decoder


def mt5():
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "d_model": 24, "d_ff": 40, "d_kv": 6, "num_heads": 4, "vocab_size": 40}
    return T.MT5ForConditionalGeneration(T.MT5Config(**sizes, decoder_start_token_id=0)).eval()


def marian():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32}
    heads = {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0}
    return T.MarianMTModel(T.MarianConfig(**sizes, **heads, decoder_start_token_id=0, max_position_embeddings=32)).eval()


@pytest.mark.parametrize(("make", "targets"), [(mt5, ["q", "v", "wo"]), (marian, ["q_proj", "fc1"])], ids=["mt5", "marian"])
def test_the_encoder_runs_before_its_beams_are_made(make, targets):
    model = make()
    for name in "ab":
        lora.inject(model, lora.LoraConfig(r=2, lora_alpha=16, init_lora_weights=False, target_modules=targets), name)
    prompts, names = tiny.ids(batch=3, length=5), ["a", None, "b"]
    settings = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with lora.mixed_batch(model, names, repeats=3):
        result = model.generate(prompts, **settings)
    for i, name in enumerate(names):
        lora.set_active(model, [] if name is None else name)
        assert torch.equal(model.generate(prompts[i : i + 1], **settings)[0], result[i])
