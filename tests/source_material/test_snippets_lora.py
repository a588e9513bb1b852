"""The snippets of the LoRA tutorial (`lora_tutorial.md`) and of the PEFT page (`peft_qlora.md`), with our imports.

Names of Hub models are those of tiny folders here. A snippet whose code is wrong (it adds no LoRA, or merges nothing) raises
here, or the test shows what it really does.
"""

import json

import pytest
import tiny
import tiny_folder
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import adapters
import loralib as lora

SEVEN = ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tiny.ids()).logits


def adapted(trained: bool = False):
    """GPT-2 with LoRA; `trained` gives its factors values that change the output."""
    model = lora.get_peft_model(tiny.gpt2(), lora.LoraConfig(r=4, target_modules=["c_attn"]), seed=0)
    if trained:
        for p in lora.lora_state_dict(model).values():
            p.data.add_(0.1)
    return model


# ---------------------------------------------------------------- lora_tutorial.md


def test_marking_adds_no_lora_and_says_how_to_add_it():
    """Steps 2, 3, situations 1, 2, examples 1, 2: `lora.mark_only_lora_as_trainable(model)` on a model without LoRA."""
    with pytest.raises(ValueError, match=r"no LoRA layers.*get_peft_model\(model, LoraConfig"):
        lora.mark_only_lora_as_trainable(tiny.gpt2())


def test_a_training_step_and_the_count_of_parameters():
    """Example 1: after LoRA was added, the rest of the snippet runs as written."""
    model = adapted()
    lora.mark_only_lora_as_trainable(model)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < trainable == lora.count_parameters(model).trainable < total
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    outputs = model(input_ids=tiny.ids(), labels=tiny.ids())
    outputs.loss.backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora" in name for name in changed)


def test_only_the_lora_weights_are_saved_and_loaded_again(tmp_path):
    """Step 2 and situation 2: a dictionary of the entries with `lora` in their name, and `strict=False`."""
    model = adapted(trained=True)
    checkpoint = {k: v for k, v in model.state_dict().items() if "lora" in k}
    assert checkpoint.keys() == lora.lora_state_dict(model).keys()
    torch.save(checkpoint, tmp_path / "checkpoint.bin")
    again = adapted()
    result = again.load_state_dict(torch.load(tmp_path / "checkpoint.bin"), strict=False)
    assert not result.unexpected_keys and torch.equal(logits(again), logits(model))


def test_strict_false_hides_that_a_checkpoint_does_not_fit(tmp_path):
    """Trouble 3: on a model without LoRA `strict=False` loads nothing and says nothing. `load_adapter` raises."""
    model = adapted(trained=True)
    plain = tiny.gpt2()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "lora" in k}, strict=False)
    assert torch.equal(logits(plain), logits(tiny.gpt2()))
    lora.save_adapter(model, tmp_path / "adapter")
    with pytest.raises(lora.AdapterFileError, match=r"adapter.*c_attn"):
        lora.load_adapter(tiny.llama(), tmp_path / "adapter", trainable=False)


def test_the_merge_loop_merges_nothing_and_merge_does():
    """Example 2 looks for `lora_a`; the layers have `lora_A`. So its loop changes no weight."""
    model = adapted(trained=True)
    wanted, weight = logits(model), model.get_submodule("transformer.h.0.attn.c_attn").weight
    before, visited = weight.clone(), 0
    for _, module in model.named_modules():
        if hasattr(module, "lora_a"):
            visited += 1
    assert visited == 0 and torch.equal(weight, before)
    lora.merge(model)
    assert not torch.equal(model.get_submodule("transformer.h.0.attn.c_attn").weight, before)
    torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["sst2", "mnli", "qnli", "rte", "mrpc"])
def test_train_model_by_its_name_alone_says_what_it_needs(task, tmp_path, monkeypatch):
    """Situation 3: `train_model(task)`."""
    from training import train_model

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"task '{task}' needs a model: give model=.* and data_dir="):
        train_model(task)


def test_generation_and_classification_as_written(tmp_path):
    """Situations 1 and 2, example 2: tokenizer, texts, `generate`, a classifier with two labels."""
    folder = tiny_folder.decoder(tmp_path / "gpt2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = lora.get_peft_model(model, lora.LoraConfig(r=4))
    inputs = tokenizer(["a text", "another text"], return_tensors="pt", max_length=512, truncation=True, padding=True)
    assert torch.isfinite(model(**inputs).logits).all()
    output = model.generate(tokenizer.encode("Write:", return_tensors="pt"), max_length=12, do_sample=False)
    assert isinstance(tokenizer.decode(output[0]), str)
    folder = tiny_folder.encoder(tmp_path / "roberta")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model = lora.get_peft_model(model, lora.LoraConfig(r=4, modules_to_save=["classifier"]))
    inputs = AutoTokenizer.from_pretrained(folder)("A wonderful film!", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    assert model.eval()(**inputs).logits.shape == (1, 2)


# ---------------------------------------------------------------- peft_qlora.md


def test_the_imports_of_the_peft_page():
    names = "get_peft_config PeftModel PeftConfig get_peft_model PromptTuningConfig PromptTuningInit PrefixTuningConfig"
    assert all(hasattr(adapters, name) for name in names.split())


def test_prefix_tuning_as_written():
    config = adapters.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, prefix_projection=True)
    model = tiny.gpt2()
    peft_model = adapters.get_peft_model(model, config)
    assert peft_model is model and list(adapters.attached(model)) == ["default"]


def prompt_config():
    return adapters.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=8,
        prompt_tuning_init=adapters.PromptTuningInit.TEXT,
        prompt_tuning_init_text="Classify if text is positive or negative:",
    )


