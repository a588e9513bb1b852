"""Tokens that were added: peft's files with word tables, and our own, come back with the rows of the new tokens.

Oracle: `PeftModel.from_pretrained`. GPT-2 ties its head to its embedding; GPT-NeoX and OPT (here) do not.
"""

import pytest
import tiny
import torch
import transformers as T
from safetensors.torch import load_file

import loralib as lora
from loralib.files.read_adapter import WEIGHTS, AdapterFileError

WORDS, MORE = 40, 44
MODELS = {
    "gpt2": (T.GPT2LMHeadModel, T.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=WORDS), "c_attn", "wte", "lm_head"),
    "gpt_neox": (
        T.GPTNeoXForCausalLM,
        T.GPTNeoXConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            vocab_size=WORDS,
            tie_word_embeddings=False,
        ),
        "query_key_value",
        "embed_in",
        "embed_out",
    ),
    "opt": (
        T.OPTForCausalLM,
        T.OPTConfig(
            num_hidden_layers=2,
            hidden_size=32,
            ffn_dim=48,
            num_attention_heads=4,
            vocab_size=WORDS,
            word_embed_proj_dim=32,
            tie_word_embeddings=False,
        ),
        "q_proj",
        "embed_tokens",
        "lm_head",
    ),
}


@pytest.fixture(params=MODELS)
def made(request, tmp_path):
    """(a function that loads the base and adds four tokens at random, name of a projection, of the table, of the head)."""
    model_class, config, target, table, head = MODELS[request.param]
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path / "base")

    def resized(seed: int, words: int = MORE):
        model = model_class.from_pretrained(tmp_path / "base")
        torch.manual_seed(seed)
        model.resize_token_embeddings(words, mean_resizing=False)
        return model.eval()

    return resized, target, table, head


def ids() -> torch.Tensor:
    return torch.tensor([[3, 41, 7, 43, 40, 5, 42, 9]])


@pytest.mark.parametrize("kind", ["factors", "adapted table", "tables saved whole"])
def test_a_file_of_peft_gives_pefts_logits_on_a_base_that_is_resized_again(kind, made, tmp_path):
    peft = pytest.importorskip("peft")
    resized, target, table, head = made
    more = {
        "factors": {"target_modules": [target]},
        "adapted table": {"target_modules": [target, table]},
        "tables saved whole": {"target_modules": [target], "modules_to_save": [table, head]},
    }[kind]
    config = peft.LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **more)
    peft.get_peft_model(resized(1), config).save_pretrained(tmp_path / "file")
    back = peft.PeftModel.from_pretrained(resized(2), tmp_path / "file").eval()
    model = resized(2)
    report = lora.load_adapter(model, tmp_path / "file", trainable=False)
    torch.testing.assert_close(model(ids()).logits, back(ids()).logits, atol=1e-5, rtol=0)
    assert ("added tokens" in str(report)) or kind == "tables saved whole"


def test_our_file_brings_the_rows_of_added_tokens_and_peft_reads_it(made, tmp_path):
    peft = pytest.importorskip("peft")
    resized, target, table, _ = made
    model = resized(1)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=[target, table], init_lora_weights=False, task_type="CAUSAL_LM"))
    wanted = model(ids()).logits
    lora.save_adapter(model, tmp_path / "file")
    other = resized(2)
    report = lora.load_adapter(other, tmp_path / "file", trainable=False)
    assert "added tokens" in str(report)
    torch.testing.assert_close(other(ids()).logits, wanted, atol=1e-5, rtol=0)
    others = peft.PeftModel.from_pretrained(resized(3), tmp_path / "file").eval()
    torch.testing.assert_close(others(ids()).logits, wanted, atol=1e-5, rtol=0)


def test_without_added_tokens_the_file_holds_factors_alone(made, tmp_path):
    resized, target, *_ = made
    model = resized(1, WORDS)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=[target]))
    lora.save_adapter(model, tmp_path)
    assert all("lora_" in key for key in load_file(tmp_path / WEIGHTS))


@pytest.mark.fault
def test_what_does_not_fit_is_refused_with_the_way_on(made, tmp_path):
    resized, target, *_ = made
    model = resized(1)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=[target]))
    folder = lora.save_adapter(model, tmp_path / "file")
    with pytest.raises(AdapterFileError, match=rf"resize_token_embeddings\({MORE}\)"):
        lora.load_adapter(resized(1, WORDS), folder, trainable=False)
    two = resized(2)
    lora.inject(two, lora.LoraConfig(r=2, target_modules=[target]), "first")
    before = {name: value.clone() for name, value in two.state_dict().items()}
    with pytest.raises(AdapterFileError, match="on which"):
        lora.load_adapter(two, folder, "second", trainable=False)
    assert all(torch.equal(value, before[name]) for name, value in two.state_dict().items())
    other = resized(1)
    other.get_input_embeddings().weight.data += 1
    with pytest.raises(AdapterFileError, match="base was changed"):
        lora.load_adapter(other, folder, trainable=False)


def test_the_message_for_an_unknown_name_tells_a_part_of_a_model_from_a_model_without_it(tmp_path):
    model = tiny.llama()
    lora.inject(model, lora.LoraConfig(target_modules=["q_proj"]), "a")
    with pytest.raises(KeyError, match=r"no adapter 'b' to save; there are \['a'\]"):
        lora.save_adapter(model, tmp_path, "b")
    with pytest.raises(KeyError, match="LlamaModel is a part of the model that adapter 'a' was put into"):
        lora.save_adapter(model.model, tmp_path, "a")
