"""Losses on hidden states and attention: student and teacher, other libraries, bad input."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.nn import functional as F

from distill.losses.features import cosine, hidden_mse, patient
from distill.losses.losses import masked_mean
from distill.losses.relations import attention_kl, attention_scores_mse, attention_transfer, relations, value_relation
from distill_losses.test_distill_features import ALL, GOLDEN, MASK, draw, gradient


@pytest.mark.parametrize("name", ALL)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    loss, shape = ALL[name]
    t = draw(*shape(2, 5))
    assert loss(t, t, MASK).abs().max() < 1e-14 and gradient(loss, t, t, MASK).abs().max() < 1e-14
    assert gradient(loss, t + 0.1 * draw(*shape(2, 5), seed=3), t, MASK).abs().max() > 1e-5


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_never_reaches_the_teacher(name):
    loss, shape = ALL[name]
    student, teacher = draw(*shape(2, 5)).requires_grad_(), draw(*shape(2, 5), seed=1).requires_grad_()
    loss(student, teacher, MASK).sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_widened(name):
    loss, shape = ALL[name]
    for dtype in (torch.bfloat16, torch.float16):
        s, t = draw(*shape(2, 5)).to(dtype), draw(*shape(2, 5), seed=1).to(dtype)
        result = loss(s, t, MASK)
        assert result.dtype == torch.float32 and gradient(loss, s, t, MASK).dtype == dtype
        torch.testing.assert_close(result, loss(s.float(), t.float(), MASK), rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_text_of_one_token(name):
    """It looks at itself alone, so its relations say nothing, and the gradient is 0 and not missing."""
    loss, shape = ALL[name]
    s, t, mask = draw(*shape(1, 1)), draw(*shape(1, 1), seed=1), torch.ones(1, 1, dtype=torch.long)
    result, slope = loss(s, t, mask), gradient(loss, s, t, mask)
    if name.startswith(("attention_kl", "value_relation", "relations", "attention_transfer")):
        assert result.abs().max() < 1e-15 and slope.abs().max() < 1e-15
    else:
        assert result.min() > 0 and slope.abs().max() > 0


def test_scores_or_probabilities():
    """The softmax inside undoes a logarithm; after dropout a student's probabilities have zeros, and the loss is enormous."""
    s, t = draw(2, 2, 5, 5), draw(2, 2, 5, 5, seed=1)
    mask = torch.ones(2, 5, dtype=torch.long)
    torch.testing.assert_close(attention_kl(s.log_softmax(-1), t.softmax(-1).log(), mask), attention_kl(s, t, mask))
    dropped = s.softmax(-1)
    dropped[0, 0, 0, 0] = 0
    assert attention_kl(dropped.log(), t, mask)[0, 0] > 1e15


# ---- other libraries ----


def assert_agrees(name: str, kind: str, loss, offset: float = 0.0) -> None:
    """loss(student, teacher) is the golden value less an offset, and has its gradient. The file has 12 digits after the point."""
    student, teacher = (torch.tensor(x, dtype=torch.float64) for x in GOLDEN["inputs"][kind])
    value, slope = GOLDEN["out"][name]
    near = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(loss(student, teacher), torch.tensor(value - offset, dtype=torch.float64), **near)
    slope = torch.tensor(slope, dtype=torch.float64).view(student.shape)
    torch.testing.assert_close(gradient(loss, student, teacher), slope, **near)


def test_textbrewer_agrees_on_states():
    mask = torch.tensor(GOLDEN["inputs"]["mask"])
    assert_agrees("tb.hid_mse", "states", lambda s, t: masked_mean(hidden_mse(s, t), mask))
    assert_agrees("tb.cos", "states", lambda s, t: masked_mean(cosine(s, t), mask))
    assert_agrees("tb.pkd", "states", lambda s, t: patient(s, t, mask).mean())


def test_textbrewer_agrees_on_attention_without_padding():
    all_real = torch.ones(2, 3, dtype=torch.long)
    assert_agrees("tb.att_mse.all_real", "scores", lambda s, t: masked_mean(attention_scores_mse(s, t, all_real), all_real))
    p = torch.tensor(GOLDEN["inputs"]["scores"][1], dtype=torch.float64).softmax(-1)
    entropy = float(-(p * p.log()).sum(-1).mean())  # its loss is a cross-entropy
    assert_agrees(
        "tb.att_ce.all_real", "scores", lambda s, t: masked_mean(attention_kl(s, t, all_real), all_real), offset=entropy
    )


