"""A student of chosen layers computes what these layers compute in the teacher, whatever its config says of each of them."""

import copy

import pytest
import torch
import transformers as T

from distill.student.copy_spec import read_copy
from distill.student.student import copy_student

SMALL = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BLOCK = SMALL | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
BLOCK |= {"num_hidden_layers": 4, "max_position_embeddings": 64}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS = {
    "no rotation in some layers": lambda: T.SmolLM3Config(no_rope_layers=[1, 0, 0, 1], **BLOCK),
    "windows in turn": lambda: T.Gemma2Config(head_dim=8, sliding_window=4, **BLOCK),
    "kinds of attention by name": lambda: T.Olmo3Config(sliding_window=4, **BLOCK),
    "kinds of attention, in a nested list": lambda: T.GPTNeoConfig(
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local", "local", "global"], 1]],
        window_size=4,
        max_position_embeddings=64,
        **SMALL,
    ),
    "experts in every second layer": lambda: T.Qwen3MoeConfig(decoder_sparse_step=2, head_dim=8, **MOE, **BLOCK),
    "layers without experts by number": lambda: T.Qwen3MoeConfig(mlp_only_layers=[1, 2], head_dim=8, **MOE, **BLOCK),
}


def teacher_of(config):
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


@torch.no_grad()
def without_others(teacher, layers, ids):
    """The teacher with its other layers taken out of the list, each of those that stay with its own kind."""
    left = copy.deepcopy(teacher)
    blocks = next(m for m in left.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
    for i, block in enumerate(blocks):
        if i + 1 not in layers:
            own = block.forward
            block.forward = lambda hidden_states, *a, own=own, **k: (
                (hidden_states,) if isinstance(own(hidden_states, *a, **k), tuple) else hidden_states
            )
    return left(input_ids=ids).logits


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("layers", [(2, 4), (3,), (1, 2, 3)])
def test_what_is_said_of_each_layer_comes_along(name, layers, tmp_path):
    teacher, ids = teacher_of(CONFIGS[name]()), torch.randint(1, 64, (2, 24), generator=torch.Generator().manual_seed(1))
    student = copy_student(teacher, read_copy("copy:" + ",".join(map(str, layers)))).eval()
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids).logits, without_others(teacher, layers, ids), rtol=0, atol=2e-5)
        student.save_pretrained(tmp_path)  # and the config that is written says the same
        again = T.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, student(input_ids=ids).logits, rtol=0, atol=0)


@pytest.mark.fault
@pytest.mark.parametrize("layers", ["2,4", "4,1"])
def test_layers_that_depend_on_their_number_are_refused(layers):
    config = T.GPT2Config(n_embd=32, n_layer=4, n_head=4, scale_attn_by_inverse_layer_idx=True, **SMALL)
    with pytest.raises(ValueError, match="depends on its number"):
        copy_student(teacher_of(config), read_copy(f"copy:{layers}"))


@pytest.mark.fault
def test_kinds_of_layers_that_cannot_be_told_are_refused():
    latent = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16}
    config = T.DeepseekV3Config(first_k_dense_replace=1, **experts, **latent, **(BLOCK | {"num_key_value_heads": 4}))
    teacher = teacher_of(config)
    assert copy_student(teacher, read_copy("copy:1,3")).config.first_k_dense_replace == 1
    assert copy_student(teacher, read_copy("copy:2,3")).config.first_k_dense_replace == 0
    with pytest.raises(ValueError, match="names the kinds of its layers by their numbers"):
        copy_student(teacher, read_copy("copy:3,1"))
    with pytest.raises(ValueError, match="no structure that is known"):
        copy_student(T.MambaForCausalLM(T.MambaConfig(hidden_size=32, num_hidden_layers=2, **SMALL)), read_copy("copy:1"))
