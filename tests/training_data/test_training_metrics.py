"""The metrics against scikit-learn, scipy, sacrebleu and rouge_score, and on cases whose answer is known."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
import torch
from scipy import stats
from sklearn import metrics as sk
from torch.nn import functional as F

from training.data.world_tasks import build, slot_errors
from training.evaluation import metrics
from training.evaluation.generation import Sample
from training.evaluation.text_metrics import text_scores


@pytest.mark.parametrize("seed", range(5))
def test_label_scores_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 60).tolist()
    guess = [t if rng.random() < 0.7 else 1 - t for t in truth]
    assert metrics.label_scores(guess, truth, "accuracy") == {"accuracy": pytest.approx(sk.accuracy_score(truth, guess))}
    assert metrics.label_scores(guess, truth, "f1")["f1"] == pytest.approx(sk.f1_score(truth, guess))
    assert metrics.label_scores(guess, truth, "matthews")["matthews"] == pytest.approx(sk.matthews_corrcoef(truth, guess))
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    scores = metrics.label_scores(x.tolist(), y.tolist(), "pearson_spearman")
    assert scores["pearson"] == pytest.approx(stats.pearsonr(x, y)[0]) and scores["spearman"] == pytest.approx(
        stats.spearmanr(x, y)[0]
    )


def test_the_loss_of_a_regression_is_the_sum_of_squared_errors():
    outputs = SimpleNamespace(logits=torch.tensor([[1.0], [3.0], [-1.0]]))
    batch = {"labels": torch.tensor([0.0, 1.0, -1.0]), "input_ids": torch.zeros(3, 2)}
    assert float(metrics.loss_sum("regression", outputs, batch)) == 1 + 4 + 0


def test_guesses_that_say_nothing_score_zero_without_a_warning():
    assert metrics.label_scores([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], "pearson_spearman")["pearson_spearman"] == 0
    assert metrics.label_scores([0] * 4, [0, 1, 0, 1], "f1")["f1"] == 0
    assert metrics.label_scores([0] * 4, [0, 1, 0, 1], "matthews")["matthews"] == 0


def test_tag_accuracy_is_scikit_learns_on_all_words():
    guesses, truths = [["A", "B", "C"], ["D"]], [["A", "B", "B"], ["D"]]
    flat = sk.accuracy_score(sum(truths, []), sum(guesses, []))  # noqa: RUF017
    assert metrics.tag_accuracy(guesses, truths) == flat == 0.75


@pytest.mark.parametrize(
    ("guess", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("in the tower", ["eiffel tower"], 0, 0.5),
        ("four", ["4", "four"], 1, 1),
        ("", ["x"], 0, 0),
        ("the", ["a"], 1, 0),  # nothing is left of either: SQuAD 1.1 calls them equal, and counts no common word
        ("a b b c", ["b b"], 0, 0.8),  # `a` is an article; bag of words: 2 of 3 and 2 of 2
    ],
)
def test_answers_are_scored_as_squad_does(guess, answers, exact, f1):
    assert metrics.answer_scores([guess], [answers]) == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_answer_scores_are_means_over_questions():
    assert metrics.answer_scores(["x", "y"], [["x"], ["z"]]) == {"exact_match": 0.5, "f1": 0.5}


@pytest.mark.parametrize("seed", range(20))
def test_best_span_is_what_a_search_through_all_spans_finds(seed):
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 12, generator=generator)
    allowed = torch.rand(12, generator=generator) < 0.7
    allowed[0] = True
    spans = [(i, j) for i in range(12) for j in range(i, min(12, i + 4)) if allowed[i] and allowed[j]]
    assert metrics.best_span(start, end, allowed, longest=4) == max(spans, key=lambda s: start[s[0]] + end[s[1]])


def test_losses_are_torchs_means_times_counts():
    torch.manual_seed(0)

    class Out:
        logits = torch.randn(3, 5, 7)
        start_logits, end_logits = torch.randn(2, 3, 5)

    labels = torch.randint(0, 7, (3, 5))
    labels[0, :3] = -100
    batch = {
        "attention_mask": torch.ones(3, 5),
        "labels": labels,
        "input_ids": labels,
        "start_positions": torch.tensor([1, -100, 4]),
        "end_positions": torch.tensor([2, -100, 4]),
    }
    for kind, mean in (
        ("generation", F.cross_entropy(Out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())),
        ("tagging", F.cross_entropy(Out.logits.flatten(0, 1), labels.flatten())),
        (
            "qa",
            (
                F.cross_entropy(Out.start_logits, batch["start_positions"])
                + F.cross_entropy(Out.end_logits, batch["end_positions"])
            )
            / 2,
        ),
    ):
        torch.testing.assert_close(metrics.loss_sum(kind, Out, batch), mean * metrics.answer_count(kind, batch))


# ---------------------------------------------------------------- generated texts

TEXTS = ["the cat sat on the mat today", "a dog was in the park with me", "it rains"]
REFERENCES = [
    ["the cat sat on a mat today", "a cat is on the mat"],
    ["the dog was in the park"],
    ["it is raining", "it rains", "rain falls"],
]
SAMPLES = [Sample("", text, refs) for text, refs in zip(TEXTS, REFERENCES, strict=True)]


def test_bleu_and_chrf_are_sacrebleus_also_with_unequal_numbers_of_references():
    streams = [[r[i] if i < len(r) else "" for r in REFERENCES] for i in range(3)]
    scores = text_scores(SAMPLES)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, streams).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, streams).score)


def lcs(a, b):
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            best[i, j] = best[i - 1, j - 1] + 1 if x == y else max(best[i - 1, j], best[i, j - 1])
    return best[-1, -1]


def test_rouge_l_is_the_longest_common_subsequence():
    """By hand, from the definition: F1 of LCS / length of text and LCS / length of reference, the best reference counts."""

    def f1(text, reference):
        a, b = text.split(), reference.split()
        return 2 * lcs(a, b) / (len(a) + len(b))

    expected = np.mean([max(f1(s.text, r) for r in s.references) for s in SAMPLES])
    assert text_scores(SAMPLES)["rouge_l"] == pytest.approx(expected)


def test_rouge_l_reads_every_script():
    for text in ("привет мир как дела", "hôm nay trời đẹp quá"):
        assert text_scores([Sample("", text, [text])])["rouge_l"] == 1


def test_a_right_text_in_any_references_words_is_fully_right():
    scores = text_scores([Sample("", refs[-1], refs) for refs in REFERENCES])
    assert scores["rouge_l"] == 1 and scores["chrf"] == pytest.approx(100)
    one = text_scores([Sample("", refs[-1], refs[:1]) for refs in REFERENCES])
    assert one["bleu"] < scores["bleu"], "the second reference must count"


def test_nist_weighs_rare_words_and_texts_without_long_n_grams_score_zero():
    words = [" ".join(f"w{i}" for i in range(n, n + 8)) for n in (0, 8, 16)]
    assert text_scores([Sample("", w, [w]) for w in words])["nist"] == pytest.approx(np.log2(24), abs=1e-9)
    assert text_scores([Sample("", "a b", ["a b c d e f"])])["nist"] == 0
    assert text_scores([Sample("", "", ["a b c d e f"])])["bleu"] == 0


def test_texts_without_references_raise():
    for samples in ([], [Sample("", "a", [])]):
        with pytest.raises(ValueError, match="a reference for each"):
            text_scores(samples)


def test_slot_errors_by_hand():
    meaning = "name : anna ; place : da nang ; action : baked cake ; friend : omar ; mood : good"
    right = "in da nang anna baked the cake . omar was there too . it was a lovely day ."
    assert slot_errors(meaning, right) == (0, 6)
    assert slot_errors(meaning, right.replace("omar", "tom")) == (2, 6)  # omar is missing, tom is added
    assert slot_errors(meaning, right.replace("lovely", "awful")) == (2, 6)
    assert slot_errors(meaning, right.replace("in da nang ", "")) == (1, 6)
    assert slot_errors("name : anna ; action : baked cake", right)[0] == 3  # place, friend and mood are added


def test_every_text_of_the_grammar_says_exactly_its_meaning():
    rows = build("data2text")["test"]
    assert not any(slot_errors(m, t)[0] for m, t in zip(rows["meaning_representation"], rows["human_reference"], strict=True))
    texts = list(rows["human_reference"])
    random.Random(0).shuffle(texts)
    wrong = [slot_errors(m, t) for m, t in zip(rows["meaning_representation"], texts, strict=True)]
    assert sum(e for e, _ in wrong) / sum(n for _, n in wrong) > 1, "texts of other meanings are wrong nearly everywhere"


def test_the_loss_of_a_question_does_not_depend_on_the_padding_of_its_batch():
    torch.manual_seed(0)

    class Out:
        start_logits, end_logits = torch.randn(2, 2, 9)

    def loss(rows, width):
        out = type("Out", (), {n: getattr(Out, n)[rows, :width] for n in ("start_logits", "end_logits")})
        mask = (torch.arange(width)[None] < torch.tensor([4, 9])[rows, None]).long()
        places = {f"{n}_positions": torch.tensor([2, 7])[rows] for n in ("start", "end")}
        return metrics.loss_sum("qa", out, {"attention_mask": mask, **places})

    torch.testing.assert_close(loss([0, 1], 9), loss([0], 4) + loss([1], 9))
