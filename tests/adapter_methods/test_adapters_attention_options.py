"""What an attention computes beside its softmax: soft caps and sinks are refused, a sliding window is given to the prefix too.

Oracle: the model itself. A prefix that is made of a text must act as that text, also where the window has left it behind.
"""

import pytest
import torch
import transformers as T
from torch import nn

import adapters
from adapters.virtual.attention_options import refuse_dropped_options, virtual_tokens_in_window
from distill.losses.states import forward_with_states

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
SMALL |= {"max_position_embeddings": 64, "num_hidden_layers": 2, "pad_token_id": 0}
TEXT = [5, 6, 7, 8]
WINDOWS = {
    "phi3": (T.Phi3ForCausalLM, T.Phi3Config(**SMALL, sliding_window=6, bos_token_id=2, eos_token_id=3)),
    "starcoder2": (T.Starcoder2ForCausalLM, T.Starcoder2Config(**SMALL, sliding_window=6)),
    "ministral": (T.MinistralForCausalLM, T.MinistralConfig(**SMALL, head_dim=8, sliding_window=6)),
}


class Reader:
    """A tokenizer for which every text is TEXT."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": TEXT}


def made(model_class, config, way: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation=way).eval()
    for p in model.parameters():
        p.data += 0.15 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", WINDOWS)
@torch.no_grad()
def test_a_prefix_of_a_text_is_that_text_in_a_sliding_window(kind, way):
    model = made(*WINDOWS[kind], way)
    ids = torch.tensor([[11, 12, 13, 14, 15, 16, 17, 18, 19, 20]])
    whole = model(input_ids=torch.tensor([TEXT + ids[0].tolist()])).logits[:, len(TEXT) :]
    written = model.generate(torch.tensor([TEXT + ids[0].tolist()]), max_new_tokens=6, do_sample=False)[:, len(TEXT) :]
    config = adapters.PrefixTuningConfig(num_virtual_tokens=len(TEXT), init_weights="text", init_text="x")
    adapters.attach(model, config, tokenizer=Reader())
    torch.testing.assert_close(model(input_ids=ids).logits, whole, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), written)


def test_which_virtual_tokens_a_window_shows():
    assert virtual_tokens_in_window(2, 3, 3, None, torch.device("cpu")) is None
    assert virtual_tokens_in_window(2, 3, 3, 5, torch.device("cpu")) is None  # all five positions fit
    result = virtual_tokens_in_window(2, 3, 3, 3, torch.device("cpu"))
    assert result.tolist() == [[True, True], [False, True], [False, False]]
    assert virtual_tokens_in_window(2, 1, 3, 3, torch.device("cpu")).tolist() == [[False, False]]


@pytest.mark.parametrize(
    ("model_class", "config", "option"),
    [
        (T.GptOssForCausalLM, T.GptOssConfig(**SMALL, head_dim=8, num_local_experts=4), "s_aux"),
        (T.VaultGemmaForCausalLM, T.VaultGemmaConfig(**SMALL, head_dim=8, attn_logit_softcapping=1.0), "softcap"),
        (T.Gemma2ForCausalLM, T.Gemma2Config(**SMALL, head_dim=8, attn_logit_softcapping=1.0), "softcap"),
    ],
    ids=["gpt_oss", "vaultgemma", "gemma2"],
)
def test_what_would_be_dropped_is_refused_before_anything_changes(model_class, config, option):
    model = made(model_class, config, "eager")
    ids = torch.tensor([[11, 12, 13]])
    before = model(input_ids=ids).logits
    with pytest.raises(ValueError, match=f"computes with '{option}'"):
        adapters.attach(model, adapters.PrefixTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ValueError, match=f"computes with '{option}'"):
        forward_with_states(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, attention=True)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_tensor_of_an_unknown_name_is_refused_and_plain_options_pass():
    layer = nn.Linear(2, 2)
    refuse_dropped_options(layer, {"scaling": 0.5, "position_ids": torch.arange(3), "num_items_in_batch": 4, "softcap": None})
    refuse_dropped_options(layer, {"position_bias": torch.ones(1)})
    with pytest.raises(ValueError, match="Linear computes with 'gate'"):
        refuse_dropped_options(layer, {"gate": torch.ones(1)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_fusion_works_on_a_model_in_half_precision(dtype, dynamic):
    """Of bottlenecks and of LoRA, in families that no script of ours names."""
    torch.manual_seed(0)
    for model in (T.Qwen3ForCausalLM(T.Qwen3Config(**SMALL, head_dim=8)), T.MistralForCausalLM(T.MistralConfig(**SMALL))):
        model = model.to(dtype).eval()
        for name in "ab":
            adapters.attach(model, adapters.BottleneckConfig(reduction_factor=4), name)
        fuse = adapters.Fuse("a", "b")
        adapters.attach(model, adapters.AdapterFusionConfig(dynamic=dynamic), fuse)
        adapters.train_only(model, fuse)
        for name, p in model.named_parameters():
            if name.endswith("up.weight"):  # zero at the start, so that nothing would reach the fusion
                torch.nn.init.normal_(p, std=0.1)
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
        assert logits.dtype == dtype and logits.isfinite().all()
        logits.float().square().sum().backward()
        fusions = [m for m in model.modules() if type(m).__name__ == "AdapterFusion"]
        assert fusions and all(m.value.weight.dtype == torch.float32 for m in fusions)
        assert all(p.grad.abs().sum() > 0 for m in fusions for n, p in m.named_parameters() if n == "value.weight")
