"""A teacher's answers, live, mixed, and from disk: the same up to half precision, for the right rows, or a CacheError."""

import json
import math
import random

import pairs
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from distill.losses.losses import MASKED, log_probabilities
from distill.runs.fidelity import fidelity
from distill.teacher.teacher import Teacher, mix_teachers, own_batch
from distill.teacher.teacher_cache import CARD, FILE, KEY, CacheError, build_cache, open_cache, row_key, with_keys
from training.data.batching import batches, pad

HALF = 2.0**-11  # half of the distance between two neighbours of float16, relative
TINY = 2.0**-24  # and below 2^-14 absolute


def live(teacher: Teacher, rows: list[dict], batch_size: int) -> list[torch.Tensor]:
    return [teacher.answers(batch) for batch in batches(rows, pairs.TOKENIZER, batch_size)]


def cached(cache, rows: list[dict], batch_size: int) -> list[torch.Tensor]:
    return [cache.answers(batch) for batch in batches(rows, pairs.TOKENIZER, batch_size)]


def shuffled(rows: list[dict]) -> list[dict]:
    return random.Random(5).sample(rows, len(rows))


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize("kind", pairs.KINDS)
@pytest.mark.parametrize("batch_size", [3, 16])
def test_a_full_cache_is_the_live_teacher_to_half_precision(kind, batch_size, tmp_path):
    """In another order and in other batches than it was asked in: 16 rows of 3 to 12 tokens, so widths of questions differ."""
    teacher, rows = Teacher([pairs.model(kind, 2)], kind), pairs.features(kind)
    build_cache(tmp_path, teacher, rows, pairs.TOKENIZER, batch_size=5)
    cache = open_cache(tmp_path, teacher, rows)
    for result, expected in zip(
        cached(cache, shuffled(rows), batch_size), live(teacher, shuffled(rows), batch_size), strict=True
    ):
        assert result.shape == expected.shape and result.dtype == torch.float32 and result.isfinite().all()
        assert ((result == MASKED) == (expected == MASKED)).all(), "padding is no answer, also from the cache"
        real = expected != MASKED
        error = (result.double() - expected).abs()[real]
        assert (error <= 1.01 * HALF * expected.abs()[real] + TINY).all()
    few = [teacher.answers(b).float() for b in batches(rows, pairs.TOKENIZER, 16)]
    records = fidelity(kind, cached(cache, rows, 16), few)
    assert (
        records.get("agreement", 1.0) > 0.9
        and records.get("kl_to_teacher", 0.0) < 1e-5
        and records.get("rmse_to_teacher", 0) < 1e-2
    )


@pytest.mark.parametrize("kind", ["classification", "tagging", "generation"])
def test_the_k_largest_are_exact_and_the_others_share_what_is_left(kind, tmp_path):
    teacher, rows = Teacher([pairs.model(kind, 2)], kind), pairs.features(kind)
    top = {"classification": 2, "tagging": 1, "generation": 7}[kind]
    build_cache(tmp_path, teacher, rows, pairs.TOKENIZER, top, batch_size=5)
    cache = open_cache(tmp_path, teacher, rows, top)
    for result, expected in zip(cached(cache, shuffled(rows), 4), live(teacher, shuffled(rows), 4), strict=True):
        log_p, classes = expected.log_softmax(-1), expected.shape[-1]
        values, indices = log_p.topk(top, -1)
        remaining = result.gather(1, indices).double()
        assert ((remaining - values).abs() <= 1.01 * HALF * values.abs() + 1e-6).all()
        others = torch.ones_like(expected, dtype=torch.bool).scatter(1, indices, False)
        spread = result[others].view(len(result), classes - top)
        assert (spread == spread[:, :1]).all(), "evenly"
        left = -torch.expm1(values.logsumexp(-1))
        assert ((spread.double().exp().sum(-1) - left).abs() <= 1.1 * HALF * left * left.log().abs() + 1e-6).all()
        mass = result.double().exp().sum(-1)  # Σ p is off by Σ p |log p| · 2^-11, at most the entropy of C classes
        assert ((mass - 1).abs() <= 1.1 * HALF * math.log(classes)).all()
    full = tmp_path / "full"
    build_cache(full, teacher, rows, pairs.TOKENIZER)
    sizes = [(folder / FILE).stat().st_size for folder in (tmp_path, full)]
    assert kind != "generation" or sizes[0] < sizes[1]


def test_a_sure_teacher_has_a_finite_rest(tmp_path):
    model = pairs.model("classification", 2, dtype=torch.float32)
    model.classifier.bias.data += torch.tensor([60.0, 0.0, 0.0, 0.0])
    teacher, rows = Teacher([model], "classification"), pairs.features("classification", 4)
    [result] = cached(build_cache(tmp_path, teacher, rows, pairs.TOKENIZER, 1), rows, 4)
    assert result.isfinite().all() and (result[:, 1:].exp().sum(-1) < 2e-7).all() and result[:, 0].abs().max() < 1e-6


