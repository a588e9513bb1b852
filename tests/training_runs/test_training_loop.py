"""The loop: exact accumulation, its checks, its metrics. Oracle: one large batch, scikit-learn, peft."""

from itertools import islice
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

import loralib as lora
from training.data.batching import Steps
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import TASKS
from training.evaluation import metrics
from training.evaluation.evaluation import objective_of
from training.loop import loop
from training.loop.checks import assert_all_got_gradients, assert_finite, trainable_parameters
from training.models.base_models import SMALL, load_base

PADS = SimpleNamespace(pad_token_id=0)


def run(model, windows, **settings):
    """Train on these steps; a step is a list of micro-batches."""
    rows = []
    settings = {"steps": len(windows), "learning_rate": 1e-2, "eval_every": 100, **settings}
    loop.train(model, iter(windows), objective_of("generation"), loop.LoopSettings(**settings), dict, rows.append)
    return rows


def lm_batch(seed, rows, length=12):
    ids = tiny.ids(seed, rows, length)
    labels = ids.clone()
    for i in range(rows):  # uneven numbers of scored tokens, so that a mean of means would differ
        labels[i, : 1 + (i * 5 + seed) % 9] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model, window):
    """The loss and the gradients of one step, as the loop makes them."""
    settings = loop.LoopSettings(steps=1, max_grad_norm=1e9)
    row = loop.Trainer(model, iter([]), objective_of("generation"), settings).step(1, window, update=False)
    return row["loss"], {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_accumulation_equals_one_large_batch(dtype, tolerance):
    """Texts of different lengths, the last micro-batch smaller than the others: the gradients of the whole."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 14, (11,), generator=rng).tolist()
    features = []
    for i, n in enumerate(lengths):
        ids = tiny.ids(i, 1, n)[0].tolist()
        features.append({"input_ids": ids, "attention_mask": [1] * n, "labels": [-100] * (i % (n - 1)) + ids[i % (n - 1) :]})
    whole = next(Steps(features, PADS, 11, seed=0))
    parts = next(Steps(features, PADS, 4, seed=0, accumulation=3))
    assert len(whole) == 1 and [len(b["input_ids"]) for b in parts] == [4, 4, 3]
    (loss, one), (other, many) = gradients(tiny.gpt2(dtype=dtype), whole), gradients(tiny.gpt2(dtype=dtype), parts)
    assert loss == pytest.approx(other, rel=tolerance)
    for name in one:
        assert (one[name] - many[name]).norm() <= tolerance * one[name].norm(), name
    means = [gradients(tiny.gpt2(dtype=dtype), [b])[0] for b in parts]
    assert abs(sum(means) / 3 - loss) > 10 * tolerance * loss, "a mean of means must differ here, or the test could not fail"


def test_pt26_gradient_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model = tiny.gpt2()
        lora.inject(model, lora.LoraConfig(r=2, init_lora_weights=False), seed=0)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        batch = lm_batch(0, 4)
        metrics.loss_sum("generation", model(batch["input_ids"]), batch).backward()
        assert_all_got_gradients(model)
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_pt32_no_gradient_no_parameter_and_no_number_raise():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model["used"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"unused\.weight"):
        assert_all_got_gradients(model)
    with pytest.raises(ValueError, match="no trainable parameter"):
        trainable_parameters(model.requires_grad_(False))
    with pytest.raises(FloatingPointError, match="step 7"):
        assert_finite(float("nan"), 7)


def test_the_loop_stops_at_a_parameter_without_gradient_and_at_nan():
    model = tiny.gpt2()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="extra"):
        run(model, [[lm_batch(0, 2)]] * 3)
    with pytest.raises(FloatingPointError):
        run(tiny.gpt2(), [[lm_batch(0, 2)]] * 9, learning_rate=float("inf"))


def test_reentrant_checkpointing_with_a_trainable_head_is_caught():
    """The silent trap: the input needs no gradient, so LoRA gets none, while the head goes on training."""
    model = nn.ModuleDict({"body": lora.Linear(4, 4, r=2), "head": nn.Linear(4, 2)})
    for reentrant in (True, False):
        model.zero_grad()
        states = checkpoint(model["body"], torch.ones(3, 4), use_reentrant=reentrant)
        model["head"](states).sum().backward()
        if reentrant:
            with pytest.raises(RuntimeError, match="lora_A"):
                assert_all_got_gradients(model)
        else:
            assert_all_got_gradients(model)


def test_training_touches_only_what_trains():
    model = tiny.gpt2()
    lora.inject(model, lora.LoraConfig(r=2))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run(model, [[lm_batch(i, 4)] for i in range(3)])
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name


def losses_beside_peft(folder, windows, targets, steps, rate, r=8):
    """The same batches and the same start through ours and through peft; returns both loss curves."""
    peft = pytest.importorskip("peft")
    models = [AutoModelForCausalLM.from_pretrained(folder) for _ in range(2)]
    lora.inject(models[0], lora.LoraConfig(r=r, lora_alpha=16, target_modules=targets), seed=0)
    other = peft.get_peft_model(models[1], peft.LoraConfig(r=r, lora_alpha=16, target_modules=targets))
    ours = dict(models[0].named_parameters())
    for name, p in other.base_model.model.named_parameters():
        if "lora_" in name:
            p.data.copy_(ours[name.removesuffix(".weight").replace(".default.weight", ".default")])
    curves = []
    for model in (models[0], other):
        settings = loop.LoopSettings(steps=steps, learning_rate=rate, eval_every=10**6)
        rows = []
        loop.train(model, iter(windows), objective_of("generation"), settings, dict, rows.append)
        curves.append([r["loss"] for r in rows])
    return curves


def task_batches(task, tokenizer, steps, data_dir=None, size=16):
    rows = load_task(TASKS[task], data_dir, train_rows=400)["train"][:]
    return list(islice(Steps(encode(rows, TASKS[task], tokenizer, 128).features, tokenizer, size, seed=0), steps))


def test_fifty_steps_equal_pefts_on_the_small_decoder():
    tokenizer = load_base(TASKS["data2text"]).tokenizer
    data = task_batches("data2text", tokenizer, 50)
    ours, other = losses_beside_peft(SMALL["decoder"], data, ["c_attn"], 50, 1e-3)
    assert ours == pytest.approx(other, abs=1e-4) and ours[-1] < ours[0]


@pytest.mark.real
def test_fifty_steps_equal_pefts_on_a_real_model_and_real_text(shared):
    folder = shared / "models" / "stories260K"
    tokenizer = load_base(TASKS["e2e_nlg"], str(folder)).tokenizer
    data = task_batches("e2e_nlg", tokenizer, 50, str(shared / "data" / "e2e_nlg"), size=4)
    ours, other = losses_beside_peft(folder, data, ["q_proj", "k_proj", "v_proj", "o_proj"], 50, 1e-3)
    assert ours == pytest.approx(other, abs=1e-4) and ours[-1] < ours[0] - 1


def test_spans_as_conlleval_reads_them():
    assert metrics.spans(["B-PER", "O", "B-LOC", "I-LOC", "I-LOC"]) == {("PER", 0, 1), ("LOC", 2, 5)}
    assert metrics.spans(["I-LOC", "I-PER", "B-PER"]) == {("LOC", 0, 1), ("PER", 1, 2), ("PER", 2, 3)}
    assert metrics.spans(["O", "O"]) == set()


IN_EVERY_SCHEME = {
    "BIO": ["B-PER", "O", "B-LOC", "I-LOC", "B-LOC"],
    "IOBES": ["S-PER", "O", "B-LOC", "E-LOC", "S-LOC"],
    "BILOU": ["U-PER", "O", "B-LOC", "L-LOC", "U-LOC"],
}


@pytest.mark.parametrize("scheme", IN_EVERY_SCHEME)
def test_spans_in_every_scheme(scheme):
    tags = IN_EVERY_SCHEME[scheme]
    assert metrics.spans(tags) == {("PER", 0, 1), ("LOC", 2, 4), ("LOC", 4, 5)}
    assert metrics.span_f1([tags], [tags]) == 1.0
    wrong = [*tags[:3], tags[3].replace("LOC", "ORG"), tags[4]]  # the end of the second one is of another type
    assert metrics.span_f1([wrong], [tags]) == pytest.approx(2 * 2 / (4 + 3))


def test_spans_without_prefixes_are_runs_of_one_type():
    assert metrics.spans(["PER", "PER", "O", "LOC", "PER"]) == {("PER", 0, 2), ("LOC", 3, 4), ("PER", 4, 5)}
    assert metrics.spans(["B-geo-loc", "I-geo-loc", "O"]) == {("geo-loc", 0, 2)}
    assert metrics.spans(["geo-loc", "geo-loc", "O"]) == {("geo-loc", 0, 2)}


def test_span_f1():
    truth = [["B-PER", "O", "B-LOC", "I-LOC"]]
    assert metrics.span_f1(truth, truth) == 1.0
    assert metrics.span_f1([["O"] * 4], truth) == 0.0
    assert metrics.span_f1([["B-PER", "O", "B-LOC", "O"]], truth) == 0.5  # one of two found, one of two right


def test_qa_loss_counts_rows_and_tagging_counts_tags():
    labels, starts = torch.tensor([[1, -100], [1, 1], [-100, -100]]), torch.tensor([4, 0, -100])
    batch = {"input_ids": torch.zeros(3, 5), "labels": labels, "start_positions": starts}
    assert metrics.answer_count("qa", batch) == 2 and metrics.answer_count("tagging", batch) == 3
    assert metrics.answer_count("generation", batch) == 1
