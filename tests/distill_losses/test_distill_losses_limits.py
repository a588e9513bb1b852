"""Losses on logits at their limits, beside each other and beside other libraries, and bad input."""

import math

import pytest
import torch
from torch.nn import functional as F

from distill.losses.losses import (
    LOSSES,
    binary_soft_targets,
    check_same_vocabulary,
    generalized_jsd,
    hard_targets,
    logit_mse,
    masked_mean,
    regression_mse,
    reverse_kl,
    sequence_nll,
    skewed_kl,
    skewed_reverse_kl,
    soft_targets,
    total_variation,
)
from distill_losses.test_distill_losses import ALL, DIVERGENCES, GOLDEN, draw, gradient


def test_jsd_at_its_ends_and_in_the_middle():
    z, v = draw(4, 6, scale=1.0), draw(4, 6, seed=1, scale=1.0)
    for wanted, scaled in (
        (soft_targets(z, v), lambda b: generalized_jsd(z, v, beta=b) / b),
        (reverse_kl(z, v), lambda b: generalized_jsd(z, v, beta=1 - b) / b),
    ):
        errors = [(scaled(b) - wanted).abs() for b in (1e-4, 1e-5)]
        torch.testing.assert_close(errors[0] / errors[1], torch.full((4,), 10.0, dtype=torch.float64), rtol=0.02, atol=0)
        assert generalized_jsd(z, v, beta=1e-6).max() < 1e-4, "JSD itself vanishes"
    torch.testing.assert_close(generalized_jsd(z, v), generalized_jsd(v, z), rtol=1e-12, atol=0)
    torch.testing.assert_close(generalized_jsd(z, v, beta=0.2), generalized_jsd(v, z, beta=0.8), rtol=1e-12, atol=0)


