"""Adapter folders that peft wrote, of old and new versions and of every kind that people publish: our logits are peft's.

Oracle: `PeftModel.from_pretrained`, to 1e-5. The older files are made from today's by taking away what older versions did not
write: `peft_version` came with 0.18, patterns with 0.5, safetensors with 0.7.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from torch import nn

import loralib as lora
from loralib.files.read_adapter import CONFIG, PICKLE, WEIGHTS

peft = pytest.importorskip("peft")
SMALL = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
DISTIL = {"vocab_size": 48, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
BASES: dict[str, tuple[Any, Any]] = {
    "qwen3": (T.Qwen3ForCausalLM, T.Qwen3Config(**SMALL, **HEADS)),
    "qwen2, tied": (T.Qwen2ForCausalLM, T.Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True)),
    "gemma": (T.GemmaForCausalLM, T.GemmaConfig(**SMALL, **HEADS, tie_word_embeddings=True)),
    "mistral": (T.MistralForCausalLM, T.MistralConfig(**SMALL, **HEADS)),
    "neox": (T.GPTNeoXForCausalLM, T.GPTNeoXConfig(**SMALL, tie_word_embeddings=False)),
    "gpt2": (T.GPT2LMHeadModel, T.GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=4)),
    "distilbert": (
        T.DistilBertForSequenceClassification,
        T.DistilBertConfig(vocab_size=48, dim=32, hidden_dim=48, n_layers=2, n_heads=4),
    ),
    "roberta": (T.RobertaForSequenceClassification, T.RobertaConfig(**SMALL, num_labels=3)),
    "electra": (T.ElectraForTokenClassification, T.ElectraConfig(**SMALL, embedding_size=32, num_labels=3)),
    "deberta": (T.DebertaV2ForSequenceClassification, T.DebertaV2Config(**SMALL, num_labels=3)),
    "mpnet": (T.MPNetForQuestionAnswering, T.MPNetConfig(**SMALL)),
    "t5": (T.T5ForConditionalGeneration, T.T5Config(vocab_size=48, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)),
    "vit": (T.ViTForImageClassification, T.ViTConfig(**VIT, num_labels=3)),
}


def nothing(folder: Path) -> None:
    """The folder as peft writes it today."""


def settings_of_peft_02(folder: Path) -> None:
    """Only the settings that the first version with LoRA wrote, and a pickle."""
    known = (
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "inference_mode",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
    )
    path = folder / CONFIG
    old = {
        key: value
        for key, value in json.loads(path.read_text()).items()
        if key in (*known, "peft_type", "r", "task_type", "target_modules")
    }
    path.write_text(json.dumps(old | {"enable_lora": None, "merge_weights": False}))
    as_pickle(folder)


def settings_of_peft_05(folder: Path) -> None:
    path = folder / CONFIG
    later = (
        "use_dora",
        "use_rslora",
        "exclude_modules",
        "peft_version",
        "lora_bias",
        "corda_config",
        "eva_config",
        "qalora_group_size",
    )
    old = {key: value for key, value in json.loads(path.read_text()).items() if key not in later and "config" not in key}
    path.write_text(json.dumps(old | {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers"}}))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE)
    (folder / WEIGHTS).unlink()


def in_half(folder: Path) -> None:
    tensors = {key: tensor.bfloat16() for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@dataclass(frozen=True)
class Folder:
    """One adapter: its base, peft's settings, words added to the base, and what is done to the folder afterwards."""

    base: str
    settings: dict = field(default_factory=dict)
    task: str | None = "CAUSAL_LM"
    words: int | None = None
    change: Callable[[Path], None] = nothing
    config: str = "Lora"


