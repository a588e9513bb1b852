"""Many adapters in one batch, and the exchange of an adapter in a compiled model."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from command import run_ranks
from torch import nn

import loralib as lora

ROOT = Path(__file__).parents[2]


def bert_with_three():
    """LoRA on queries, DoRA, and (IA)³, each with a head of its own."""
    model = tiny.bert()
    configs = {
        "a": lora.LoraConfig(r=2, lora_alpha=6, target_modules=["query", "word_embeddings"]),
        "b": lora.LoraConfig(r=4, target_modules=["query", "dense"], use_dora=True),
        "c": lora.IA3Config(["key", "value"]),
    }
    for name, config in configs.items():
        lora.inject(model, config, name)
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.data.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i + ord(name))))
    return model


def alone(model, name, row):
    lora.set_active(model, [] if name is None else name)
    return model(row[None]).logits[0]


@pytest.mark.parametrize(
    "names", [["a", None, "b", "c", "a"], ["b", "b", None, None, "c"], [None] * 5, ["c", "b", "a", "b", "c"]]
)
def test_pt13_every_row_as_if_it_were_alone(names):
    model, rows = bert_with_three(), tiny.ids(batch=5)
    wanted = torch.stack([alone(model, name, row) for name, row in zip(names, rows, strict=True)])
    lora.set_active(model, "a")
    before = model(rows).logits
    with lora.mixed_batch(model, names):
        torch.testing.assert_close(model(rows).logits, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(rows).logits, before)


def test_the_base_runs_once_and_gradients_go_to_each_rows_adapter():
    model, rows = bert_with_three(), tiny.ids(batch=4)
    lora.set_trainable(model, ["a", "b"])
    with lora.mixed_batch(model, ["a", None, "a", "c"]):
        model(rows).logits.sum().backward()
    grads = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any("lora_A.a" in n for n in grads) and not any(n.endswith(".b") for n in grads)
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and "lora_" in n}
    model.zero_grad()
    lora.set_active(model, "a")
    model(rows[[0, 2]]).logits.sum().backward()
    for name, p in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(p.grad, wanted[name], atol=1e-4, rtol=1e-4)


def test_generation_with_beams():
    model = tiny.llama()
    for name in "ab":
        lora.inject(model, lora.LoraConfig(r=2, init_lora_weights=False), name)
    prompts = tiny.ids(batch=3, length=5)
    settings = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with lora.mixed_batch(model, ["a", None, "b"], repeats=3):
        result = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
    for i, name in enumerate(["a", None, "b"]):
        lora.set_active(model, [] if name is None else name)
        one = prompts[i : i + 1]
        assert torch.equal(model.generate(one, attention_mask=torch.ones_like(one), **settings)[0], result[i])


def test_mixed_batches_refuse_what_they_cannot_do():
    model, rows = bert_with_three(), tiny.ids(batch=3)
    with pytest.raises(KeyError, match="nobody"), lora.mixed_batch(model, ["a", "nobody"]):
        pass
    with pytest.raises(ValueError, match="names adapters for 2 rows"), lora.mixed_batch(model, ["a", "b"]):
        model(rows)
    model(rows)  # the state before is back
    lora.set_active(model, "a")
    lora.merge(model)
    with pytest.raises(RuntimeError, match="merged"), lora.mixed_batch(model, ["a", "b", None]):
        pass
    lora.unmerge(model)
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["query"], bias="all", modules_to_save=[]), "d")
    with pytest.raises(ValueError, match="train biases"), lora.mixed_batch(model, ["a", "d", None]):
        pass


# ---------------------------------------------------------------- hot swap


def adapters(tmp_path, ranks=(2, 5, 3)):
    """Files of random adapters of different ranks and scales, with the outputs of a model that loads them."""
    result = []
    for i, r in enumerate(ranks):
        model = tiny.llama()
        lora.inject(
            model, lora.LoraConfig(r=r, lora_alpha=2 * i + 1, use_rslora=bool(i % 2), target_modules=["q_proj", "up_proj"])
        )
        tiny.randomise_lora(model, seed=i)
        lora.save_adapter(model, tmp_path / str(i))
        result.append((tmp_path / str(i), model(tiny.ids()).logits))
    return result


def test_an_exchanged_adapter_answers_as_a_loaded_one_and_is_saved_with_its_own_rank(tmp_path):
    files = adapters(tmp_path)
    model = tiny.llama()
    lora.load_adapter(model, files[0][0], trainable=False)
    lora.prepare_hotswap(model, rank=8)
    torch.testing.assert_close(model(tiny.ids()).logits, files[0][1], atol=1e-5, rtol=1e-5)
    for folder, wanted in [*files, files[0]]:
        lora.hotswap_adapter(model, folder)
        torch.testing.assert_close(model(tiny.ids()).logits, wanted, atol=1e-5, rtol=1e-5)
        lora.save_adapter(model, tmp_path / "again")
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        lora.merge(model)
        torch.testing.assert_close(model(tiny.ids()).logits, wanted, atol=1e-4, rtol=1e-4)
        lora.unmerge(model)


def test_hot_swap_refuses_what_would_not_fit_and_keeps_what_was(tmp_path):
    files = adapters(tmp_path, ranks=(2, 9))
    model = tiny.llama()
    lora.load_adapter(model, files[0][0], trainable=False)
    with pytest.raises(RuntimeError, match="not prepared"):
        lora.hotswap_adapter(model, files[1][0])
    with pytest.raises(ValueError, match="more than rank=1"):
        lora.prepare_hotswap(model, rank=1)
    lora.prepare_hotswap(model, rank=8)
    with pytest.raises(ValueError, match="space for 8"):
        lora.hotswap_adapter(model, files[1][0])
    with pytest.raises(ValueError, match="space for rank 8, more than rank=4"):  # made wider once, it stays so
        lora.prepare_hotswap(model, rank=4)
    other = tiny.llama()
    lora.inject(other, lora.LoraConfig(r=2, target_modules=["q_proj"]))
    lora.save_adapter(other, tmp_path / "other")
    with pytest.raises(ValueError, match="adapts 3 modules, the prepared adapter 6"):
        lora.hotswap_adapter(model, tmp_path / "other")
    torch.testing.assert_close(model(tiny.ids()).logits, files[0][1], atol=1e-5, rtol=1e-5)
    dora = nn.Sequential(nn.Linear(4, 4))
    lora.inject(dora, lora.LoraConfig(r=2, use_dora=True, target_modules=["0"]))
    with pytest.raises(ValueError, match="only plain LoRA"):
        lora.prepare_hotswap(dora, rank=4)


@pytest.mark.parametrize("more", [{"bias": "lora_only"}, {"modules_to_save": ["1"]}])
def test_an_adapter_with_biases_or_a_head_is_not_prepared(more):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], **more))
    with pytest.raises(ValueError, match="brings a head or biases"):
        lora.prepare_hotswap(model, rank=4)


def test_a_prepared_scale_is_exact_in_float64():
    model = nn.Sequential(nn.Linear(4, 4))
    lora.inject(model, lora.LoraConfig(r=3, lora_alpha=1, target_modules=["0"]))
    lora.prepare_hotswap(model, rank=4)
    assert float(model.double()[0].hot_scale.value) == 1 / 3


@pytest.mark.long
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_no_recompilation_when_adapters_are_exchanged(backend, tmp_path):
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile's inductor needs a C++ compiler, and there is none")
    files = adapters(tmp_path)
    script = ROOT / "tests" / "programs" / "hot_swap_compiled.py"
    # a process of its own: the shape-checking hook of this one cannot be compiled
    done = run_ranks(1, script, backend, *(folder for folder, _ in files))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 adapters, 1 compilation" in done.stdout


@pytest.mark.parametrize("path", ["torch", "triton"])
def test_a_batch_may_train_after_one_of_inference(path):
    """What is kept for a batch (row numbers, the tile table) is not bound to inference mode."""
    pytest.importorskip("triton")
    model = nn.Sequential(nn.Linear(6, 5))
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    x = torch.randn(3, 6)
    with lora.use_kernels(path), lora.mixed_batch(model, ["default", None, "default"]):
        with torch.inference_mode():
            first = model(x)
        second = model(x)
        second.sum().backward()
    assert torch.equal(first, second)


@pytest.mark.parametrize("family", ["OPT", "Qwen2-MoE"])
def test_layers_that_get_rows_and_tokens_in_one_dimension(family):
    """OPT flattens them before its feed-forward layers, a mixture before the expert that all rows share."""
    import transformers as T
    from family_models import FAMILIES

    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(FAMILIES[family].config()).eval()
    for name in ("a", "b"):
        lora.inject(model, lora.LoraConfig(r=2, target_modules="all-linear"), name)
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.data.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i + ord(name))))
    ids, names = torch.arange(24).view(4, 6) + 5, ["a", None, "b", "a"]
    with torch.no_grad():
        with lora.mixed_batch(model, names):
            together = model(ids).logits
            for wrong in (ids[:3], ids.repeat(2, 1)):
                with pytest.raises(ValueError, match="names adapters for 4 rows"):
                    model(wrong)
        for row, name in enumerate(names):
            torch.testing.assert_close(together[row], alone(model, name, ids[row]), rtol=1e-5, atol=1e-5)
