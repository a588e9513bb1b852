"""Tiny random models of many families, with the kinds of tokenizer that such models have. `families.py` trains them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
TEXTS = ["the a of in to and is was it for on with as at by name what how who good bad film movie one us that"] * 3
WORDS = 420


@dataclass(frozen=True)
class Family:
    kind: str
    """encoder, decoder or pair (an encoder with a decoder)"""
    about: str
    """positions or attention, the tokenizer, the side of its padding"""
    config: Callable[[], T.PreTrainedConfig]
    tokens: str = "bytes"
    """bytes, wordpiece or pieces (SentencePiece's unigrams)"""
    side: str = "right"


def save_family(family: Family, folder: Path) -> str:
    """Config, random weights and tokenizer; returns the folder's path."""
    torch.manual_seed(0)
    auto = {"encoder": T.AutoModel, "decoder": T.AutoModelForCausalLM, "pair": T.AutoModel}[family.kind]
    auto.from_config(family.config()).save_pretrained(folder)
    tokenizer_of(family.tokens, family.side, ends=family.kind != "decoder").save_pretrained(folder)
    return str(folder)


def tokenizer_of(tokens: str, side: str, ends: bool) -> T.PreTrainedTokenizerFast:
    """A fast tokenizer; `ends`: it writes </s> after each text, as encoders want it."""
    core = {"bytes": _bytes, "wordpiece": _wordpiece, "pieces": _pieces}[tokens]()
    single = "<s> $A </s>" if ends else "<s> $A"
    pair = "<s>:0 $A:0 </s>:0 $B:1 </s>:1" if tokens == "wordpiece" else "<s> $A </s> $B </s>"
    core.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if tokens == "wordpiece" else ["input_ids", "attention_mask"]
    return T.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=128, padding_side=side, model_input_names=inputs, **names
    )


def _bytes() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=WORDS, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return core


def _wordpiece() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=WORDS, special_tokens=SPECIAL, show_progress=False))
    return core


def _pieces() -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    core.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=WORDS, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return core


