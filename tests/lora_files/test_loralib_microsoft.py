"""Files in the layout of Microsoft's loralib. Oracle: the layout's own formula (its package cannot stand beside ours)."""

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import loralib as lora
from loralib.layers.heads import saved_modules


def microsoft_state(r=2):
    """q and v of `c_attn`: lora_A (2r, d), lora_B (2·d, r), as `MergedLinear(enable_lora=[True, False, True])` saves them."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for layer in range(2):
        path = f"transformer.h.{layer}.attn.c_attn"
        state |= {f"{path}.lora_A": torch.randn(2 * r, 24, generator=g), f"{path}.lora_B": torch.randn(48, r, generator=g)}
    return state


def model(r=2):
    config = lora.LoraConfig(r=r, lora_alpha=2 * r, target_modules=["c_attn"], enable_lora={"c_attn": [True, False, True]})
    gpt2 = tiny.gpt2()
    lora.inject(gpt2, config)
    return gpt2


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_reading_gives_the_formula_of_the_layout(suffix, tmp_path):
    state, path = microsoft_state(), tmp_path / f"lora{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    gpt2 = model()
    assert lora.load_microsoft(gpt2, path) == 4
    layer, key = gpt2.transformer.h[1].attn.c_attn, "transformer.h.1.attn.c_attn"
    x = torch.randn(5, 24)
    # Microsoft's forward: a grouped 1×1 convolution over the stacked A-matmuls, then zeros where a part is off
    after_A = F.linear(x, state[key + ".lora_A"])
    after_B = F.conv1d(after_A.T[None], state[key + ".lora_B"].unsqueeze(-1), groups=2)[0].T
    wanted = x @ layer.weight + layer.bias
    wanted[:, :24] += 2 * after_B[:, :24]
    wanted[:, 48:] += 2 * after_B[:, 24:]
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


def test_a_prefix_is_renamed(tmp_path):
    torch.save({f"module.{k}": v for k, v in microsoft_state().items()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="rename"):
        lora.load_microsoft(model(), tmp_path / "x.pt")
    assert lora.load_microsoft(model(), tmp_path / "x.pt", rename=lambda key: key.removeprefix("module.")) == 4


def test_what_does_not_fit_raises(tmp_path):
    state = microsoft_state()
    for bad, result in (
        (dict(list(state.items())[:3]), "missing"),
        (state | {"transformer.h.9.lora_A": torch.ones(1)}, "without a place"),
        (state | {"transformer.h.0.attn.c_attn.lora_A": torch.ones(4, 23)}, "expected"),
        ([1, 2], "dictionary"),
    ):
        torch.save(bad, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=result):
            lora.load_microsoft(model(), tmp_path / "bad.pt")


class Payload:
    def __reduce__(self):
        return print, ("code ran while loading",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    torch.save({"x": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        lora.load_microsoft(model(), tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


HEADS = {"roberta": ["query"], "distilbert": ["q_lin"]}


@pytest.mark.parametrize("family", HEADS)
def test_factors_and_head_of_one_pickle_find_their_places(family, tmp_path):
    """Microsoft's released files for GLUE: LoRA factors and a classification head under the names of the plain model."""
    source = tiny.FAMILIES[family](1)
    lora.inject(source, lora.LoraConfig(r=2, target_modules=HEADS[family], task_type="SEQ_CLS"))
    tiny.randomise_lora(source)
    state = {
        f"{path}.lora_{x}": getattr(layer, f"lora_{x}")["default"]
        for path, layer in lora.lora_layers(source).items()
        for x in "AB"
    }
    state |= {
        f"{path}.{key}": value
        for path, head in saved_modules(source).items()
        for key, value in head.copies["default"].state_dict().items()
    }
    torch.save(state, tmp_path / "lora.bin")
    fresh = tiny.FAMILIES[family](1)
    lora.inject(fresh, lora.LoraConfig(r=2, target_modules=HEADS[family], task_type="SEQ_CLS"))
    assert lora.load_microsoft(fresh, tmp_path / "lora.bin") == len(state) > 4
    assert torch.equal(fresh(tiny.ids()).logits, source(tiny.ids()).logits)
    state.pop(next(key for key in state if "classifier" in key))
    torch.save(state, tmp_path / "lora.bin")
    with pytest.raises(ValueError, match=r"tensors missing .*classifier"):
        lora.load_microsoft(fresh, tmp_path / "lora.bin")