def test_skewed_losses_without_skew_and_their_bound():
    z, v = draw(4, 6), draw(4, 6, seed=1)
    torch.testing.assert_close(skewed_kl(z, v, alpha=0), soft_targets(z, v), rtol=0, atol=0)
    torch.testing.assert_close(skewed_reverse_kl(z, v, alpha=0), reverse_kl(z, v), rtol=0, atol=0)
    for skewed, plain in ((skewed_kl, soft_targets), (skewed_reverse_kl, reverse_kl)):
        errors = [(skewed(z, v, alpha=a) - plain(z, v)).abs() for a in (1e-5, 1e-6)]
        torch.testing.assert_close(errors[0] / errors[1], torch.full((4,), 10.0, dtype=torch.float64), rtol=0.05, atol=0)
    one, other = torch.tensor([900.0, 0, 0]), torch.tensor([0.0, 900, 0])
    for skewed in (skewed_kl, skewed_reverse_kl):
        assert float(skewed(one, other, alpha=0.1)) == pytest.approx(-math.log(0.1), rel=1e-6)
    assert float(generalized_jsd(one, other)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(total_variation(one, other)) == 1 and float(soft_targets(one, other)) == 900


def test_one_logit_is_two_and_many_are_a_sum():
    z, v = draw(6, 1), draw(6, 1, seed=1)
    pair = lambda x: torch.cat([torch.zeros_like(x), x], -1)  # noqa: E731
    torch.testing.assert_close(binary_soft_targets(z, v, 2.0), soft_targets(pair(z), pair(v), 2.0), rtol=1e-12, atol=0)
    z, v = draw(2, 3), draw(2, 3, seed=1)
    each = sum(binary_soft_targets(z[:, c : c + 1], v[:, c : c + 1]) for c in range(3))
    torch.testing.assert_close(binary_soft_targets(z, v), each, rtol=1e-12, atol=0)
    bce = F.binary_cross_entropy_with_logits(z, v.sigmoid(), reduction="none").sum(-1)
    torch.testing.assert_close(
        gradient(binary_soft_targets, z, v),
        gradient(lambda z: F.binary_cross_entropy_with_logits(z, v.sigmoid(), reduction="sum"), z),
    )
    torch.testing.assert_close(bce - binary_soft_targets(z, v), -sum(p * p.log() for p in (v.sigmoid(), 1 - v.sigmoid())).sum(-1))


def test_squares_of_logits():
    z, v = draw(5, 1), draw(5, 1, seed=1)
    torch.testing.assert_close(regression_mse(z, v), F.mse_loss(z, v, reduction="none")[:, 0])
    z, v = draw(5, 4), draw(5, 4, seed=1)
    torch.testing.assert_close(logit_mse(z, v).mean(), 4 * F.mse_loss(z, v))
    torch.testing.assert_close(2.0**2 * logit_mse(z / 2, v / 2), logit_mse(z, v), msg="T² undoes T: so it has no temperature")


def test_hard_targets_are_torchs_cross_entropy():
    z, labels = draw(2, 3, 5), torch.tensor([[0, 4, -100], [2, -100, 1]])
    result = hard_targets(z, labels)
    assert result[0, 2] == result[1, 1] == 0
    torch.testing.assert_close(masked_mean(result, labels != -100), F.cross_entropy(z.flatten(0, 1), labels.flatten()))
    assert hard_targets(z, torch.full((2, 3), -100)).sum() == 0
    assert sequence_nll is hard_targets
    torch.testing.assert_close(hard_targets(z[0, 0], labels[0, 0]), -F.log_softmax(z[0, 0], -1)[0])
    z = z[:, 0]
    torch.testing.assert_close(
        gradient(hard_targets, z, torch.tensor([1, 3])), z.softmax(-1) - F.one_hot(torch.tensor([1, 3]), 5)
    )


# ---- numbers that break softmaxes ----


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("T", [0.5, 1.0, 8.0])
def test_large_logits_stay_finite(name, T):
    T = 1.0 if name == "mse" else T
    z = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, 1e4]])
    for v in (z, -z, z.flip(0), torch.zeros_like(z)):
        assert ALL[name](z, v, T).isfinite().all() and gradient(ALL[name], z, v, T).isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("T", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_outputs_that_both_mask_are_as_good_as_cut_away(name, T, dtype):
    """The lowest number of its type in one model, -inf in the other, and both ways round: a head that masks padding."""
    T = 1.0 if name == "mse" else T
    z, v, gone = draw(2, 5).to(dtype), draw(2, 5, seed=1).float(), torch.tensor([False, True, False, False, True])
    lowest = torch.finfo(dtype).min
    for low_z, low_v in (
        (lowest, -torch.inf),
        (-torch.inf, torch.finfo(torch.float32).min),
        (lowest, torch.finfo(torch.float32).min),
    ):
        student, teacher = z.masked_fill(gone, low_z), v.masked_fill(gone, low_v)
        same = {"rtol": 1e-5, "atol": 1e-6}  # float32: one sum over 5 numbers, and one over 3
        cut = ALL[name](z[:, ~gone], v[:, ~gone], T)
        torch.testing.assert_close(ALL[name](student, teacher, T), cut, **same)
        slope = gradient(ALL[name], student, teacher, T)
        assert slope[:, gone].abs().max() == 0
        torch.testing.assert_close(slope[:, ~gone], gradient(ALL[name], z[:, ~gone], v[:, ~gone], T), **same)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_widened(name):
    for dtype in (torch.bfloat16, torch.float16):
        z, v = draw(3, 50).to(dtype), draw(3, 50, seed=1).to(dtype)
        result = ALL[name](z, v)
        assert result.dtype == torch.float32 and gradient(ALL[name], z, v).dtype == dtype
        torch.testing.assert_close(result, ALL[name](z.float(), v.float()), rtol=0, atol=0)
    assert ALL[name](draw(3, 5), draw(3, 5, seed=1)).dtype == torch.float64


def test_a_masked_answer_is_loud():
    """The teacher believes in what the student cannot say: no small number hides it."""
    z, v = torch.tensor([0.0, 0.0, -torch.inf]), torch.tensor([0.0, 0.0, 1.0])
    assert soft_targets(z, v) > 1e17 and logit_mse(z, v) > 1e35
    assert gradient(soft_targets, z, v).isfinite().all()
    assert reverse_kl(z, v).isfinite() and gradient(reverse_kl, z, v, 2.0).isfinite().all(), "here it is the student's right"


# ---- other libraries ----


def golden(name: str, kind: str = "logits") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor]:
    student, teacher = (torch.tensor(x, dtype=torch.float64) for x in GOLDEN["inputs"][kind])
    value, slope = GOLDEN["out"][name]
    slope = torch.tensor(slope, dtype=torch.float64).view(student.shape)
    return student, teacher, torch.tensor(GOLDEN["inputs"]["mask"]), value, slope


