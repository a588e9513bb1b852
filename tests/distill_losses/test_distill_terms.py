"""Losses as words and as sums: by hand, whatever the split into batches, with and without labels, and never into the teacher."""

import pairs
import pytest
import torch
from torch.nn import functional as F

from distill.losses import features, relations
from distill.losses.loss_specs import DEFAULTS, OPTIONS, needs_teacher, read_losses
from distill.losses.losses import LOSSES, binary_soft_targets
from distill.losses.states import answer_logits, answers_in, forward_with_states
from distill.losses.terms import LABELLED, labelled_only, make_projections, make_terms
from distill.teacher.teacher import Teacher
from training.evaluation import metrics

CASES = [(name, kind) for kind in pairs.KINDS for name in (*pairs.SOFT, "hard") if pairs.fits(name, kind)]
CASES += [(name, kind) for kind in ("classification", "generation") for name in pairs.BETWEEN]  # states know no kind
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def close(result: dict, expected: dict, **tolerance) -> None:
    assert result.keys() == expected.keys() and result
    for name in result:
        torch.testing.assert_close(result[name], expected[name], **(tolerance or EXACT), msg=lambda m, n=name: f"{n}: {m}")


# ---------------------------------------------------------------- words


def test_a_word_says_what_it_says():
    [one] = read_losses(["jsd:T=3,beta=0.25,a=1..0.5"])
    assert (one.name, one.pairs) == ("jsd", ()) and one.number("T", 0.3) == 3 and one.number("beta", 1.0) == 0.25
    assert [one.number("a", p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]
    two = read_losses(["relations:1->4,2->5,heads=8,w=0..2", "hard:w=3"])
    assert two[0].pairs == ((1, 4), (2, 5)) and two[0].number("heads", 0) == 8 and two[0].number("w", 0.25) == 0.5
    assert two[1].number("w", 0.7) == 3 and not needs_teacher(two) and needs_teacher([one])
    [plain] = read_losses(["kd"])
    assert (plain.number("T", 0.0), plain.number("a", 1.0)) == (DEFAULTS["T"], DEFAULTS["a"]) == (2.0, 0.9)


WRONG = [
    ((), "expected at least one"),
    (("klm",), "'klm' is unknown; there are hard, kd"),
    (("kd", "mse"), "expected one on logits"),
    (("kd", "hard"), "leave hard out"),
    (("hard", "hard"), "one comes twice"),
    (("hidden:1->1", "hidden:1->1,w=2"), "one comes twice"),
    (("hidden:1->1,1->1",), "a pair of layers comes twice"),
    (("kd:T=1,T=2",), "T comes twice"),
    (("hidden",), "takes layers of student and teacher, such as hidden:2->6"),
    (("kd:1->2",), "takes no layers"),
    (("hidden:1->x",), "expected two layers"),
    (("hidden:1->2->3",), "expected two layers"),
    (("hidden:1->-1",), "layers count from 0"),
    (("kd:1",), "kd takes T=NUMBER, a=NUMBER"),
    (("kd:w=1",), "kd takes T=NUMBER, a=NUMBER"),
    (("mse:T=2",), "mse takes a=NUMBER"),
    (("kd:T=two",), "expected a number, or FROM..TO"),
    (("kd:T=1..2..3",), "expected one number"),
    (("jsd:beta=0.1..0.9",), "expected one number"),
    (("relations:1->1,heads=2..4",), "expected one number"),
    (("kd:a=0..1.5",), "a=1.5 is outside"),
    (("kd:a=nan",), "a=nan is outside"),
    (("kd:a=0",), "a=0 gives the teacher the weight 0"),
    (("kd:T=0",), "T=0 is outside"),
    (("kd:T=inf",), "T=inf is outside"),
    (("hidden:1->1,w=-1",), "w=-1 is outside"),
    (("hidden:1->1,w=1e9",), "w=1e+09 is outside"),
    (("hidden:1->1,w=0",), "w=0 has no effect"),
    (("relations:1->1,heads=1.5",), "heads=1.5 is outside"),
    (("jsd:beta=1",), "beta=1 is outside"),
    (("skl:alpha=1",), "alpha=1 is outside"),
]


@pytest.mark.parametrize(("texts", "message"), WRONG)
def test_wrong_words_are_refused(texts, message):
    with pytest.raises(ValueError) as caught:
        read_losses(texts)
    assert message in str(caught.value)


def test_every_loss_is_a_word_here_and_tested_here():
    assert set(OPTIONS) == set(pairs.WORDS) and set(LOSSES) < set(OPTIONS)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_losses_between_distributions_are_refused_for_numbers_and_yes_or_no_questions(kind):
    for name in LOSSES:
        if not pairs.fits(name, kind):
            with pytest.raises(ValueError, match=f"a task of {kind} has no distribution over classes"):
                make_terms(read_losses([name]), kind, torch.nn.ModuleDict(), False)


# ---------------------------------------------------------------- sums


def by_hand(name: str, kind: str, student, teacher, row: dict) -> torch.Tensor:
    """One row without padding, so no mask and no order can go wrong."""
    [one] = pairs.window([row], 1)
    own, teachers = (forward_with_states(model, one, hidden=True, attention=True) for model in (student, teacher))
    if name == "hard":
        return metrics.loss_sum(kind, own.out, one)
    if name in LOSSES:
        z, v = (answer_logits(kind, visited.out, one) for visited in (own, teachers))
        if kind == "multilabel" and name == "kd":
            return binary_soft_targets(z, v, 2.0).sum() / 3
        return LOSSES[name](z, v, 1.0 if name == "mse" else 2.0).sum()
    causal, mask = kind == "generation", one["attention_mask"]
    first = -1 if causal else 0
    between = {
        "hidden": lambda h, t: features.hidden_mse(h, t),
        "cosine": lambda h, t: 1 - F.cosine_similarity(h, t, dim=-1),
        "patient": lambda h, t: (F.normalize(h[:, first], dim=-1) - F.normalize(t[:, first], dim=-1)).square(),
        "transfer": lambda h, t: relations.attention_transfer(h, t, mask),
        "scores": lambda q, p: relations.attention_scores_mse(q.scores(), p.scores(), mask, causal),
        "attention": lambda q, p: relations.attention_kl(q.scores(), p.scores(), mask, causal),
        "values": lambda q, p: relations.value_relation(q.value, p.value, mask, causal),
        "relations": lambda q, p: torch.stack(
            [relations.relations(q.joined(v), p.joined(v), mask, 2, causal) for v in ("query", "key", "value")]
        ),
    }[name]
    if name in ("hidden", "cosine", "patient", "transfer"):  # hidden:0->0,1->2 and so on, see `pairs.BETWEEN`
        return sum(between(own.hidden[a], teachers.hidden[b]).sum() for a, b in ((0, 0), (1, 2)))
    return sum(
        between(own.attentions[a], teachers.attentions[b]).sum()
        for a, b in (((0, 1),) if name == "relations" else ((0, 1), (1, 0)))
    )


def count_by_hand(name: str, kind: str, rows: list[dict]) -> int:
    by_row = ("patient", "transfer")
    if name in pairs.BETWEEN and name not in by_row:
        return sum(len(row["input_ids"]) for row in rows)
    if name in by_row or kind in ("classification", "regression", "multilabel"):
        return len(rows)
    if kind == "qa":
        return len(rows) * (1 if name == "hard" else 2)
    return sum(label != -100 for row in rows for label in row["labels"])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_term_is_its_sum_over_rows_by_hand_whatever_the_batches(name, kind):
    """8 rows at once, 2 x 4, and 8 x 1 (other padding) give one loss and one gradient; the mean is over answers or tokens."""
    student, teacher, rows = pairs.model(kind, 1), pairs.model(kind, 2), pairs.features(kind, 8)
    one = pairs.distiller(pairs.WORDS[name], kind, student, teacher)
    if name in pairs.BETWEEN:
        pairs.freeze_unreached(one, rows)
    total = sum(by_hand(name, kind, student, teacher, row) for row in rows)
    expected = float(total.detach()) / count_by_hand(name, kind, rows)
    result, gradients = pairs.backward(one, rows, 8)
    assert result["loss"] == pytest.approx(expected, rel=1e-6 if name in ("patient", "cosine") else 1e-9) and expected > 1e-4
    assert result["tokens"] == sum(len(row["input_ids"]) for row in rows)
    for batch_size in (4, 1):
        again, others = pairs.backward(one, rows, batch_size)
        assert again["loss"] == pytest.approx(result["loss"], rel=1e-10)
        close(others, gradients)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_gradient_never_reaches_the_teacher_and_vanishes_where_the_student_is_it(name, kind):
    teacher = pairs.model(kind, 2)
    student, rows = pairs.model(kind, 2), pairs.features(kind, 5)
    weights = {n: v.clone() for n, v in teacher.state_dict().items()}
    [batch] = pairs.window(rows, 5)
    asked = Teacher([teacher], kind)
    before = asked.answers(batch)
    same = pairs.WORDS[name].replace("1->2", "1->1").replace("2->1", "2->2")
    one = pairs.distiller(same, kind, student, teacher)
    if name in pairs.BETWEEN:
        pairs.freeze_unreached(one, rows)
    result, gradients = pairs.backward(one, rows, 5)
    if name == "hard":
        assert max(float(g.abs().max()) for g in gradients.values()) > 1e-4, "the labels know better than the teacher"
    else:
        assert abs(result["loss"]) < 1e-14
        limit = 1e-12  # float64: a sum of some hundred multiplications of rounding errors
        assert max(float(g.abs().max()) for g in gradients.values()) < limit
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters()) and not teacher.training
    assert teacher.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[n]) for n, v in teacher.state_dict().items())
    assert torch.equal(asked.answers(batch), before) and teacher.config._attn_implementation == "sdpa"
    assert not [n for n, _ in one.named_parameters() if not n.startswith(("student.", "projections."))]