QV = ["q_proj", "v_proj"]
FOLDERS = {
    "plain": Folder("qwen3", {"target_modules": QV}),
    "all-linear": Folder("mistral", {"target_modules": "all-linear"}),
    "peft 0.2, pickle": Folder("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}, change=settings_of_peft_02),
    "peft 0.5": Folder("neox", {"target_modules": ["query_key_value"]}, change=settings_of_peft_05),
    "pickle": Folder("mistral", {"target_modules": QV}, change=as_pickle),
    "bfloat16": Folder("gemma", {"target_modules": QV}, change=in_half),
    "no task type": Folder("qwen3", {"target_modules": QV}, task=None),
    "dora": Folder("mistral", {"target_modules": QV, "use_dora": True}),
    "dora of peft 0.9, pickle": Folder("roberta", {"target_modules": ["query"], "use_dora": True}, "SEQ_CLS", change=as_pickle),
    "rslora": Folder("neox", {"target_modules": ["dense"], "use_rslora": True, "r": 4}),
    "patterns": Folder("qwen3", {"target_modules": "all-linear", "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"mlp.*": 5}}),
    "layers": Folder("gemma", {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "layers"}),
    "excluded": Folder("mistral", {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"}),
    "head by suffix": Folder("distilbert", {"target_modules": ["q_lin", "v_lin"]}, "SEQ_CLS"),
    "head of two layers": Folder("roberta", {"target_modules": ["query"], "bias": "lora_only"}, "SEQ_CLS"),
    "all biases": Folder("mpnet", {"target_modules": ["q", "v"], "bias": "all"}, "QUESTION_ANS"),
    "tags": Folder("electra", {"target_modules": ["query", "dense"]}, "TOKEN_CLS"),
    "pooler": Folder("deberta", {"target_modules": ["query_proj"], "modules_to_save": ["pooler", "classifier"]}, "SEQ_CLS"),
    "two sides": Folder("t5", {"target_modules": ["q", "v", "wo"]}, "SEQ_2_SEQ_LM"),
    "convolution": Folder("vit", {"target_modules": ["projection", "q_proj", "query"], "modules_to_save": ["classifier"]}, None),
    "added words, tied": Folder("qwen2, tied", {"target_modules": QV}, words=52),
    "added words": Folder("neox", {"target_modules": ["query_key_value"]}, words=52),
    "added words, adapted table": Folder("qwen3", {"target_modules": [*QV, "embed_tokens"]}, words=52),
    "tables saved whole": Folder("mistral", {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "adapted table": Folder("mistral", {"target_modules": ["embed_tokens", "q_proj"]}),
    "ia3": Folder("mistral", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, config="IA3"),
}


@pytest.fixture(scope="module", params=FOLDERS)
def made(request, tmp_path_factory):
    """(a function that loads the base, the folder of the adapter)."""
    given, root = FOLDERS[request.param], tmp_path_factory.mktemp("made")
    model_class, config = BASES[given.base]
    torch.manual_seed(0)
    model_class(config).save_pretrained(root / "base")

    def base(seed: int) -> nn.Module:
        model = model_class.from_pretrained(root / "base").eval()
        if given.words is not None:
            torch.manual_seed(seed)
            model.resize_token_embeddings(given.words, mean_resizing=False)
        return model

    start = {} if given.config == "IA3" else {"r": 2, "lora_alpha": 5, "init_lora_weights": False}
    settings = getattr(peft, f"{given.config}Config")(**(start | given.settings), task_type=given.task)
    model = peft.get_peft_model(base(1), settings)
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if p.requires_grad and "lora_" not in name:  # heads, biases, (IA)³'s scales
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    model.save_pretrained(root / "adapter")
    given.change(root / "adapter")
    return base, root / "adapter"


@torch.no_grad()
def answers(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if "ViT" in type(getattr(getattr(model, "base_model", None), "model", model)).__name__ or "ViT" in type(model).__name__:
        return model(pixel_values=torch.randn(2, 3, 32, 32, generator=generator)).logits
    ids = torch.randint(3, 48, (2, 7), generator=generator)
    ids[:, 3] = len(model.get_input_embeddings().weight) - 1  # the last word, which may be an added one
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    out = model(input_ids=ids, **more)
    return torch.cat([value.flatten() for name, value in out.items() if name.endswith("logits")])


def test_our_answers_are_pefts(made):
    base, folder = made
    other = peft.PeftModel.from_pretrained(base(2), folder).eval()
    ours = base(2)
    plain = answers(ours)
    lora.load_adapter(ours, folder, trainable=False)
    result, wanted = answers(ours), answers(other)
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(result, plain, atol=1e-3), "the adapter has no effect, so this test could not fail"


def test_our_file_of_it_is_read_by_peft(made, tmp_path):
    base, folder = made
    ours = base(3)
    lora.load_adapter(ours, folder, trainable=False)
    lora.save_adapter(ours, tmp_path)
    other = peft.PeftModel.from_pretrained(base(3), tmp_path).eval()
    torch.testing.assert_close(answers(other), answers(ours), atol=1e-5, rtol=0)
