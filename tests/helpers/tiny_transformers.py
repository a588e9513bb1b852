"""A tiny random model, and inputs for it, for every class of transformers that has a head for one of seven tasks."""

import functools
import inspect
import re

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto as auto

HEADS = {
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "MASKED_LM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "IMAGE_CLS": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "AUDIO_CLS": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
}

SIZES = [  # the first pattern that fits the name of an integer gives its value
    (r"(codebook|vocab)_size|vocab_size_\w+|.*_vocab_size|n_vocab|num_buckets", 100),
    (r"(num_|n_)?(hidden_|decoder_|encoder_|n_)?(layers|layer|hidden_layers)|(en|de)coder_(num_)?(hidden_)?layers|num_layers", 2),
    (r".*(kv|key_value)_heads|num_key_value_head|multi_query_group_num", 2),
    (r".*(n_heads|num_heads|attention_heads|n_head|num_attention_head)", 4),
    (r"(qk_nope_|v_|kv_|attention_|query_|key_|value_|attn_)?head_dim|d_kv|kv_channels|attention_head_size|d_head", 8),
    (r"qk_rope_head_dim", 4),
    (r"(q|kv)_lora_rank", 12),
    (r".*(intermediate_size|ffn_dim|d_ff|n_inner|d_inner|feed_forward_proj|ffn_hidden_size|hidden_dim|mlp_dim)", 48),
    (r".*(hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_size|model_dim|projection_dim|width)|dim|d_embed", 32),
    (r".*(max_position_embeddings|n_positions|max_seq_len|n_ctx|max_(source|target)_positions|seq_length|max_length)", 128),
    (r"(num_|n_)?(local_|routed_)?experts|num_local_experts|n_routed_experts|moe_num_experts", 4),
    (r"(num_experts_per_tok|moe_topk|top_k|moe_k|num_experts_per_token)", 4),
]
WANTED = {"vocab_size": 100, "head_dim": 8, "num_key_value_heads": 2}
"""for a config whose default is None and whose model then fails"""
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "sep_token_id": 3}
LATENT = {"num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
SPECIAL = {  # by the model type: what the rules above get wrong
    "axk1": LATENT,
    "axk2": LATENT,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "minicpm3": LATENT,
    "mistral4": LATENT,
    "deepseek_v32": LATENT,
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT,
    "youtu": LATENT,
    "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 4},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "input_size": 32},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24], "attn_layers": ["local", "lsh"]},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 32,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "qk_channels": 32,
        "v_channels": 32,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "qwen3_next": {"num_hidden_layers": 4},
    "qwen3_5_moe": {"num_hidden_layers": 4},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "kimi_linear": {"num_hidden_layers": 4},
    "bailing_hybrid": {"num_hidden_layers": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "zaya": {"num_experts_per_tok": 1},
    "convnext": {"layer_scale_init_value": 1.0},
    "qwen3_5": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba": {"layer_types": ["mamba", "hybrid"]},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
}


def classes() -> list[tuple[str, str, str]]:
    """(task type, model type, name of the class) of all of them, each class once."""
    result = {}
    for task, names in HEADS.items():
        for kind, name in names.items():
            for one in [name] if isinstance(name, str) else name:
                result.setdefault(one, (task, kind, one))
    return list(result.values())


def build(name: str, seed: int = 0) -> nn.Module:
    """The class with two layers and a width of 32, random values in float32, in evaluation mode."""
    model_class = getattr(transformers, name)
    labels = 2 if "QuestionAnswering" in name else 3
    config = small_config(model_class.config_class, num_labels=labels)
    torch.manual_seed(seed)
    model = model_class(config).eval()
    for parameter in model.parameters():  # some start at zero, which would stop every gradient
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def small_config(config_class, **settings):
    """A config of this class with small values for the names of SIZES, also in the configs within it."""
    return config_class(**_small_values(config_class()), **settings)


def _small_values(config) -> dict:
    names = [n for n in inspect.signature(type(config).__init__).parameters if n not in ("self", "kwargs", "args")]
    values = {}
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, transformers.PretrainedConfig):
            values[name] = {"model_type": value.model_type} | _small_values(value)
        elif value is None and name in WANTED:
            values[name] = WANTED[name]
        elif isinstance(value, int) and not isinstance(value, bool) and _size(name):
            values[name] = _size(name)
    return values | TOKENS | SPECIAL.get(config.model_type, {})


@functools.cache
def _size(name: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Two examples for `model(**inputs)`."""
    generator = torch.Generator().manual_seed(1)
    names = inspect.signature(model.forward).parameters
    if "pixel_values" in names and model.main_input_name == "pixel_values":
        size = getattr(getattr(model.config, "vision_config", model.config), "image_size", 32)
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(2, getattr(model.config, "num_channels", 3), height, width, generator=generator)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(2, 4000, generator=generator)}
    if model.main_input_name == "input_features":
        frames = 2 * getattr(model.config, "max_source_positions", 50)
        return {"input_features": torch.randn(2, 80, frames, generator=generator)}
    ids = torch.randint(4, 90, (2, 12), generator=generator)
    ids[:, [3, 6, 9]] = TOKENS["sep_token_id"]
    ids[:, -1] = TOKENS["eos_token_id"]  # BART and T5 take the state of the one end token
    given = {model.main_input_name: ids, "attention_mask": torch.ones_like(ids)}
    if "bbox" in names:
        given["bbox"] = torch.randint(0, 20, (2, 12, 4), generator=generator).cumsum(-1)
    return {name: value for name, value in given.items() if name in names or "kwargs" in names}


def outputs(model: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """All logits of a pass, in one row."""
    out = model(**given)
    return torch.cat([value.flatten() for name, value in out.items() if name.endswith("logits")])