def test_two_rows_of_one_text_share_an_answer_and_rows_of_other_places_do_not(tmp_path):
    rows = pairs.features("classification", 4)
    twice = with_keys([*rows, rows[0] | {"labels": 3 - rows[0]["labels"], "labelled": 0}])
    assert twice[4][KEY] == twice[0][KEY] and len({row[KEY] for row in twice}) == 4
    teacher = Teacher([pairs.model("classification", 2)], "classification")
    cache = build_cache(tmp_path, teacher, twice, pairs.TOKENIZER)
    assert cache.card["rows"] == 4
    [result] = cached(open_cache(tmp_path, teacher, twice), twice, 5)
    assert len(result) == 5 and torch.equal(result[0], result[4]) and not torch.equal(result[0], result[1])
    ids = {"input_ids": [1, 2, 3, 4], "attention_mask": [1] * 4}
    texts = with_keys([ids | {"labels": [-100, -100, 3, 4]}, ids | {"labels": [-100, 2, 3, 4]}])
    assert texts[0][KEY] != texts[1][KEY], "the same tokens, another prompt"
    asked = Teacher([pairs.model("generation", 2)], "generation")
    [both] = cached(build_cache(tmp_path / "t", asked, texts, pairs.TOKENIZER), texts, 2)
    assert len(both) == 5 and torch.equal(both[:2], both[3:])
    plain = {"input_ids": [1, 2], "labels": 0}
    assert row_key(plain) != row_key(plain | {"token_type_ids": [0, 1]}) and 0 <= row_key(plain) < 2**63


# ---------------------------------------------------------------- a wrong cache


@pytest.mark.fault
def test_a_cache_of_something_else_says_of_what(tmp_path):
    teacher, rows = Teacher([pairs.model("classification", 2)], "classification"), pairs.features("classification")
    build_cache(tmp_path, teacher, rows, pairs.TOKENIZER)
    other = Teacher([pairs.model("classification", 3)], "classification")
    two = Teacher([pairs.model("classification", 2), pairs.model("classification", 3)], "classification")
    strange = [row | {"input_ids": [(i + 1) % 40 for i in row["input_ids"]]} for row in rows]  # another tokenizer
    cases = [
        (other, rows, None, "teacher was"),
        (two, rows, None, "teacher was"),
        (Teacher([pairs.model("tagging", 2)], "tagging"), rows, None, "kind was classification and is tagging"),
        (teacher, rows[1:], None, "row_keys was"),
        (teacher, with_keys(strange), None, "row_keys was"),
        (teacher, rows, 2, "top was None and is 2"),
    ]
    for asked, features, top, records in cases:
        with pytest.raises(CacheError, match=f"belongs to something else .*{records}"):
            open_cache(tmp_path, asked, features, top)
    open_cache(tmp_path, teacher, shuffled(rows))
    with torch.no_grad():
        teacher.models[0].classifier.bias[0] += 2.0**-30
    with pytest.raises(CacheError, match="teacher was"):
        open_cache(tmp_path, teacher, rows)


