"""Losses on logits: loops in plain floats, closed forms and limits, torch, and TRL and TextBrewer (golden/distill.json)."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from distill.losses import loss_specs
from distill.losses.loss_specs import read_losses
from distill.losses.losses import (
    LOSSES,
    binary_soft_targets,
    generalized_jsd,
    masked_mean,
    register_loss,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    soft_targets,
    total_variation,
)
from distill.losses.terms import soft_sum

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "distill.json").read_text())
ALL = {**LOSSES, "binary": binary_soft_targets}
DIVERGENCES = {name: loss for name, loss in ALL.items() if name != "mse"}  # those with a temperature
SMOOTH = {name: loss for name, loss in DIVERGENCES.items() if name != "tv"}


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, student: torch.Tensor, *more, **options) -> torch.Tensor:
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *more, **options).sum(), student)[0]


# ---- each loss is its formula ----


def softmax(row, T):
    weights = [math.exp(x / T) for x in row]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mix(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def in_words(name: str, z: list[float], v: list[float], T: float) -> float:
    q, p = softmax(z, T), softmax(v, T)
    yes_or_no = [(softmax([x, 0.0], T), softmax([y, 0.0], T)) for x, y in zip(z, v, strict=True)]
    return {
        "kd": T**2 * kl(p, q),
        "reverse_kl": T**2 * kl(q, p),
        "jsd": T**2 * (0.5 * kl(p, mix(p, q, 0.5)) + 0.5 * kl(q, mix(p, q, 0.5))),
        "skl": T**2 * kl(p, mix(p, q, 0.1)),
        "srkl": T**2 * kl(q, mix(p, q, 0.9)),
        "tv": T * sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
        "mse": sum((a - b) ** 2 for a, b in zip(z, v, strict=True)),
        "binary": T**2 * sum(kl(b, a) for a, b in yes_or_no),
    }[name]


@pytest.mark.parametrize("name", ALL)
@given(
    seed=st.integers(0, 10**6), rows=st.lists(st.integers(1, 3), max_size=3), C=st.integers(2, 7), T=st.sampled_from([0.5, 1, 3])
)
def test_a_loss_is_its_formula_row_by_row(name, seed, rows, C, T):
    z, v, T = draw(*rows, C, seed=seed), draw(*rows, C, seed=seed + 1), 1 if name == "mse" else T
    result = ALL[name](z, v, T)
    assert result.shape == tuple(rows)
    wanted = [in_words(name, a, b, T) for a, b in zip(z.view(-1, C).tolist(), v.view(-1, C).tolist(), strict=True)]
    torch.testing.assert_close(result.flatten(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_mixing_share_is_the_teachers(beta):
    z, v = draw(6), draw(6, seed=1)
    q, p = softmax(z.tolist(), 1), softmax(v.tolist(), 1)
    m = mix(p, q, beta)
    assert float(generalized_jsd(z, v, beta=beta)) == pytest.approx(beta * kl(p, m) + (1 - beta) * kl(q, m), rel=1e-12)
    assert float(skewed_kl(z, v, alpha=beta)) == pytest.approx(kl(p, m), rel=1e-12)
    assert float(skewed_reverse_kl(z, v, alpha=beta)) == pytest.approx(kl(q, mix(q, p, beta)), rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name):
    v, T = draw(2, 4, seed=1), 1.0 if name == "mse" else 2.0
    assert torch.autograd.gradcheck(lambda z: ALL[name](z, v, T), draw(2, 4).requires_grad_())


# ---- the temperature ----

Z = torch.tensor([1.0, -0.5, 0.2, 0.8, -1.5], dtype=torch.float64)
V = torch.tensor([0.6, 0.5, -0.4, -1.1, 0.4], dtype=torch.float64)  # both centred


def test_T_squared_keeps_the_size_of_the_gradient():
    """T ‖q - p‖ tends to ‖z - v‖ / C = 0.59127. Without T² it falls by T²."""
    limit = (Z - V) / 5
    assert float(limit.norm()) == pytest.approx(0.59127, abs=5e-6)
    for T, wanted in ((1, 0.40397), (2, 0.49821), (4, 0.54665), (8, 0.56972), (16, 0.58072)):
        q, p = softmax(Z.tolist(), T), softmax(V.tolist(), T)
        result = gradient(soft_targets, Z, V, T)
        torch.testing.assert_close(
            result, T * (torch.tensor(q, dtype=Z.dtype) - torch.tensor(p, dtype=Z.dtype)), rtol=1e-12, atol=1e-15
        )
        assert float(result.norm()) == pytest.approx(wanted, abs=5e-6)
        bare = gradient(lambda z, T=T: F.kl_div(F.log_softmax(z / T, -1), F.softmax(V / T, -1), reduction="sum"), Z)
        torch.testing.assert_close(T**2 * bare, result, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (soft_targets, 1),
        (reverse_kl, 1),
        (lambda z, v, T: generalized_jsd(z, v, T, beta=0.3), 0.3 * 0.7),
        (lambda z, v, T: skewed_kl(z, v, T, alpha=0.1), 0.9**2),
        (lambda z, v, T: skewed_reverse_kl(z, v, T, alpha=0.1), 0.9**2),
        (binary_soft_targets, 5 / 4),  # σ(x) = ½ + x / 4: C / 4 times (z - v) / C
    ],
)
def test_every_smooth_divergence_has_the_same_limit_up_to_a_factor(loss, factor):
    """To second order in p - q all are factor · ½ χ². The next term is of the order M² / (C T), M the largest logit."""
    T = 1e4
    torch.testing.assert_close(gradient(loss, Z, V, T), factor * (Z - V) / 5, rtol=0, atol=2 * 1.5**2 / T)


def test_total_variation_keeps_its_size_with_T_and_not_with_T_squared():
    sizes = [float(gradient(total_variation, Z, V, T).norm()) for T in (1e2, 1e3, 1e4)]
    assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.05) and sizes[-1] > 0.1


# ---- reductions ----


def test_batchmean_and_not_mean():
    """torch's default divides by the classes too: 10 times too small for 10."""
    z, v = draw(7, 10), draw(7, 10, seed=1)
    ours = masked_mean(soft_targets(z, v), torch.ones(7, dtype=torch.long))
    log_q, log_p = F.log_softmax(z, -1), F.log_softmax(v, -1)
    torch.testing.assert_close(ours, F.kl_div(log_q, log_p, reduction="batchmean", log_target=True), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, F.kl_div(log_q, log_p.exp(), reduction="batchmean"), rtol=1e-12, atol=0)
    with pytest.warns(UserWarning, match="batchmean"):
        mean = torch.nn.KLDivLoss(reduction="mean")(log_q, log_p.exp())
    assert float(ours / mean) == pytest.approx(10, rel=1e-12)