def test_a_decoder_learns_nothing_from_scores_behind_its_mask():
    """With causal=True a key after its query has no gradient; with False it has (that would be noise)."""
    student, teacher = pairs.model("generation", 1), pairs.model("generation", 2)
    rows, result = pairs.features("generation", 4), []
    for causal in (True, False):
        one = pairs.distiller("scores:1->1", "generation", student, teacher, causal=causal)
        pairs.freeze_unreached(one, rows)
        result.append(pairs.backward(one, rows, 4)[0]["loss"])
    [batch] = pairs.window(rows, 4)
    own, teachers = (forward_with_states(m, batch, attention=True).attentions[0].scores() for m in (student, teacher))
    real = (batch["attention_mask"] != 0)[:, None, :, None] & (batch["attention_mask"] != 0)[:, None, None, :]
    for loss, allowed in zip(result, (real.tril(), real), strict=True):
        squares = (own - teachers).square().masked_fill(~allowed, 0).mean(1).sum(-1) / allowed.sum(-1)[:, 0].clamp(min=1)
        assert loss == pytest.approx(float(squares.detach().sum() / batch["attention_mask"].sum()), rel=1e-9)
    assert result[0] != pytest.approx(result[1], rel=1e-3)


# ---------------------------------------------------------------- schedules, and rows without labels


