"""Pretrain the two small bases on the small world's text: an encoder (BERT type) and a decoder (GPT-2 type).

Encoder: masked words (Devlin et al. 2018), content words only, and the same words once more from the pooled [CLS] state
alone (bag-of-words prediction, Ma et al. 2023). Without the second term the pooler would reach every task untrained.
Decoder: next word (Radford et al. 2019).

No label set is read. Half of the passages carry a remark (a verdict, a title, an answered question), as web text does.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from training.data.small_world import BAD, GOOD, content_words, remark, sample_passage
from training.data.tokenizers import EOS, MASK, MAX_LENGTH, PAD, decoder_tokenizer, encoder_tokenizer
from training.loop.schedules import SCHEDULES


@dataclass(frozen=True)
class Recipe:
    """How a base is pretrained; saved beside its weights."""

    kind: str
    """encoder or decoder"""
    steps: int = 12_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    mask_share: float = 0.25
    """share of the content words that are masked (encoder)"""
    remark_mask_share: float = 0.5
    """the same for the words of a remark"""
    passages: int = 40_000
    width: int = 64
    layers: int = 2
    heads: int = 4
    seed: int = 0


def pretrain(recipe: Recipe, on_step: Callable[[dict], None] = lambda row: None) -> tuple[PreTrainedModel, dict]:
    """Train a base from nothing. `on_step` gets a row {step, loss, ...} every 100 steps. Returns (model, last row)."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):  # modules draw from the global generator; leave the caller's as it was
        torch.manual_seed(recipe.seed)
        model, batches, loss_of = (_encoder if recipe.kind == "encoder" else _decoder)(recipe)
        return model, _run(model, batches, loss_of, recipe, on_step)


def save_base(model: PreTrainedModel, recipe: Recipe, result: dict, folder: Path) -> None:
    """Write weights, tokenizer and the recipe with its measured losses."""
    model.save_pretrained(folder)
    (encoder_tokenizer() if recipe.kind == "encoder" else decoder_tokenizer()).save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps({"recipe": asdict(recipe), "result": result}, indent=2) + "\n")


def _run(model, batches: Iterator, loss_of, recipe: Recipe, on_step) -> dict:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, recipe))
    sums: dict[str, float] = {}
    row: dict = {}
    started = time.perf_counter()
    for step in range(1, recipe.steps + 1):
        loss, parts = loss_of(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
        if step % 100 == 0 or step == recipe.steps:
            count = step % 100 or 100
            row = {"step": step, **{k: round(v / count, 4) for k, v in sums.items()}}
            row["seconds"] = round(time.perf_counter() - started, 1)
            sums = {}
            on_step(row)
    model.eval()
    return row


def _warm_cosine(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    rest = max(1, recipe.steps - recipe.warmup_steps)
    return SCHEDULES["cosine"](min(step - recipe.warmup_steps, rest), rest)


# ---------------------------------------------------------------- the encoder


def _encoder(recipe: Recipe):
    tokenizer = encoder_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.width,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
    )
    content = torch.zeros(len(tokenizer), dtype=torch.bool)
    content[tokenizer.convert_tokens_to_ids(sorted(content_words()))] = True
    groups = [torch.tensor(tokenizer.convert_tokens_to_ids(list(g))) for g in (BAD, GOOD)]
    data = _encode(tokenizer, _texts(recipe))
    batches = _masked_batches(data, content, MASK, recipe)
    return BertForPreTraining(config), batches, lambda model, batch: _encoder_loss(model, batch, groups)


def _encode(tokenizer, texts: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    alone, pairs = [a for a, b in texts if not b], [(a, b) for a, b in texts if b]
    parts = [tokenizer(group, padding="max_length", return_tensors="pt") for group in (alone, pairs)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _masked_batches(data, content: torch.Tensor, mask_id: int, recipe: Recipe):
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    for rows in _row_batches(len(data["input_ids"]), recipe, generator):
        ids = data["input_ids"][rows]
        length = int(data["attention_mask"][rows].sum(1).max())
        share = torch.where(data["token_type_ids"][rows] == 1, recipe.remark_mask_share, recipe.mask_share)
        masked = content[ids] & (torch.rand(ids.shape, generator=generator) < share)
        yield {
            "input_ids": ids.masked_fill(masked, mask_id)[:, :length],
            "attention_mask": data["attention_mask"][rows][:, :length],
            "token_type_ids": data["token_type_ids"][rows][:, :length],
            "masked": masked[:, :length],
            "truth": ids[:, :length],
        }


def _encoder_loss(model, batch: dict, groups) -> tuple[torch.Tensor, dict[str, float]]:
    masked, truth = batch["masked"], batch["truth"][batch["masked"]]
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    states = model.bert(**inputs)
    head = model.cls.predictions
    word_logits = head(states.last_hidden_state[masked])  # (masked words, V)
    mlm = F.cross_entropy(word_logits, truth)
    row_of = masked.nonzero()[:, 0]
    bag = F.cross_entropy(head(states.pooler_output)[row_of], truth)
    parts = {"mlm": mlm.item(), "bag": bag.item(), "polarity": _right_polarity(word_logits.detach(), truth, groups)}
    return mlm + 0.5 * bag, parts


def _right_polarity(logits: torch.Tensor, truth: torch.Tensor, groups) -> float:
    """Of the masked adjectives, the share whose likeliest filling has the right polarity: 0.5 until polarity is learnt."""
    adjectives = torch.cat(groups)
    rows = torch.isin(truth, adjectives)
    guess = adjectives[logits[rows][:, adjectives].argmax(1)]
    return (torch.isin(guess, groups[1]) == torch.isin(truth[rows], groups[1])).float().mean().item()


# ---------------------------------------------------------------- the decoder


def _decoder(recipe: Recipe):
    tokenizer = decoder_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    texts = [f"{a} {b or ''} {tokenizer.eos_token}" for a, b in _texts(recipe)]
    data = tokenizer(texts, padding="longest", return_tensors="pt")

    def batches():
        generator = torch.Generator().manual_seed(recipe.seed + 1)
        for rows in _row_batches(len(texts), recipe, generator):
            length = int(data["attention_mask"][rows].sum(1).max())
            ids, mask = data["input_ids"][rows][:, :length], data["attention_mask"][rows][:, :length]
            yield {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}

    def loss_of(model, batch):
        loss = model(**batch).loss
        return loss, {"lm": loss.item()}

    return GPT2LMHeadModel(config), batches(), loss_of


# ---------------------------------------------------------------- text


def _texts(recipe: Recipe) -> list[tuple[str, str]]:
    """(passage, remark or nothing) pairs; half of them carry a remark."""
    rng = random.Random(f"pretraining {recipe.seed}")
    texts = []
    for _ in range(recipe.passages):
        passage = sample_passage(rng)
        texts.append((passage.text, remark(passage, rng) if rng.random() < 0.5 else ""))
    return texts


def _row_batches(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count // recipe.batch_size * recipe.batch_size].split(recipe.batch_size)
