"""4-bit files: bitsandbytes' format both ways, the `quantize` command, and loading shard by shard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from command import run_module
from safetensors.torch import load_file, save_file

from kernels.formulas.nf4 import dequantize, quantize
from loralib.four_bit.load4bit import load_4bit
from loralib.four_bit.qlora import quantize_model
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.nf4_files import from_file, to_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bnb():
    return pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_goes_through_theirs_and_theirs_through_ours(bnb, double_quant, quant_type, dtype):
    w = torch.randn(96, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = quantize(w, 64, quant_type, double_quant)
    files = to_file(q)
    stats = {f"weight{key}": tensor for key, tensor in files.items() if key}
    param = bnb.nn.Params4bit.from_prequantized(files[""], stats, device="cpu")
    assert torch.equal(bnb.functional.dequantize_4bit(param.data, param.quant_state), dequantize(q))
    layer = bnb.nn.Linear4bit(128, 96, bias=False, compress_statistics=double_quant, quant_type=quant_type)
    layer.weight = bnb.nn.Params4bit(w, requires_grad=False, compress_statistics=double_quant, quant_type=quant_type)
    layer = layer.to("cpu")
    state = {key.removeprefix("weight"): t for key, t in layer.state_dict().items()}
    other = from_file(state, "weight")
    assert set(files) == set(state) and all(files[key].dtype == state[key].dtype for key in files)
    assert torch.equal(dequantize(other), bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    assert torch.equal(other.packed, q.packed) and other.dtype == dtype


def test_what_comes_back_from_a_file_is_what_went_in():
    for shape in ((3, 5), (64, 70), (300, 2)):
        q = quantize(torch.randn(shape), 32, "nf4", True)
        again = from_file(to_file(q), "w")
        assert torch.equal(dequantize(again), dequantize(q)) and again.shape == q.shape


# ---------------------------------------------------------------- whole folders


def llama_folder(folder, shards="10MB", **changes):
    config = tiny.llama().config
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "tie_word_embeddings": True} | changes)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(changes.get("dtype", torch.float32)).eval()
    model.save_pretrained(folder, max_shard_size=shards)
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def quantize_command(*words):
    return run_module("loralib", "quantize", *words)


OTHERS = ["--no-double-quant", "--blocksize", "32", "--skip", "down_proj"]


@pytest.mark.parametrize("options", [[], OTHERS], ids=["default", "others"])
def test_a_folder_of_the_command_loads_in_transformers_with_equal_logits(bnb, options, tmp_path):
    plain = llama_folder(tmp_path / "model")
    done = quantize_command(tmp_path / "model", "--out", tmp_path / "q", *options)
    assert done.returncode == 0, done.stderr
    assert "bits a number" in done.stdout and "model.layers.2.mlp.up_proj" in done.stdout
    nested, blocksize, skip = (True, 64, None) if not options else (False, 32, ["down_proj"])
    quantize_model(plain, skip, double_quant=nested, blocksize=blocksize)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    assert type(other.model.layers[0].self_attn.q_proj).__module__.startswith("bitsandbytes")
    # with gradients on: without, bitsandbytes takes another kernel where the processor has AVX-512, which computes in bfloat16
    torch.testing.assert_close(other(tiny.ids()).logits, plain(tiny.ids()).logits, atol=1e-5, rtol=1e-5)


def test_gpt2_with_its_transposed_layers(bnb, tmp_path):
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32}
    plain = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    plain.save_pretrained(tmp_path / "model")
    done = quantize_command(tmp_path / "model", "--out", tmp_path / "q")
    assert done.returncode == 0 and "has no tokenizer" in done.stdout, done.stderr
    quantize_model(plain)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    # with gradients on: without, bitsandbytes takes another kernel where the processor has AVX-512, which computes in bfloat16
    torch.testing.assert_close(other(tiny.ids()).logits, plain(tiny.ids()).logits, atol=1e-5, rtol=1e-5)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    for words, result in (
        ([tmp_path / "nowhere"], "config.json"),
        ([tmp_path], "config.json"),
    ):
        done = quantize_command(*words, "--out", tmp_path / "q")
        assert done.returncode == 1 and result in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- shard by shard


@pytest.mark.parametrize("shards", ["10MB", "60KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loading_tensor_by_tensor_equals_loading_whole_and_quantising(shards, dtype, tmp_path):
    whole = llama_folder(tmp_path, shards, dtype=dtype)
    assert len(list(tmp_path.glob("*.safetensors"))) > (1 if shards == "60KB" else 0)
    quantize_model(whole)
    model, report = load_4bit(tmp_path, transformers.AutoModelForCausalLM)
    assert len(report.rows) == 21 and model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(tiny.ids()).logits, whole(tiny.ids()).logits)


def test_biases_and_conv1d_arrive_too(tmp_path):
    tiny.gpt2().save_pretrained(tmp_path)
    whole = tiny.gpt2()
    quantize_model(whole)
    model, _ = load_4bit(tmp_path, transformers.AutoModelForCausalLM)
    with torch.no_grad():
        assert torch.equal(model(tiny.ids()).logits, whole(tiny.ids()).logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "are in no file.*model.norm.weight"),
        (lambda t: t.update({"model.nrm.weight": torch.zeros(3)}), "model.nrm.weight is in the file"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"\(3,\) in the file"),
        (lambda t: t["model.layers.0.mlp.up_proj.weight"].fill_(float("nan")), "up_proj.weight: numbers that are not finite"),
    ],
)
@pytest.mark.fault
def test_files_that_do_not_fit_are_refused(change, words, tmp_path):
    llama_folder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=words):
        load_4bit(tmp_path, transformers.LlamaForCausalLM)


@pytest.mark.fault
def test_an_empty_folder_and_a_cut_file_are_refused(tmp_path):
    llama_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not fully covered"):
        load_4bit(tmp_path, transformers.LlamaForCausalLM)
    file.unlink()
    with pytest.raises(ValueError, match="no model"):
        load_4bit(tmp_path, transformers.LlamaForCausalLM)


def made(folder, width, layers, dtype=torch.float32):
    """A Llama folder written shard by shard."""
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = transformers.LlamaConfig(num_hidden_layers=layers, vocab_size=1000, tie_word_embeddings=False, **shape)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size="200MB")


def memory_of_loading(folder):
    script = ROOT / "tests" / "programs" / "load_in_4bit.py"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LARGE = pytest.param(2048, 6, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])


@pytest.mark.long
@pytest.mark.parametrize(("width", "layers"), [(1024, 5), LARGE], ids=["240MB", "1.3GB"])
def test_memory_stays_near_the_4bit_size(width, layers, tmp_path):
    made(tmp_path, width, layers)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    used = memory_of_loading(tmp_path)
    print(f"files {size / 1e6:.0f} MB, above the start {used['above'] / 1e6:.0f} MB: {used}")
    assert 0.8 * used["packed"] < used["above"] <= used["packed"] + used["other"] + 2 * used["layer"]
    assert used["above"] < size / 2


def test_linear4bit_is_what_a_loaded_layer_is(tmp_path):
    llama_folder(tmp_path)
    model, _ = load_4bit(tmp_path, transformers.LlamaForCausalLM, compute_dtype=torch.bfloat16)
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer) is Linear4bit and layer.compute_dtype == torch.bfloat16


def test_the_configs_dtype_counts_and_tied_heads_are_those_of_the_file(tmp_path):
    llama_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    quantize_model(whole)
    model, _ = load_4bit(tmp_path, transformers.AutoModelForCausalLM)
    assert model.model.layers[0].self_attn.q_proj.compute_dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(model(tiny.ids()).logits, whole(tiny.ids()).logits)
    tensors = load_file(tmp_path / "model.safetensors")
    words = tensors["model.embed_tokens.weight"]
    for head in (torch.ones(40, 64), words):
        save_file(tensors | {"lm_head.weight": head.clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        model, _ = load_4bit(tmp_path, transformers.AutoModelForCausalLM)
        assert torch.equal(model.lm_head.weight, head.bfloat16())
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == torch.equal(head, words)


@pytest.mark.fault
def test_the_command_never_writes_over_weights(tmp_path):
    llama_folder(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    done = quantize_command(tmp_path / "model", "--out", tmp_path / "model")
    assert done.returncode == 1 and "not empty" in done.stderr
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.roberta])
def test_transformers_saves_a_quantized_model(make, tmp_path):
    """It refuses tensors that share memory, so every layer has tables of its own; so has a checkpoint of its Trainer."""
    model = make()
    quantize_model(model, double_quant=True)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    tables = [key for key in state if key.endswith("quant_map")]
    assert len(tables) > 4 and len({state[key].data_ptr() for key in tables}) == len(tables)