def test_prompt_tuning_as_written(tmp_path):
    """The tokenizer is that of the folder that the model came from. A model without a folder needs `tokenizer=`."""
    folder = tiny_folder.decoder(tmp_path / "llama")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    adapters.get_peft_model(model, prompt_config())
    ids = tokenizer(prompt_config().prompt_tuning_init_text)["input_ids"][:8]
    start = next(p for name, p in model.named_parameters() if p.requires_grad)
    assert torch.equal(start, model.get_input_embeddings().weight[ids])
    other = AutoModelForCausalLM.from_config(model.config)
    other.name_or_path = ""
    with pytest.raises(ValueError, match="needs the model's tokenizer: pass tokenizer="):
        adapters.get_peft_model(other, prompt_config())
    (tmp_path / "empty").mkdir()
    other.name_or_path = str(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"pass tokenizer=. None was read from .*empty"):
        adapters.get_peft_model(other, prompt_config())


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "LORA", "IA3", "VERA"])
def test_configs_and_models_by_pefts_names(kind, tmp_path):
    """`get_peft_config`, `PeftConfig.from_pretrained`, `PeftModel.from_pretrained`: the logits come back."""
    settings = {"peft_type": kind, "task_type": "CAUSAL_LM"}
    settings |= {"num_virtual_tokens": 3} if "TUNING" in kind else {"target_modules": ["c_attn"]}
    settings |= {"r": 4} if kind in ("LORA", "VERA") else {}
    settings |= {"feedforward_modules": []} if kind == "IA3" else {}
    config = adapters.get_peft_config(settings)
    model = adapters.get_peft_model(tiny.gpt2(), config, seed=0)
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(0.1)
    adapters.save(model, tmp_path / "adapter")
    read = adapters.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert type(read) is type(config)
    again = adapters.PeftModel.from_pretrained(tiny.gpt2(), tmp_path / "adapter", is_trainable=True)
    torch.testing.assert_close(logits(again), logits(model))
    assert any(p.requires_grad for p in again.parameters())


def test_settings_without_a_counterpart_are_refused(tmp_path):
    with pytest.raises(ValueError, match="peft_type is missing"):
        adapters.get_peft_config({"r": 8})
    with pytest.raises(ValueError, match="peft_type='LOHA'"):
        adapters.get_peft_config({"peft_type": "LOHA", "target_modules": ["c_attn"]})
    with pytest.raises(ValueError, match="no counterpart here: num_layers"):
        adapters.get_peft_config({"peft_type": "PREFIX_TUNING", "num_layers": 3})
    with pytest.raises(ValueError, match="num_virtual_tokens=0"):
        adapters.get_peft_config({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 0})
    config = adapters.get_peft_config({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2, "keep_positions": False})
    assert config.keep_positions is False
    with pytest.raises(adapters.AdapterFileError):
        adapters.PeftConfig.from_pretrained(tmp_path)
    for settings, message in (
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": "5"}, "adapter_config.json"),
        ({"peft_type": ["LORA"]}, "adapter_config.json"),
        ({"type": "bottleneck"}, r"adapters\.load\(model, folder\)"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(adapters.AdapterFileError, match=message):
            adapters.PeftConfig.from_pretrained(tmp_path)


def test_pefts_own_config_objects_are_taken():
    peft = pytest.importorskip("peft")
    for config in (peft.PrefixTuningConfig(num_virtual_tokens=3), peft.PromptTuningConfig(num_virtual_tokens=3)):
        model = adapters.get_peft_model(tiny.gpt2(), config)
        assert adapters.attached(model)["default"].num_virtual_tokens == 3
    with pytest.raises(TypeError, match=r"adapters\.get_peft_model takes prefixes"):
        lora.get_peft_model(tiny.gpt2(), adapters.PrefixTuningConfig(num_virtual_tokens=3))


def llama_config():
    return lora.LoraConfig(
        r=8, lora_alpha=16, target_modules=SEVEN, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM"
    )  # fmt: skip


def test_qlora_on_a_model_of_bitsandbytes_names_the_way(tmp_path):
    """`BitsAndBytesConfig` with `device_map="auto"`: both calls that follow give one message, and what it names works."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    folder = tiny_folder.decoder(tmp_path / "llama")
    bnb_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16, bnb_4bit_use_double_quant=True
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=bnb_config, device_map="auto")
    for call in (lora.prepare_model_for_kbit_training, lambda model: adapters.get_peft_model(model, llama_config())):
        with pytest.raises(ValueError, match=r"of bitsandbytes.*loralib\.load_4bit\(folder, model_class\)"):
            call(model)
    model, _ = lora.load_4bit(folder, AutoModelForCausalLM)
    model = lora.prepare_model_for_kbit_training(model)
    model = adapters.get_peft_model(model, llama_config())
    lora.print_trainable_parameters(model)
    assert all("lora" in name for name, p in model.named_parameters() if p.requires_grad)


def test_checkpointing_accumulation_autocast_and_evaluation():
    """The memory and training snippets, with `torch.autocast` in the place of the deprecated `torch.cuda.amp.autocast`."""
    from torch.optim import AdamW
    from transformers import get_scheduler

    model = tiny.llama()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model = adapters.get_peft_model(model, llama_config())
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.001)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=2)
    before, accumulation_steps = [p.clone() for p in trained], 4
    for step, batch in enumerate([{"input_ids": tiny.ids(), "labels": tiny.ids()}] * 8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
            loss = loss / accumulation_steps
        loss.backward()
        if (step + 1) % accumulation_steps == 0:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert any(not torch.equal(p, old) for p, old in zip(trained, before, strict=True))
    model.eval()
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=tiny.ids(), labels=tiny.ids()).loss)
