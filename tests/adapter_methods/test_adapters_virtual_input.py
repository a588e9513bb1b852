"""Virtual tokens: how they start, what they count, and what is refused."""

import pytest
import tiny
import torch
from peft.tuners.prompt_tuning import PromptTuningInit
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaForSequenceClassification

from adapter_methods.test_adapters_virtual import P, make_peft_model, ours
from adapters.virtual.prefix import PrefixTuningConfig, tiled
from adapters.virtual.prompt import PromptTuningConfig
from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
from adapters.virtual.virtual_tokens import (
    add_virtual_tokens,
    use_virtual_tokens,
    virtual_encoder,
    virtual_tokens,
)
from loralib import AdapterFileError


def test_pt30_counts_on_roberta_base():
    """Section 5.4 of the reference."""
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
    for options, count in (({"encoder_hidden_size": 512, "prefix_projection": True}, 9_872_384), ({}, 552_960)):
        start = PrefixTuningConfig(num_virtual_tokens=30, init_weights="random", modules_to_save=[], **options)
        assert add_virtual_tokens(model, start, f"p{count}").parameters == count
    start = PromptTuningConfig(num_virtual_tokens=10, prompt_tuning_init="RANDOM", modules_to_save=[])
    assert add_virtual_tokens(model, start, "prompt").parameters == 7_680


def test_pt21_starts_are_real_words_and_the_texts_as_peft_tiles_it(tmp_path):
    model = tiny.gpt2()
    words = model.get_input_embeddings().weight
    add_virtual_tokens(model, PromptTuningConfig(num_virtual_tokens=P), "vocab", seed=0)
    rows = virtual_encoder(model, "vocab").embedding.weight
    assert all(any(torch.equal(row, word) for word in words) for row in rows) and len(rows.unique(dim=0)) > 1
    assert tiled([7, 8, 9], 7) == [7, 8, 9, 7, 8, 9, 7] and tiled([7, 8, 9], 2) == [7, 8]
    tokenizer = lambda text: {"input_ids": [int(word) for word in text.split()]}  # noqa: E731
    for text in ("7 8 9", "1 2 3 4 5 6 7 8"):
        start = PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="TEXT", prompt_tuning_init_text=text)
        add_virtual_tokens(model, start, f"t{len(text)}", tokenizer=tokenizer)
        own = virtual_encoder(model, f"t{len(text)}").embedding.weight
        assert torch.equal(own, words[tiled(tokenizer(text)["input_ids"], P)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *a, **k: tokenizer)
            init = {"prompt_tuning_init": PromptTuningInit.TEXT, "prompt_tuning_init_text": text, "tokenizer_name_or_path": "x"}
            other = make_peft_model(tiny.gpt2(), "prompt", task_type="CAUSAL_LM", **init)
        assert torch.equal(other.prompt_encoder["default"].embedding.weight, own)


def test_bad_input_is_refused_and_nothing_is_changed():
    for make, wrong, words in (
        (PrefixTuningConfig, {"num_virtual_tokens": 0}, "expected at least 1"),
        (PrefixTuningConfig, {"init_weights": "ones"}, "expected one of sample_vocab, text"),
        (PrefixTuningConfig, {"init_weights": "text"}, "belong together"),
        (PrefixTuningConfig, {"init_text": "lost"}, "belong together"),
        (PrefixTuningConfig, {"prefix_projection": True, "init_weights": "sample_vocab"}, "Take random or zero"),
        (PrefixTuningConfig, {"encoder_hidden_size": 9}, "is a part of prefix_projection"),
        (PromptTuningConfig, {"prompt_tuning_init": "text"}, "expected one of SAMPLE_VOCAB"),
        (PromptTuningConfig, {"prompt_tuning_init_text": "lost"}, "belong together"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**wrong)
    model = tiny.bert()
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        add_virtual_tokens(model, PromptTuningConfig(prompt_tuning_init="TEXT", prompt_tuning_init_text="a b"))
    with pytest.raises(ValueError, match="modules_to_save"):
        add_virtual_tokens(model, PromptTuningConfig(modules_to_save=["clasifier"]))
    assert not virtual_tokens(model) and all(p.requires_grad for p in model.parameters())
    with pytest.raises(KeyError, match="no prefix or prompt 'a'"):
        use_virtual_tokens(model, "a")


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_a_folder_that_does_not_fit_is_refused_and_the_model_left_alone(kind, tmp_path):
    save_virtual_tokens(ours(tiny.bert(), kind), tmp_path)
    weights, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    good, text = load_file(weights), settings.read_text()
    torn = {k: v[:, :-1].contiguous() if k == "prompt_embeddings" else v for k, v in good.items()}
    nan = good | {"prompt_embeddings": good["prompt_embeddings"] * float("nan")}
    for tensors in (torn, nan, good | {"strange": torch.ones(1)}, {"base_model.classifier.weight": torch.ones(3, 24)}):
        save_file(tensors, weights)
        model = tiny.bert()
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        keys = set(model.state_dict())
        with pytest.raises(AdapterFileError):
            load_virtual_tokens(model, tmp_path, trainable=True)
        assert set(model.state_dict()) == keys and not virtual_tokens(model)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    save_file(good, weights)
    for wrong in ('"peft_type": "LORA"', '"peft_type": null'):
        name = "PREFIX_TUNING" if kind == "prefix" else "PROMPT_TUNING"
        settings.write_text(text.replace(f'"peft_type": "{name}"', wrong))
        with pytest.raises(AdapterFileError, match="peft_type"):
            load_virtual_tokens(tiny.bert(), tmp_path, trainable=True)
    settings.write_text(text.replace('"num_transformer_submodules": 1', '"num_transformer_submodules": 2'))
    with pytest.raises(AdapterFileError, match="submodules"):
        load_virtual_tokens(tiny.bert(), tmp_path, trainable=True)
    weights.write_bytes(weights.read_bytes()[:100])
    settings.write_text(text)
    with pytest.raises(AdapterFileError, match="not a readable safetensors"):
        load_virtual_tokens(tiny.bert(), tmp_path, trainable=True)