def assert_agrees(name: str, loss, factor: float = 1.0, offset: float = 0.0) -> None:
    """`loss(student)`, a mean, is factor times the golden value less an offset, and its gradient factor times theirs."""
    student, _, _, value, slope = golden(name)
    near = {"rtol": 1e-9, "atol": 1e-11 * max(factor, 1)}  # the file has 12 digits after the point
    torch.testing.assert_close(loss(student), torch.tensor(factor * value - offset, dtype=torch.float64), **near)
    torch.testing.assert_close(gradient(loss, student), factor * slope, **near)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_trl_agrees_inside(beta):
    _, v, mask, *_ = golden(f"trl.jsd.beta{beta}")
    assert_agrees(f"trl.jsd.beta{beta}", lambda z: masked_mean(generalized_jsd(z, v, beta=beta), mask))


def test_trl_jumps_at_the_ends():
    """At beta = 0 and 1 TRL returns the full KL, and 1e-6 beside it almost nothing."""
    z, v, mask, *_ = golden("trl.jsd.beta0")
    assert_agrees("trl.jsd.beta0", lambda z: masked_mean(soft_targets(z, v), mask))
    assert_agrees("trl.jsd.beta1", lambda z: masked_mean(reverse_kl(z, v), mask))
    assert GOLDEN["out"]["trl.jsd.beta0"][0] > 2 and masked_mean(generalized_jsd(z, v, beta=1e-6), mask) < 1e-5
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="`soft_targets`"):
            generalized_jsd(z, v, beta=beta)


@pytest.mark.parametrize("T", [2.0, 8.0])
def test_trl_and_textbrewer_leave_T_squared_out(T):
    _, v, mask, *_ = golden(f"trl.jsd.T{T:g}")
    assert_agrees(f"trl.jsd.T{T:g}", lambda z: masked_mean(generalized_jsd(z, v, T), mask), factor=T**2)
    p = F.softmax(v / T, -1)
    entropy = float(-(p * p.log()).sum(-1).mean())  # TextBrewer's is a cross-entropy
    assert_agrees(f"tb.kd_ce.T{T:g}", lambda z: soft_targets(z, v, T).mean(), factor=T**2, offset=T**2 * entropy)
    assert_agrees(f"tb.kd_mse.T{T:g}", lambda z: logit_mse(z, v).mean(), factor=5 * T**2)  # and a mean over the 5 classes


def test_textbrewer_agrees_without_temperature():
    _, v, *_ = golden("tb.kd_ce.T1")
    p = F.softmax(v, -1)
    assert_agrees("tb.kd_ce.T1", lambda z: soft_targets(z, v).mean(), offset=float(-(p * p.log()).sum(-1).mean()))
    assert_agrees("tb.kd_mse.T1", lambda z: logit_mse(z, v).mean(), factor=5)


# ---- bad input ----


@pytest.mark.parametrize("name", ALL)
def test_two_vocabularies_are_told_apart(name):
    with pytest.raises(ValueError, match=r"student has 8 outputs, the teacher 6.*common vocabulary"):
        ALL[name](draw(2, 8), draw(2, 6))
    with pytest.raises(ValueError, match="same rows"):  # it would broadcast
        ALL[name](draw(2, 3, 8), draw(2, 1, 8))
    check_same_vocabulary(draw(2, 8), draw(2, 8))


@pytest.mark.parametrize("T", [0, -1.0, math.inf, math.nan])
def test_temperatures_that_are_none(T):
    for loss in DIVERGENCES.values():
        with pytest.raises(ValueError, match="above 0"):
            loss(draw(2, 3), draw(2, 3), T)


def test_what_has_no_meaning_raises():
    z = draw(2, 3)
    with pytest.raises(ValueError, match="mse has none"):
        logit_mse(z, z, 2.0)
    for alpha in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match="0 <= alpha < 1"):
            skewed_kl(z, z, alpha=alpha)
        with pytest.raises(ValueError, match="0 <= alpha < 1"):
            skewed_reverse_kl(z, z, alpha=alpha)
    for name in ("kd", "reverse_kl", "jsd", "skl", "srkl", "tv"):
        with pytest.raises(ValueError, match="binary_soft_targets"):
            LOSSES[name](z[:, :1], z[:, :1])
    with pytest.raises(ValueError, match=r"labels \(3,\): expected \(2,\)"):
        hard_targets(z, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="one number for each value"):
        masked_mean(z, torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="0 everywhere"):
        masked_mean(z, torch.zeros(2, 3, dtype=torch.long))
