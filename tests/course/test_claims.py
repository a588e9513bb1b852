"""The arithmetic of CLAIMS.md: what the source material's own numbers imply, and what the right ones are."""

import json
import re
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CLAIMS.md").read_text()
MB, GB = 1e6, 1e9
GPT2, ROBERTA = 124_439_808, 124_647_170
GPT2_LORA, ROBERTA_LORA = 294_912, 887_042  # counted on the models in test_loralib_counting.py


def results(name):
    return json.loads((ROOT / f"training/results/{name}/results.json").read_text())["rows"]


def counted(row, weights):
    """Bytes of one training step: weights with the adapter, gradients, optimizer, activations."""
    own = 0 if row["trainable"] > weights / 8 else 4 * row["trainable"]
    return weights + own + 4 * row["trainable"] + row["optimizer_bytes"] + row["saved_bytes"]


def test_fewer_parameters_and_smaller_files():
    assert round(100 * (1 - GPT2_LORA / GPT2), 2) == 99.76 and round(100 * (1 - ROBERTA_LORA / ROBERTA), 2) == 99.29
    assert [round(4 * n / MB, 1) for n in (GPT2_LORA, ROBERTA_LORA, 1_181_954)] == [1.2, 3.5, 4.7]
    assert round(4 * GPT2 / MB) == 498 and round(2 * GPT2 / MB) == 249 and round(4 * ROBERTA / MB) == 499


def test_storage():
    assert round((4 * ROBERTA + 50 * 4 * ROBERTA_LORA) / MB) == 676
    assert int((GB - 4 * ROBERTA) // (4 * ROBERTA_LORA)) >= 140
    assert 50 * 475 * MB == 23.75 * GB and round(50 * 4 * ROBERTA / GB, 1) == 24.9
    assert round(5 * 475 * MB / GB, 1) == 2.4 and 4 * 475 * MB == 1.9 * GB


def test_ceilings_of_speed_and_memory():
    forward, dx, dw = 1, 1, 1  # matmuls of equal size
    assert (forward + dx + dw) / (forward + dx) == 1.5
    weights, gradients, adam = 4, 4, 8  # bytes a parameter
    assert (weights + gradients + adam) / weights == 4
    assert round((weights + gradients + adam) * GPT2 / GB, 1) == 2.0


def test_memory_and_batches_counted_on_the_22_m_encoder():
    rows = results("sst2")
    full, lora = rows["full"][0], rows["LoRA r=8"][0]
    weights = 4 * full["trainable"]
    whole, adapted = counted(full, weights), counted(lora, weights)
    assert round(whole / MB) == 506 and round(adapted / MB) == 238 and round(whole / adapted, 1) == 2.1
    per_row = lora["saved_bytes"] / 16
    fits = int((whole - (adapted - lora["saved_bytes"])) // per_row)
    assert fits == 46 and round(fits / 16, 1) == 2.9
    small = results("e2e")
    weights = 4 * small["full"][0]["trainable"]
    assert round(counted(small["full"][0], weights) / counted(small["LoRA r=8"][0], weights), 1) == 1.1


def test_the_quoted_scores_are_those_of_the_results():
    sst2, e2e = results("sst2"), results("e2e")
    mean = lambda rows, key: sum(r[key] for r in rows) / len(rows)  # noqa: E731
    assert f"{mean(sst2['LoRA r=8'], 'metric'):.3f}" == "0.844" and f"{mean(sst2['full'], 'metric'):.3f}" == "0.851"
    start, top = mean(e2e["untouched"], "metric"), mean(e2e["full"], "metric")
    remaining = [round(100 * (mean(e2e[f"LoRA r={r}"], "metric") - start) / (top - start)) for r in (1, 4, 8, 16)]
    assert remaining == [74, 85, 89, 93]
    other = [f"{mean(e2e[name], 'other_loss'):.3f}" for name in ("untouched", "LoRA r=1", "LoRA r=8", "full")]
    assert other == ["5.130", "5.306", "5.134", "4.958"] and all(value in TEXT for value in other)


def test_money():
    assert 600 / (10 * 6) == 10 and 1 - 1.5 / 6 == 0.75


def test_multitask_arithmetic():
    heads = [768 * n + n for n in (2, 4, 3)]
    assert sum(heads) == 6_921 and round(100 * (1 - 119 / 330)) == 64 and round(100 * (1 - 449 / 1320)) == 66
    assert 36 * MB == 9e6 * 4 and round(100 * (1 - 1.2 / 3)) == 60
    before, after = (85 + 82 + 78) / 3, (87 + 85 + 81) / 3
    assert (round(before, 2), round(after, 2), round(after - before, 2)) == (81.67, 84.33, 2.67)
    import torch

    with torch.device("meta"):
        bert = BertForSequenceClassification(BertConfig(num_labels=2))
    base = sum(p.numel() for p in bert.bert.parameters())
    assert round((base + sum(heads)) / 1e6, 1) == 109.5 and round(100 * (1 - (base + sum(heads)) / 330e6)) == 67


def test_every_claim_has_a_verdict_and_every_link_leads_somewhere():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    words = ("**holds**", "**only when**", "**wrong**", "**not reproducible here**", "*not measured yet*")
    assert len(rows) > 40 and all(any(word in line for word in words) for line in rows)
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for name in re.findall(r"`(tests/[\w.]+)`", TEXT):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "figure",
    ["98 %", "99 %", "4–6 MB", "50+ models", "2–6×", "4×", "3–6×", "4–8×", "8 GB", "95–98", "BLEU 43", "93.5", "F1 gap",
     "human rating", "$600", "23 GB", "5e-5", "2–3 epochs", "overfitting", "forgetting", "over seeds", "1,060,480", "1,470,464",
     "2106.09714", "119 M", "449 MB", "1.2 T", "64 %", "66 %", "60 %", "85 → 87", "82 → 85", "78 → 81", "+2.6 %"],
)  # fmt: skip
def test_every_figure_of_the_source_is_there(figure):
    assert figure in TEXT
