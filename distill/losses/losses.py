"""What a student learns from its teacher's logits: one number for each row or token, never a mean over a batch.

    student z (*rows, C), teacher v (*rows, C)  ─▶  q = softmax(z / T), p = softmax(v / T)  ─▶  D (*rows)

D is a sum over the classes. The sum over the real rows and the division by their count happen in one other place: `masked_mean`
for one batch, the loop for a whole step. So a loss cannot become C times too small, and padding cannot count.

T: near p = q a smooth divergence is a square of p - q, so its gradient shrinks like 1 / T², and is multiplied by T² (Hinton et
al. 2015, section 2). The total variation is no square; its gradient shrinks like 1 / T, and is multiplied by T.
Every teacher is detached here. Half precision is widened to float32.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from distill.losses import loss_specs
from training.data.ignored import IGNORE

Logits = Float[Tensor, "*rows C"]
TeacherLogits = Float[Tensor, "..."]  # of the student's shape: `check_same_vocabulary` says more than a type
PerRow = Float[Tensor, "*rows"]
MASKED = -(2.0**60)  # a power of two is the same number in every type
"""A masked output's logit: its probability is 0, and what is computed with it stays finite, unlike those of the lowest number."""


def masked_mean(values: Float[Tensor, "*rows"], mask: Int[Tensor, "..."] | Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """The mean of the values (*rows) whose mask (*rows) is not 0. ValueError for another shape, and when none is left."""
    if values.shape != mask.shape:
        raise ValueError(f"values {_shape(values)} and mask {_shape(mask)} differ: a mask has one number for each value")
    real = mask != 0
    if not real.any():
        raise ValueError(f"the mask {_shape(mask)} is 0 everywhere: there is nothing to take a mean of")
    return values.masked_fill(~real, 0).sum() / real.sum()


def log_probabilities(logits: Logits, temperature: float = 1.0) -> Logits:
    """log softmax(z / T) in at least float32, all finite: a masked output has `MASKED` / T, so that 0 · log 0 = 0."""
    return (_wide(logits) / temperature).log_softmax(-1)


def kl(a: Logits, b: Logits) -> PerRow:
    """KL(a ‖ b) = Σ exp(a) (a - b); a and b are log-probabilities. In float32 a value below 1e-6 is rounding, and may be
    negative."""
    return (a.exp() * (a - b)).sum(-1)


def soft_targets(student: Logits, teacher: TeacherLogits, temperature: float = 1.0) -> PerRow:
    """T² KL(p ‖ q), p the teacher's (Hinton et al. 2015, section 2). Its gradient tends to (z - v) / C for centred logits.

    An output that both mask, with -inf or the lowest number of their type, adds nothing; one that the student masks and the
    teacher believes in makes the loss enormous. ValueError for different shapes, one output (its softmax is 1), and T ≤ 0.
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_p, log_q)


def reverse_kl(student: Logits, teacher: TeacherLogits, temperature: float = 1.0) -> PerRow:
    """T² KL(q ‖ p): the student seeks one mode of the teacher and need not cover all (Gu et al. 2024, MiniLLM, section 2.1)."""
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_q, log_p)


def generalized_jsd(student: Logits, teacher: TeacherLogits, temperature: float = 1.0, *, beta: float = 0.5) -> PerRow:
    """T² JSD_β = T² (β KL(p ‖ m) + (1 - β) KL(q ‖ m)), m = β p + (1 - β) q (Agarwal et al. 2024, GKD, section 2).

    It vanishes at both ends: JSD_β / β → KL(p ‖ q) for β → 0, and JSD_β / (1 - β) → KL(q ‖ p) for β → 1. So β = 0 and 1 raise
    ValueError, and a small β wants a larger weight.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta={beta}: expected 0 < beta < 1. At the ends JSD is 0 for every student; the limit of JSD / beta at 0 is "
            "`soft_targets` (kd), that of JSD / (1 - beta) at 1 is `reverse_kl`"
        )
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    log_m = _log_mix(log_p, log_q, beta)
    return temperature**2 * (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m))


def skewed_kl(student: Logits, teacher: TeacherLogits, temperature: float = 1.0, *, alpha: float = 0.1) -> PerRow:
    """T² KL(p ‖ α p + (1 - α) q): bounded by -T² log α, whatever the student says (Ko et al. 2024, DistiLLM, section 3.1).

    ValueError unless 0 ≤ α < 1. α = 0 is `soft_targets`.
    """
    _check_alpha(alpha)
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_p, _log_mix(log_p, log_q, alpha))


def skewed_reverse_kl(student: Logits, teacher: TeacherLogits, temperature: float = 1.0, *, alpha: float = 0.1) -> PerRow:
    """T² KL(q ‖ α q + (1 - α) p) (Ko et al. 2024, DistiLLM, section 3.1). ValueError unless 0 ≤ α < 1; 0 is `reverse_kl`."""
    _check_alpha(alpha)
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_q, _log_mix(log_q, log_p, alpha))