@pytest.mark.parametrize("step", [1, 6, 11])
def test_annealing_moves_from_the_teacher_to_the_labels(step):
    """a=1..0: at the first step the teacher alone, at the last the labels alone, both gradients by their shares between."""
    student, teacher, rows = pairs.model("classification", 1), pairs.model("classification", 2), pairs.features("classification")
    row, moving = pairs.backward(pairs.distiller("kd:T=2,a=1..0", "classification", student, teacher), rows, 8, step, 11)
    soft_row, soft = pairs.backward(pairs.distiller("kd:T=2,a=1", "classification", student, teacher), rows, 8)
    hard_row, hard = pairs.backward(pairs.distiller("hard", "classification", student, teacher), rows, 8)
    share = 1 - (step - 1) / 10
    assert (row["weight/kd"], row["weight/hard"]) == pytest.approx((share, 1 - share))
    assert row["loss"] == pytest.approx(share * soft_row["loss"] + (1 - share) * hard_row["loss"])
    assert (row["loss/kd"], row["loss/hard"]) == pytest.approx((soft_row["loss"], hard_row["loss"]))
    close(moving, {n: share * soft[n] + (1 - share) * hard[n] for n in soft})


def test_a_moving_temperature_is_that_of_the_step():
    student, teacher, rows = pairs.model("classification", 1), pairs.model("classification", 2), pairs.features("classification")
    moving = pairs.distiller("kd:T=4..1,a=1", "classification", student, teacher)
    for step, temperature in ((1, 4), (2, 2.5), (3, 1)):
        still = pairs.distiller(f"kd:T={temperature},a=1", "classification", student, teacher)
        assert pairs.backward(moving, rows, 8, step, 3)[0]["loss"] == pytest.approx(pairs.backward(still, rows, 8)[0]["loss"])


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_rows_without_labels_teach_by_the_teacher_alone(kind):
    """The hard part is that of the labelled examples alone, the soft part that of all; other labels there change nothing."""
    student, teacher = pairs.model(kind, 1), pairs.model(kind, 2)
    word = "mse:a=0.5" if kind == "regression" else "kd:T=2,a=0.5"
    rows, known = pairs.features(kind, 12, labelled=5), pairs.features(kind, 12)[:5]
    one = pairs.distiller(word, kind, student, teacher)
    result, gradients = pairs.backward(one, rows, 4)
    soft, hard = (pairs.backward(pairs.distiller(w, kind, student, teacher), r, 4) for w, r in ((word, rows), ("hard", known)))
    name = word.partition(":")[0]
    assert result["loss/hard"] == pytest.approx(hard[0]["loss"]) and result[f"loss/{name}"] == pytest.approx(
        soft[0][f"loss/{name}"]
    )
    assert result["loss"] == pytest.approx(0.5 * result["loss/hard"] + 0.5 * result[f"loss/{name}"])
    shuffled = [row | _other_labels(kind, row) if row[LABELLED] == 0 else row for row in rows]
    close(pairs.backward(one, shuffled, 4)[1], gradients)
    counted = [term.count(pairs.window(rows, 12)[0]) for term in one.terms]
    assert counted[1] == metrics.answer_count(kind, pairs.window(known, 12)[0]) < counted[0]