IDS = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BLOCK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = IDS | BLOCK | {"max_position_embeddings": 140}
LLAMA = BERT | {"num_key_value_heads": 2}
BART = IDS | {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
BART |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 140, "decoder_start_token_id": 2}
T5 = IDS | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = {"first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
DEEPSEEK |= {"moe_intermediate_size": 16, "num_key_value_heads": 4} | LATENT
KINDS = [["global", "local"], 1]

FAMILIES = {
    "BERT": Family("encoder", "absolute positions, WordPiece", lambda: T.BertConfig(**BERT), "wordpiece"),
    "RoBERTa": Family("encoder", "absolute positions, bytes", lambda: T.RobertaConfig(**BERT)),
    "DistilBERT": Family(
        "encoder",
        "absolute positions, WordPiece",
        lambda: T.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=140, **IDS),
        "wordpiece",
    ),
    "ALBERT": Family("encoder", "shared layers, SentencePiece", lambda: T.AlbertConfig(embedding_size=16, **BERT), "pieces"),
    "ELECTRA": Family("encoder", "narrow embeddings, WordPiece", lambda: T.ElectraConfig(embedding_size=16, **BERT), "wordpiece"),
    "DeBERTa-v2": Family(
        "encoder",
        "relative positions, SentencePiece",
        lambda: T.DebertaV2Config(relative_attention=True, pos_att_type=["p2c", "c2p"], **BERT),
        "pieces",
    ),
    "MPNet": Family("encoder", "relative bias, WordPiece", lambda: T.MPNetConfig(**BERT), "wordpiece"),
    "ModernBERT": Family(
        "encoder",
        "rotary, sliding windows, bytes",
        lambda: T.ModernBertConfig(cls_token_id=2, sep_token_id=3, local_attention=8, **BERT),
    ),
    "Longformer": Family("encoder", "sliding windows, bytes", lambda: T.LongformerConfig(attention_window=8, **BERT)),
    "BigBird": Family("encoder", "sparse attention, SentencePiece", lambda: T.BigBirdConfig(**BERT), "pieces"),
    "XLNet": Family(
        "encoder",
        "relative positions, time first, SentencePiece, left",
        lambda: T.XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=48, **IDS),
        "pieces",
        "left",
    ),
    "FNet": Family("encoder", "no attention, SentencePiece", lambda: T.FNetConfig(**BERT), "pieces"),
    "RemBERT": Family(
        "encoder", "narrow embeddings, SentencePiece", lambda: T.RemBertConfig(input_embedding_size=16, **BERT), "pieces"
    ),
    "GPT-2": Family(
        "decoder", "absolute positions, bytes", lambda: T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=140, **IDS)
    ),
    "OPT": Family(
        "decoder",
        "absolute positions with an offset, bytes",
        lambda: T.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **BERT),
    ),
    "BLOOM": Family(
        "decoder", "ALiBi, bytes, left", lambda: T.BloomConfig(n_layer=2, n_head=4, hidden_size=32, **IDS), "bytes", "left"
    ),
    "GPT-Neo": Family(
        "decoder",
        "local windows, bytes",
        lambda: T.GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, attention_types=[KINDS], window_size=8, max_position_embeddings=140, **IDS
        ),
    ),
    "GPT-NeoX": Family("decoder", "rotary, bytes", lambda: T.GPTNeoXConfig(**BERT)),
    "Llama": Family("decoder", "rotary, SentencePiece, left", lambda: T.LlamaConfig(**LLAMA), "pieces", "left"),
    "Mistral": Family(
        "decoder", "rotary, sliding window, SentencePiece", lambda: T.MistralConfig(sliding_window=8, **LLAMA), "pieces"
    ),
    "Qwen2": Family("decoder", "rotary, bytes, left", lambda: T.Qwen2Config(**LLAMA), "bytes", "left"),
    "Qwen3": Family("decoder", "rotary, norms of heads, bytes", lambda: T.Qwen3Config(head_dim=8, **LLAMA)),
    "Gemma2": Family(
        "decoder",
        "rotary, windows in turn, soft caps, SentencePiece",
        lambda: T.Gemma2Config(head_dim=8, sliding_window=8, **LLAMA),
        "pieces",
    ),
    "Gemma3": Family(
        "decoder", "rotary, windows, SentencePiece", lambda: T.Gemma3TextConfig(head_dim=8, sliding_window=8, **LLAMA), "pieces"
    ),
    "Phi-3": Family("decoder", "rotary, fused projections", lambda: T.Phi3Config(**LLAMA)),
    "SmolLM3": Family("decoder", "rotary in some layers, bytes", lambda: T.SmolLM3Config(no_rope_layer_interval=2, **LLAMA)),
    "GPT-OSS": Family(
        "decoder",
        "attention sinks, experts, bytes",
        lambda: T.GptOssConfig(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, **LLAMA),
    ),
    "Mixtral": Family(
        "decoder",
        "experts, SentencePiece",
        lambda: T.MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **LLAMA),
        "pieces",
    ),
    "Qwen2-MoE": Family("decoder", "experts, bytes", lambda: T.Qwen2MoeConfig(**MOE, **LLAMA)),
    "DeepSeek-V3": Family("decoder", "latent attention, experts", lambda: T.DeepseekV3Config(**(BERT | DEEPSEEK))),
    "Mamba": Family("decoder", "no attention, bytes", lambda: T.MambaConfig(hidden_size=32, num_hidden_layers=2, **IDS)),
    "T5": Family("pair", "relative bias, SentencePiece", lambda: T.T5Config(**T5), "pieces"),
    "BART": Family("pair", "absolute positions, bytes", lambda: T.BartConfig(**BART)),
    "mBART": Family("pair", "absolute positions, SentencePiece", lambda: T.MBartConfig(**BART), "pieces"),
}