def test_what_textbrewer_does_with_padding():
    """MSE: a text of n tokens counts n² times and ours n times. KL: keys at padding stay in the softmax, and are left out after
    it, so what stands there moves the loss. And without a mask every score below -0.001 counts as masked."""
    mask = torch.tensor(GOLDEN["inputs"]["mask"])
    s, t = (torch.tensor(x, dtype=torch.float64) for x in GOLDEN["inputs"]["scores"])
    ours = attention_scores_mse(s, t, mask)
    pairs = (ours[0].sum() * 3 + ours[1].sum() * 2) / (3**2 + 2**2)
    assert GOLDEN["out"]["tb.att_mse.mask"][0] == pytest.approx(float(pairs), abs=1e-11)
    assert masked_mean(ours, mask) != pytest.approx(float(pairs), rel=1e-3)
    real = mask[:, None, None, :] * mask[:, None, :, None]
    cut = -(t.softmax(-1) * s.log_softmax(-1) * real).sum() / (2 * mask.sum())
    assert GOLDEN["out"]["tb.att_ce.mask"][0] == pytest.approx(float(cut), abs=1e-11)
    dropped = [x.masked_fill(x <= -1e-3, 0) for x in (s, t)]
    assert GOLDEN["out"]["tb.att_mse.no_mask"][0] == pytest.approx(float(F.mse_loss(*dropped)), abs=1e-11)
    assert GOLDEN["out"]["tb.att_mse.no_mask"][0] < 0.4 * GOLDEN["out"]["tb.att_mse.all_real"][0]


# ---- bad input ----


def test_widths_and_heads_that_do_not_fit():
    mask = torch.ones(2, 5, dtype=torch.long)
    for loss in (hidden_mse, cosine, lambda s, t: patient(s, t, mask)):
        with pytest.raises(ValueError, match=r"\(2, 5, 6\).*\(2, 5, 8\).*project"):
            loss(draw(2, 5, 6), draw(2, 5, 8))
    for loss, last in ((attention_scores_mse, 5), (attention_kl, 5), (value_relation, 3)):
        with pytest.raises(ValueError, match=r"student has 2 heads, the teacher 4.*MiniLM v2"):
            loss(draw(2, 2, 5, last), draw(2, 4, 5, last), mask)
        with pytest.raises(ValueError, match="heads apart"):
            loss(draw(2, 2, 5, last), draw(2, 5, 6), mask)
        with pytest.raises((ValueError, TypeCheckError), match=r"heads apart|Type-check"):  # the type, where types are checked
            loss(draw(2, 5, 6), draw(2, 5, 6), mask)
        with pytest.raises(ValueError, match="same rows and tokens"):
            loss(draw(2, 2, 5, last), draw(2, 2, 5, last), mask[:, 1:])
    assert relations(draw(2, 5, 6), draw(2, 5, 12), mask, heads=3).shape == (2, 5)
    for heads, whose in ((4, "student's width 6"), (6, "teacher's width 8"), (0, "student's")):
        with pytest.raises(ValueError, match=whose):
            relations(draw(2, 5, 6), draw(2, 5, 8), mask, heads=heads)
    with pytest.raises(ValueError, match="heads joined"):
        relations(draw(2, 5, 6), draw(2, 2, 5, 3), mask, heads=2)
    with pytest.raises((ValueError, TypeCheckError), match=r"heads joined|Type-check"):
        relations(draw(2, 2, 5, 3), draw(2, 2, 5, 3), mask, heads=2)
    with pytest.raises(ValueError, match="same rows and tokens"):
        attention_transfer(draw(2, 5, 6), draw(2, 4, 6), mask)


def test_places_that_are_no_token():
    s, t = draw(2, 5, 6), draw(2, 5, 6, seed=1)
    torch.testing.assert_close(patient(s, t, MASK), patient(s, t, MASK, at=torch.tensor([0, 1])), msg="the first real token")
    assert patient(s, t, MASK, at=torch.tensor([0, 2]))[1] != patient(s, t, MASK)[1]
    for at in ([0, 0], [0, 4], [5, 1], [-1, 1], [0], [[0, 1]]):
        with pytest.raises(ValueError, match="2 places of real tokens"):
            patient(s, t, MASK, at=torch.tensor(at))
    with pytest.raises(ValueError, match="2 places of real tokens"):
        patient(s, t, torch.tensor([[1] * 5, [0] * 5]))
    with pytest.raises(ValueError, match=r"mask \(2, 4\)"):
        patient(s, t, MASK[:, 1:])
