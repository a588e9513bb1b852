"""Frozen weights in half precision: what is half, what stays float32, what is refused, and that a saved run comes back."""

import json

import pytest
import torch

from training import train_model
from training.data.tasks import find_task
from training.models.base_models import Source, load_base
from training.models.precision import _in_float32, dtype_of
from training.models.trained import load_trained

SHORT = {"steps": 3, "train_rows": 24, "eval_rows": 20, "eval_every": 3, "samples": 0, "trackers": "", "dtype": "bf16"}


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("sentiment", "lora"),
        ("qa", "prefix"),
        ("tagging", "bottleneck"),
        ("data2text", "lora"),
        ("data2text", "qlora"),
        ("sentiment", "head"),
    ],
)
def test_what_trains_is_float32_and_the_rest_is_half(task, method, tmp_path):
    result = train_model(task, method=method, out=str(tmp_path), **SHORT)
    heads = [n for n, m in result.model.named_modules() if _in_float32 in m._forward_pre_hooks.values()]
    for name, p in result.model.named_parameters():
        is_head = any(name.startswith(f"{path}.") for path in heads)
        if p.requires_grad or is_head:
            assert p.dtype == torch.float32, name
        elif p.is_floating_point():
            assert p.dtype == torch.bfloat16, name
    assert all(torch.isfinite(torch.tensor([row["loss"] for row in result.rows if "loss" in row])))
    again = load_trained(tmp_path / "adapter")
    assert again.base.source.dtype == "bf16"
    saved, loaded = (dict(m.named_parameters()) for m in (result.model, again.base.model))
    assert all(p.dtype == loaded[n].dtype and torch.equal(p, loaded[n]) for n, p in saved.items())


def test_it_learns_about_as_well_as_float32(tmp_path):
    """A frozen weight is rounded by 2^-9; after 60 steps the accuracy on 200 examples is the same within five of them in 100."""
    options = {**SHORT, "steps": 60, "train_rows": 200, "eval_rows": 200, "eval_every": 60}
    half, whole = (train_model("sentiment", out=str(tmp_path / d), **options | {"dtype": d}) for d in ("bf16", "fp32"))
    assert abs(half.metric - whole.metric) <= 0.05 and half.metric > 0.8
    assert half.base_bytes < 0.56 * whole.base_bytes


@pytest.mark.parametrize(("changes", "message"), [({"method": "full"}, "frozen weights"), ({"bias": "all"}, "frozen weights")])
def test_training_half_precision_weights_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_model("sentiment", out=str(tmp_path), **SHORT | changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(ValueError, match=r"fp16.*found no GPU"):
        train_model("sentiment", out=str(tmp_path), **SHORT | {"dtype": "fp16"})


def test_auto_is_what_the_checkpoint_says(tmp_path):
    base = load_base(find_task("data2text"))
    base.model.bfloat16().save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    dtypes = {d: load_base(find_task("data2text"), Source(str(tmp_path), dtype=d)).model.dtype for d in ("auto", "fp32", "bf16")}
    assert dtypes == {"auto": torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}
    assert dtype_of("auto", object()) == torch.float32


def test_the_attention_implementation_is_that_of_the_model(tmp_path):
    result = train_model("sentiment", out=str(tmp_path), **SHORT | {"dtype": "fp32", "attn_implementation": "eager"})
    assert result.model.config._attn_implementation == "eager"
    assert load_trained(tmp_path / "adapter").base.model.config._attn_implementation == "eager"