def total_variation(student: Logits, teacher: TeacherLogits, temperature: float = 1.0) -> PerRow:
    """T · ½ Σ |p - q|, at most T (Wen et al. 2023, f-distill). At p = q it has a kink: the gradient does not fade."""
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return temperature * 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def logit_mse(student: Logits, teacher: TeacherLogits, temperature: float = 1.0) -> PerRow:
    """‖z - v‖², summed over the outputs (Ba & Caruana 2014, section 2.2). With one output it is `regression_mse`.

    T² ‖z/T - v/T‖² is the same for every T, so a temperature other than 1 raises ValueError. So do different shapes.
    An output masked on one side only makes the loss 1e36 or more.
    """
    if temperature != 1:
        raise ValueError(f"temperature={temperature}: mse has none, T² ‖z/T - v/T‖² = ‖z - v‖². Leave it at 1, or use kd")
    z, v = _same_shape(student, teacher)
    return (z - v).square().sum(-1)


regression_mse = logit_mse


def binary_soft_targets(student: Logits, teacher: TeacherLogits, temperature: float = 1.0) -> PerRow:
    """T² Σ KL(Bernoulli(σ(v/T)) ‖ Bernoulli(σ(z/T))): outputs that are yes-or-no questions, or one logit for two classes.

    A sum over the outputs, each a question of its own. Where the hard loss is their mean (ours of a multi-label task is),
    divide by C before you mix the two. One logit x says the same as two logits (0, x).
    """
    z, v = _same_shape(student, teacher)
    _check_temperature(temperature)
    sides = [(F.logsigmoid(s * v / temperature), F.logsigmoid(s * z / temperature)) for s in (1, -1)]  # yes, no
    log_p, log_q = (torch.stack(side, -1) for side in zip(*sides, strict=True))  # (*rows, C, 2)
    return temperature**2 * kl(log_p, log_q).sum(-1)


def hard_targets(student: Logits, labels: Int[Tensor, "..."]) -> PerRow:
    """Cross-entropy -log q_label at T = 1; 0 where the label is -100, which `labels != -100` leaves out of the count.

    ValueError when the labels do not have the shape *rows. For a causal model the caller shifts: logits[:, :-1], labels[:, 1:].
    """
    if labels.shape != student.shape[:-1]:
        raise ValueError(f"labels {_shape(labels)}: expected {tuple(student.shape[:-1])}, one for each row of {_shape(student)}")
    z = _wide(student)
    return F.cross_entropy(z.reshape(-1, z.shape[-1]), labels.flatten(), ignore_index=IGNORE, reduction="none").view(labels.shape)


sequence_nll = hard_targets
"""-log q(ŷ_t | ŷ_<t, x) of a text ŷ that the teacher wrote (Kim & Rush 2016, section 3.2)."""


LOSSES: dict[str, Callable[..., Tensor]] = {
    "kd": soft_targets,
    "mse": logit_mse,
    "reverse_kl": reverse_kl,
    "jsd": generalized_jsd,
    "skl": skewed_kl,
    "srkl": skewed_reverse_kl,
    "tv": total_variation,
}
"""The names of a command line; each is called as loss(student, teacher, temperature, **options)."""


def register_loss(name: str, loss: Callable[..., Tensor], **options: float) -> None:
    """Add a loss on logits, `loss(student, teacher, temperature, **options)` → (*rows), with the defaults of its options.

    From then on `--losses NAME:T=2,OPTION=0.3` knows it. ValueError for a name or an option that is taken.
    """
    if name in loss_specs.OPTIONS or set(options) & set(loss_specs.DEFAULTS):
        raise ValueError(f"loss {name!r} with options {sorted(options)}: the name, or an option, is taken by another loss")
    LOSSES[name] = loss
    loss_specs.LOGITS.append(name)
    loss_specs.OPTIONS[name] = ("T", "a", *options)
    loss_specs.DEFAULTS.update(options)


def check_same_vocabulary(student: Float[Tensor, "..."], teacher: Float[Tensor, "..."]) -> None:
    """ValueError unless both logits have one shape: the same rows, and the same classes in the last dimension."""
    if student.shape == teacher.shape:
        return
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student logits {_shape(student)} and teacher logits {_shape(teacher)} differ: expected the same rows (and tokens). "
            "Did both models see one batch, and are both shifted, or neither?"
        )
    raise ValueError(
        f"the student has {student.shape[-1]} outputs, the teacher {teacher.shape[-1]}: expected the same classes or vocabulary. "
        "Two models of one tokenizer that padded it differently: cut both, logits[..., : len(tokenizer)]. Two tokenizers: a loss "
        "on hidden states or relations, or on texts that the teacher wrote, needs no common vocabulary"
    )


def _same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits in float32 or wider, the teacher's detached. ValueError where their shapes differ."""
    check_same_vocabulary(student, teacher)
    return _wide(student), _wide(teacher.detach())


def _log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log q and log p of one shape."""
    _check_temperature(temperature)
    check_same_vocabulary(student, teacher)
    if student.shape[-1] == 1:
        raise ValueError("one output has probability 1, whatever its logit: use `binary_soft_targets` or `regression_mse`")
    return log_probabilities(student, temperature), log_probabilities(teacher.detach(), temperature)


def _wide(logits: Tensor) -> Tensor:
    """At least float32. -inf and the lowest number of every type are masks, and become one number."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.masked_fill(logits <= max(torch.finfo(logits.dtype).min, MASKED), MASKED)


def _log_mix(a: Tensor, b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 - share) · b); as logarithms, so that a tiny probability does not become 0."""
    return b if share == 0 else torch.logaddexp(a + math.log(share), b + math.log1p(-share))


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}: expected a number above 0, such as 1 (as it is) or 2 (softer)")


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha}: expected 0 <= alpha < 1; at 1 the loss is 0 for every student. DistiLLM uses 0.1")


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