def _other_labels(kind: str, row: dict) -> dict:
    if kind == "qa":
        return {"start_positions": 0, "end_positions": 0}
    change = {"classification": lambda y: (y + 1) % 4, "regression": lambda y: y + 9, "multilabel": lambda y: [1 - x for x in y]}
    places = lambda y: [label if label == -100 else (label + 1) % 3 for label in y]  # noqa: E731
    return {"labels": change.get(kind, places)(row["labels"])}


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_a_batch_keeps_the_places_of_answers_that_it_may_not_learn(kind):
    [batch] = pairs.window(pairs.features(kind, 6, labelled=2), 6)
    remaining = labelled_only(kind, batch)
    labels = remaining["start_positions" if kind == "qa" else "labels"]
    assert len(labels) == 2 if kind in ("regression", "multilabel") else (labels[2:] == -100).all() and (labels[:2] != -100).any()
    assert sum(answers_in(kind, batch)) == sum(answers_in(kind, pairs.window(pairs.features(kind, 6), 6)[0]))
    whole = {name: value for name, value in batch.items() if name != LABELLED}
    assert labelled_only(kind, whole) is whole


def test_a_step_whose_rows_have_nothing_to_give_is_no_error():
    """The last step of a=1..0 on rows without labels, and the first of a weight that starts at 0."""
    student, teacher = pairs.model("classification", 1), pairs.model("classification", 2)
    one = pairs.distiller("kd:a=1..0", "classification", student, teacher)
    row, gradients = pairs.backward(one, pairs.features("classification", 6, labelled=0), 3, step=11, steps=11)
    assert row["loss"] == row["grad_norm"] == 0 and not any(g.any() for g in gradients.values()) and "loss/hard" not in row
    later = pairs.distiller(["hidden:1->1", "hard:w=0..1"], "classification", student, teacher)
    row, gradients = pairs.backward(later, pairs.features("classification", 6), 3, step=1, steps=11)
    assert row["weight/hard"] == 0 < row["loss/hard"] and not gradients["student.classifier.weight"].any()
    with pytest.raises(ValueError, match="nothing to learn from in the batch of step 3"):
        alone = pairs.distiller("hard", "classification", student, teacher)
        pairs.backward(alone, pairs.features("classification", 6, labelled=0), 3, step=3)


# ---------------------------------------------------------------- widths


def test_another_width_is_projected_by_a_matrix_that_trains_and_keeps_lengths():
    student = pairs.model("classification", 1, hidden_size=12)
    teacher, rows = pairs.model("classification", 2), pairs.features("classification", 6)
    one = pairs.distiller(["hidden:1->2,2->1", "cosine:0->0", "transfer:1->1", "kd"], "classification", student, teacher)
    assert set(one.projections) == {"hidden 1 to 2", "hidden 2 to 1", "cosine 0 to 0"}
    for layer in one.projections.values():
        assert layer.weight.shape == (24, 12) and layer.bias is None
        torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(12).double(), rtol=0, atol=1e-6)
    _, gradients = pairs.backward(one, rows, 6)
    assert all(gradients[f"projections.{name}.weight"].abs().max() > 0 for name in one.projections)
    words = read_losses(["hidden:1->1"])
    first, again, other = (make_projections(words, 12, 24, seed)["hidden 1 to 1"].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and not make_projections(words, 24, 24, 0)
