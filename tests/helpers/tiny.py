"""Tiny random models of the kinds people adapt, and copies of them for an oracle."""

import copy

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)


def gpt2(seed: int = 0, dtype=torch.float32):
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=2,
        n_embd=24,
        n_head=4,
        vocab_size=40,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config).to(dtype).eval()


def llama(seed: int = 0, dtype=torch.float32):
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def bert(seed: int = 0, labels: int = 3, dtype=torch.float32):
    torch.manual_seed(seed)
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=4,
        vocab_size=40,
        max_position_embeddings=32,
        num_labels=labels,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).to(dtype).eval()


def roberta(seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "vocab_size": 40}
    config = RobertaConfig(
        **sizes, max_position_embeddings=40, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return RobertaForSequenceClassification(config).eval()


def distilbert(seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "dim": 24, "hidden_dim": 40, "n_heads": 4, "vocab_size": 40, "max_position_embeddings": 40}
    config = DistilBertConfig(**sizes, num_labels=3, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
    return DistilBertForSequenceClassification(config).eval()


def t5(seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"num_layers": 2, "d_model": 24, "d_ff": 40, "d_kv": 6, "num_heads": 4, "vocab_size": 40}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0)).eval()


FAMILIES = {"bert": bert, "roberta": roberta, "distilbert": distilbert, "gpt2": gpt2, "llama": llama, "t5": t5}


def ids(seed: int = 1, batch: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


def randomise_lora(model: nn.Module, seed: int = 5, scale: float = 0.3) -> None:
    """Make every trained tensor of our adapters random, so that a test sees it."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name or ".copies." in name:
            p.data.copy_(torch.randn(p.shape, generator=generator) * scale)


def twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