def test_tinybert_averages_over_the_classes():
    """Its soft cross-entropy, (-softmax(v) · log softmax(z)).mean(): the gradient of ours, C times too small."""
    z, v = draw(7, 10), draw(7, 10, seed=1)
    other = gradient(lambda z: (-F.softmax(v, -1) * F.log_softmax(z, -1)).mean(), z)
    torch.testing.assert_close(10 * other, gradient(soft_targets, z, v) / 7, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_padding_does_not_count(name):
    z, v, mask = draw(2, 3, 4), draw(2, 3, 4, seed=1), torch.tensor([[1, 1, 1], [1, 1, 0]])

    def batch(garbage: float, more: int):
        wide = [
            F.pad(x.masked_fill(mask[..., None] == 0, garbage * sign), (0, 0, 0, more), value=garbage)
            for x, sign in ((z, 1), (v, -1))
        ]
        student, teacher = wide[0].requires_grad_(), wide[1]
        value = masked_mean(ALL[name](student, teacher), F.pad(mask, (0, more)))
        return value, torch.autograd.grad(value, student)[0]

    (one, slope), (other, steep) = batch(0.0, 0), batch(1e4, 5)
    torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
    torch.testing.assert_close(F.pad(slope, (0, 0, 0, 5)), steep, rtol=1e-14, atol=0)
    assert steep[1, 2].abs().max() == 0 and steep[0, 2].abs().max() > 0
    rows = ALL[name](z, v)
    torch.testing.assert_close(one, (rows[0].sum() + rows[1, :2].sum()) / 5, rtol=1e-14, atol=0)


def test_masked_mean_of_micro_batches():
    values, mask = draw(4, 3), torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    parts = [masked_mean(values[i : i + 2], mask[i : i + 2]) * mask[i : i + 2].sum() for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / mask.sum(), masked_mean(values, mask), rtol=1e-14, atol=0)
    torch.testing.assert_close(masked_mean(values, mask), masked_mean(values, mask.bool()), rtol=0, atol=0)
    spoilt = values.masked_fill(mask == 0, torch.nan)
    torch.testing.assert_close(masked_mean(spoilt, mask), masked_mean(values, mask), rtol=0, atol=0)


# ---- student and teacher ----


@pytest.mark.parametrize("name", ALL)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    z, T = draw(3, 5), 1.0 if name == "mse" else 2.0
    assert ALL[name](z, z, T).abs().max() < 1e-14
    assert gradient(ALL[name], z, z, T).abs().max() < 1e-14
    assert gradient(ALL[name], z + 1e-3 * draw(3, 5, seed=2), z, T).abs().max() > 1e-5


def test_the_kink_of_the_total_variation():
    """On the kink autograd says 0; a hair beside it the gradient has its full size, where the other losses' fades."""
    z, step = draw(5), draw(5, seed=2)
    near, nearer = (gradient(total_variation, z + h * step, z).norm() for h in (1e-4, 1e-6))
    assert float(near) == pytest.approx(float(nearer), rel=1e-3) and nearer > 0.01
    for name in ("kd", "reverse_kl", "jsd", "skl", "srkl"):
        near, nearer = (gradient(LOSSES[name], z + h * step, z).norm() for h in (1e-4, 1e-6))
        assert float(near / nearer) == pytest.approx(100, rel=1e-2)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_never_reaches_the_teacher(name):
    student, teacher = draw(2, 5).requires_grad_(), draw(2, 5, seed=1).requires_grad_()
    ALL[name](student, teacher).sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


@pytest.fixture
def without_new_losses():
    """The registry as it was."""
    before = list(loss_specs.LOGITS)
    yield
    for name in set(loss_specs.LOGITS) - set(before):
        del LOSSES[name], loss_specs.OPTIONS[name]
    loss_specs.LOGITS[:] = before
    loss_specs.DEFAULTS.pop("power", None)


def test_a_new_loss_is_one_function_and_one_line(without_new_losses):
    def distance(student, teacher, temperature, power=2.0):
        return ((student - teacher.detach()) / temperature).abs().pow(power).sum(-1)

    register_loss("distance", distance, power=2.0)
    [spec] = read_losses(["distance:T=2,a=1,power=3"])
    assert (spec.name, spec.number("power", 0.0), spec.number("T", 0.0)) == ("distance", 3.0, 2.0)
    z, v = torch.randn(4, 3), torch.randn(4, 3)
    options = {"power": spec.number("power", 0.0)}
    result = soft_sum("classification", "distance", z, v, 2.0, **options)
    torch.testing.assert_close(result, ((z - v) / 2).abs().pow(3).sum())
    with pytest.raises(ValueError, match="is taken by another loss"):
        register_loss("kd", distance)