@pytest.mark.fault
def test_a_damaged_cache_is_found(tmp_path):
    teacher, rows = Teacher([pairs.model("classification", 2)], "classification"), pairs.features("classification")
    build_cache(tmp_path, teacher, rows, pairs.TOKENIZER)
    files = {name: (tmp_path / name).read_bytes() for name in (FILE, CARD)}
    content = files[FILE]
    flips = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in (9, len(content) // 2, len(content) - 1)]
    damages = [(FILE, damage) for damage in (b"", content[:-3], content[: len(content) // 2], content + b"\0", *flips)]
    damages += [(CARD, damage) for damage in (b"", b"[]", b"{}", files[CARD][:-9], b"\xff\xfe")]
    for name, damage in damages:
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(CacheError):
            open_cache(tmp_path, teacher, rows)
        (tmp_path / name).write_bytes(files[name])
    for name in files:
        (tmp_path / name).unlink()
        with pytest.raises(CacheError, match=r"no readable cache\.json"):
            open_cache(tmp_path, teacher, rows)
        (tmp_path / name).write_bytes(files[name])
    open_cache(tmp_path, teacher, rows)


@pytest.mark.fault
def test_the_files_of_two_caches_do_not_mix(tmp_path):
    """Also where both are about the same rows, and only the teacher differs."""
    teachers = [Teacher([pairs.model("classification", seed)], "classification") for seed in (2, 3)]
    rows = pairs.features("classification")
    for name, teacher in zip("ab", teachers, strict=True):
        build_cache(tmp_path / name, teacher, rows, pairs.TOKENIZER)
    (tmp_path / "a" / FILE).write_bytes((tmp_path / "b" / FILE).read_bytes())
    with pytest.raises(CacheError, match="do not belong together"):
        open_cache(tmp_path / "a", teachers[0], rows)


@pytest.mark.fault
def test_a_row_or_an_answer_that_the_teacher_never_gave_is_refused(tmp_path):
    teacher, rows = Teacher([pairs.model("tagging", 2)], "tagging"), pairs.features("tagging")
    cache = build_cache(tmp_path, teacher, rows[:10], pairs.TOKENIZER)
    with pytest.raises(CacheError, match="6 of 16 rows are not in the cache"):
        cached(cache, rows, 16)
    changed = rows[0] | {"labels": [0] * len(rows[0]["input_ids"])}  # with the old key
    with pytest.raises(CacheError, match="1 rows have other numbers of answers"):
        cached(cache, [changed], 1)


@pytest.mark.parametrize(
    ("kind", "top"), [("qa", 2), ("multilabel", 2), ("regression", 1), ("classification", 4), ("tagging", 0)]
)
def test_a_part_of_the_classes_is_kept_only_where_it_says_something(kind, top, tmp_path):
    with pytest.raises(ValueError, match=f"top={top} of"):
        build_cache(tmp_path / "c", Teacher([pairs.model(kind)], kind), pairs.features(kind), pairs.TOKENIZER, top)
    assert not (tmp_path / "c").exists()


def test_the_card_says_what_it_is_about(tmp_path):
    teacher, rows = Teacher([pairs.model("qa")], "qa"), pairs.features("qa")
    build_cache(tmp_path, teacher, rows, pairs.TOKENIZER)
    card = json.loads((tmp_path / CARD).read_text())
    assert (card["kind"], card["rows"], card["top"]) == ("qa", 16, None) and card["teacher"] == teacher.checksum()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([FILE, CARD])


# ---------------------------------------------------------------- teachers


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_several_teachers_answer_with_the_mean_of_their_probabilities(kind):
    models = [pairs.model(kind, seed) for seed in (2, 3, 4)]
    [batch] = pairs.window(pairs.features(kind, 5), 5)
    alone = [Teacher([model], kind).answers(batch) for model in models]
    result = Teacher(models, kind).answers(batch)
    if kind == "regression":
        torch.testing.assert_close(result, sum(alone) / 3)
    elif kind == "multilabel":
        torch.testing.assert_close(result.sigmoid(), sum(a.sigmoid() for a in alone) / 3)
    else:
        mean = sum(log_probabilities(a).exp() for a in alone) / 3
        torch.testing.assert_close(log_probabilities(result).exp(), mean)
    first = Teacher(models, kind).see(batch)
    assert torch.equal(Teacher(models, kind).answers(batch, first), result)
    same = mix_teachers([alone[0]] * 3, kind)  # also its level, which mse compares
    torch.testing.assert_close(same, alone[0], rtol=1e-9, atol=1e-9)


def test_a_mean_of_sure_teachers_is_finite():
    sure = [torch.tensor([[90.0, -200.0]], dtype=dtype) for dtype in (torch.float32, torch.float64)]
    for logits in sure:
        result = mix_teachers([logits, logits + 1], "multilabel")
        torch.testing.assert_close(result, logits + torch.tensor([[1.0, 1.0]], dtype=logits.dtype), rtol=0, atol=1.0)
    with pytest.raises(ValueError, match="at least one model"):
        Teacher([], "classification")


def test_a_teacher_rests_in_eval_mode_unless_its_dropout_is_wanted():
    model, [batch] = pairs.model("classification", 2, dropout=0.5), pairs.window(pairs.features("classification", 6), 6)
    quiet, noisy = Teacher([model.train()], "classification"), Teacher([model], "classification", dropout=True)
    first = quiet.answers(batch)
    assert torch.equal(quiet.answers(batch), first) and not model.training
    assert not torch.equal(noisy.answers(batch), noisy.answers(batch))
    assert torch.equal(quiet.answers(batch), first) and not first.requires_grad


def test_a_teacher_reads_its_own_tokens_and_nothing_of_the_students():
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3), "token_type_ids": torch.ones(2, 3)}
    own = batch | {"teacher.input_ids": torch.zeros(2, 5), "teacher.attention_mask": torch.ones(2, 5), "labels": torch.ones(2)}
    result = own_batch(own)
    assert set(result) == {"input_ids", "attention_mask", "labels"} and result["input_ids"].shape == (2, 5)
    assert own_batch(batch) == batch


def test_a_classifier_on_a_decoder_finds_its_last_token_whatever_the_students_padding():
    """It looks for the last token that is not its pad token (here 39); rows of a student's batch are padded with 0."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=40, n_positions=16, pad_token_id=39, num_labels=3)
    teacher = Teacher([GPT2ForSequenceClassification(config).double()], "classification")
    rows = pairs.features("classification", 8)
    alone = torch.cat([teacher.answers(pad([row], 39)) for row in rows])
    torch.testing.assert_close(teacher.answers(pad(rows, 0)), alone)
    other = [{"input_ids": [1]} | {f"teacher.{n}": row[n] for n in ("input_ids", "attention_mask")} for row in rows]
    torch.testing.assert_close(teacher.answers(pad(other, 7)), alone)
