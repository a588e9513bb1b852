"""Losses on hidden states and relations: loops in plain floats, invariances, padding, the authors' forms, and TextBrewer."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from distill.losses.features import cosine, hidden_mse, patient
from distill.losses.losses import masked_mean, soft_targets
from distill.losses.relations import attention_kl, attention_scores_mse, attention_transfer, relations, value_relation

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "distill.json").read_text())
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])  # padding on both sides


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, student: torch.Tensor, *more, **options) -> torch.Tensor:
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *more, **options).sum(), student)[0]


# One call for all: loss(student, teacher, mask), and the shape of what it takes; B = 2, T = 5 if nothing else is given.
STATES, HEADS, SCORES = (lambda B, T: (B, T, 6)), (lambda B, T: (B, 2, T, 3)), (lambda B, T: (B, 2, T, T))
ALL = {
    "hidden_mse": (lambda s, t, mask: hidden_mse(s, t), STATES),
    "cosine": (lambda s, t, mask: cosine(s, t), STATES),
    "patient": (patient, STATES),
    "attention_transfer": (attention_transfer, STATES),
    "attention_scores_mse": (attention_scores_mse, SCORES),
    "attention_scores_mse causal": (lambda s, t, mask: attention_scores_mse(s, t, mask, causal=True), SCORES),
    "attention_kl": (attention_kl, SCORES),
    "attention_kl causal": (lambda s, t, mask: attention_kl(s, t, mask, causal=True), SCORES),
    "value_relation": (value_relation, HEADS),
    "value_relation causal": (lambda s, t, mask: value_relation(s, t, mask, causal=True), HEADS),
    "relations": (lambda s, t, mask: relations(s, t, mask, heads=3), STATES),
    "relations causal": (lambda s, t, mask: relations(s, t, mask, heads=3, causal=True), STATES),
}
PER_ROW = ("patient", "attention_transfer")


# ---- each loss is its formula ----


def kl_of_rows(teacher: list[float], student: list[float]) -> float:
    p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (teacher, student))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def products(x: torch.Tensor) -> list:
    """X Xᵀ / √d of (B, H, T, d), number by number."""
    rows = x.tolist()
    return [[[[sum(a * b for a, b in zip(i, j, strict=True)) / len(i) ** 0.5 for j in h] for i in h] for h in r] for r in rows]


def over_keys(student: list, teacher: list, mask: torch.Tensor, causal: bool, compare) -> torch.Tensor:
    """(B, T): the mean over heads of compare(teacher's scores, student's scores) on the keys that a query may look at."""
    (B, T), H = mask.shape, len(student[0])
    values = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                keys = [k for k in range(T) if mask[b, k] and (k <= t or not causal)]
                heads = [[[x[b][h][t][k] for k in keys] for x in (teacher, student)] for h in range(H)]
                values[b, t] = sum(compare(*pair) for pair in heads) / H
    return values


def mean_square(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=3)


@given(seed=st.integers(0, 10**6), H=st.integers(1, 3), d=st.integers(1, 4), rows=masks, causal=st.booleans())
def test_relations_are_their_formulas(seed, H, d, rows, causal):
    mask, near = torch.tensor(rows), {"rtol": 1e-9, "atol": 1e-13}
    B, T = mask.shape
    s, t = draw(B, H, T, T, seed=seed), draw(B, H, T, T, seed=seed + 1)
    wanted = over_keys(s.tolist(), t.tolist(), mask, causal, mean_square)
    torch.testing.assert_close(attention_scores_mse(s, t, mask, causal), wanted, **near)
    wanted = over_keys(s.tolist(), t.tolist(), mask, causal, kl_of_rows)
    torch.testing.assert_close(attention_kl(s, t, mask, causal), wanted, **near)
    s, t = draw(B, H, T, d, seed=seed), draw(B, H, T, d + 1, seed=seed + 1)
    wanted = over_keys(products(s), products(t), mask, causal, kl_of_rows)
    torch.testing.assert_close(value_relation(s, t, mask, causal), wanted, **near)
    joined = (x.transpose(1, 2).flatten(2) for x in (s, t))
    torch.testing.assert_close(relations(*joined, mask, heads=H, causal=causal), wanted, **near)


@given(seed=st.integers(0, 10**6), B=st.integers(1, 3), T=st.integers(1, 4), D=st.integers(1, 6))
def test_losses_on_states_are_their_formulas(seed, B, T, D):
    s, t, near = draw(B, T, D, seed=seed), draw(B, T, D, seed=seed + 1), {"rtol": 1e-9, "atol": 1e-13}
    mse, cos = torch.zeros(2, B, T, dtype=torch.float64)
    for b in range(B):
        for i in range(T):
            x, y = s[b, i].tolist(), t[b, i].tolist()
            mse[b, i] = mean_square(x, y)
            cos[b, i] = sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
    torch.testing.assert_close(hidden_mse(s, t), mse, **near)
    torch.testing.assert_close(cosine(s, t), 1 - cos, **near)
    mask = torch.ones(B, T, dtype=torch.long)
    torch.testing.assert_close(patient(s, t, mask), 2 * (1 - cos[:, 0]), **near)
    last = torch.full((B,), T - 1)
    torch.testing.assert_close(patient(s, t, mask, at=last), 2 * (1 - cos[:, -1]), **near)


def test_attention_transfer_is_the_papers_norm_squared_and_the_codes_mean_times_T():
    s, t, mask = draw(3, 5, 6), draw(3, 5, 4, seed=1), torch.ones(3, 5, dtype=torch.long)
    result = attention_transfer(s, t, mask)
    maps = [F.normalize(x.pow(2).mean(-1), dim=-1) for x in (s, t)]  # the code's mean over channels normalises to the sum's map
    torch.testing.assert_close(result, (maps[0] - maps[1]).norm(dim=-1) ** 2)
    torch.testing.assert_close(result.mean() / 5, (maps[0] - maps[1]).pow(2).mean())
    for b, (x, y) in enumerate(zip(s.tolist(), t.tolist(), strict=True)):
        x, y = ([sum(v * v for v in token) for token in row] for row in (x, y))
        wanted = sum((p / math.hypot(*x) - q / math.hypot(*y)) ** 2 for p, q in zip(x, y, strict=True))
        assert float(result[b]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name):
    loss, shape = ALL[name]
    teacher = draw(*shape(2, 5), seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, MASK), draw(*shape(2, 5)).requires_grad_())


def test_relation_heads_are_attention_between_equals():
    """Q Kᵀ with K = Q, one head: the relation of Q is the attention of Q with itself."""
    s, t = draw(2, 5, 4), draw(2, 5, 8, seed=1)
    scores = [(x @ x.mT / x.shape[-1] ** 0.5)[:, None] for x in (s, t)]
    torch.testing.assert_close(relations(s, t, MASK, heads=1), attention_kl(*scores, MASK))
    torch.testing.assert_close(attention_kl(*scores, MASK)[0], soft_targets(*scores)[0, 0], msg="a row without padding")


# ---- invariances ----


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(d, d, seed=seed)).Q


def test_relations_do_not_see_a_rotation_and_features_do():
    """Each head has a rotation of its own; the states' axes have no meaning that a relation could learn."""
    s, t = draw(2, 2, 5, 3), draw(2, 2, 5, 3, seed=1)
    turns = torch.stack([rotation(3, 5), rotation(3, 6)])
    for causal in (False, True):
        still, turned = value_relation(s, t, MASK, causal), value_relation(s @ turns, t, MASK, causal)
        torch.testing.assert_close(still, turned, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(still, value_relation(s, t @ turns, MASK, causal), rtol=1e-10, atol=1e-13)
    s, t, block = draw(2, 5, 6), draw(2, 5, 6, seed=1), torch.block_diag(*turns)
    torch.testing.assert_close(relations(s @ block, t, MASK, heads=2), relations(s, t, MASK, heads=2), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(attention_transfer(s @ block, t, MASK), attention_transfer(s, t, MASK), rtol=1e-10, atol=1e-13)
    mixed = rotation(6, 7)  # not head by head
    assert (relations(s @ mixed, t, MASK, heads=2) - relations(s, t, MASK, heads=2)).abs().max() > 1e-3
    for loss in (hidden_mse, cosine):
        assert (loss(s @ block, t) - loss(s, t)).abs().min() > 1e-6
    assert (patient(s @ block, t, MASK) - patient(s, t, MASK)).abs().min() > 1e-3


def test_directions_do_not_see_lengths():
    s, t, mask = draw(2, 5, 6), draw(2, 5, 6, seed=1), MASK
    lengths = draw(2, 5, 1, seed=2).abs() + 0.1
    torch.testing.assert_close(cosine(lengths * s, t), cosine(s, t))
    torch.testing.assert_close(patient(lengths * s, t, mask), patient(s, t, mask))
    torch.testing.assert_close(attention_transfer(7 * s, t, mask), attention_transfer(s, t, mask))
    torch.testing.assert_close(cosine(-3 * t, t), torch.full((2, 5), 2.0, dtype=torch.float64))
    assert (hidden_mse(2 * s, t) - hidden_mse(s, t)).abs().min() > 1e-3


def test_cosine_is_exact_where_both_nearly_agree():
    """1 - cos in float32 rounds to steps of 6e-8; half the squared distance keeps its digits."""
    t = draw(1, 1, 64)
    s = t + 1e-5 * draw(1, 1, 64, seed=1)
    exact = float(1 - F.cosine_similarity(s, t, dim=-1))
    assert float(cosine(s.float(), t.float())) == pytest.approx(exact, rel=0.02)  # the inputs' own rounding, 6e-8 of 1e-5
    assert float(cosine(t.float(), t.float())) == 0


# ---- padding ----


def padded(x: torch.Tensor, mask: torch.Tensor, more: int, garbage: float) -> torch.Tensor:
    """(B, T, D), (B, H, T, d) or (B, H, T, T) with `more` tokens behind, and garbage wherever a token is padding."""
    square = x.ndim == 4 and x.shape[-1] == x.shape[-2] == mask.shape[1]
    x = F.pad(x, (0, more if square else 0, 0, more))
    gone = F.pad(mask, (0, more)) == 0
    if x.ndim == 4:
        gone = gone[:, None]
    return x.masked_fill(gone[..., None] | gone[..., None, :] if square else gone[..., None], garbage)


@pytest.mark.parametrize("name", ALL)
def test_padding_does_not_count(name):
    loss, shape = ALL[name]
    s, t = draw(*shape(2, 5)), draw(*shape(2, 5), seed=1)

    def batch(garbage: float, more: int):
        student, wide = padded(s, MASK, more, garbage).requires_grad_(), F.pad(MASK, (0, more))
        values = loss(student, padded(t, MASK, more, -garbage / 3), wide)
        value = masked_mean(values, torch.ones(2, dtype=torch.long) if name in PER_ROW else wide)
        return value, torch.autograd.grad(value, student)[0]

    (one, slope), (other, steep) = batch(0.0, 0), batch(1e4, 3)
    assert one > 0 and slope.abs().max() > 0
    same = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(one, other, **same)
    torch.testing.assert_close(padded(slope, MASK, 3, 0.0), steep, **same)
    square = steep[1, :, 0] if steep.ndim == 4 else steep[1, 0]
    assert square.abs().max() == 0, "the first place of the second row is padding"


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("hidden_mse", "cosine", "patient")])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_relations_do_not_even_touch_padding(name, garbage):
    loss, shape = ALL[name]
    s, t = draw(*shape(2, 5)), draw(*shape(2, 5), seed=1)
    spoilt = [padded(x, MASK, 0, garbage) for x in (s, t)]
    torch.testing.assert_close(loss(*spoilt, MASK), loss(s, t, MASK), rtol=1e-14, atol=0)
    assert gradient(loss, *spoilt, MASK).isfinite().all()
    if name not in PER_ROW:
        assert (loss(s, t, MASK)[MASK == 0] == 0).all() and (loss(s, t, MASK)[MASK == 1] >= -1e-15).all()


@pytest.mark.parametrize("name", [n for n in ALL if n.endswith("causal")])
def test_what_comes_later_does_not_change_a_causal_value(name):
    loss, shape = ALL[name]
    s, t, mask = draw(*shape(2, 5)), draw(*shape(2, 5), seed=1), torch.ones(2, 5, dtype=torch.long)
    later = [x.clone() for x in (s, t)]
    for x in later:
        x[..., 3:, :] = 7 * draw(*x[..., 3:, :].shape, seed=9)
        if x.shape[-1] == 5:
            x[..., :, 3:] = -torch.inf  # a decoder's own mask
            x[..., 3:, :] = 0
    torch.testing.assert_close(loss(*later, mask)[:, :3], loss(s, t, mask)[:, :3])
    plain = ALL[name.removesuffix(" causal")][0]
    assert (plain(s, t, mask)[:, :3] - loss(s, t, mask)[:, :3]).abs().max() > 1e-3
