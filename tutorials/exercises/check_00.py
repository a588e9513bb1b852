"""The checks of lesson 00's exercises, for your answers and for ours."""

import math

import transformers

from training.data.world_tasks import build, ceiling

transformers.utils.logging.set_verbosity_error()  # its report about weights that a masked-word model leaves out
transformers.utils.logging.disable_progress_bar()


def check_rows_needed(answers) -> None:
    for accuracy, gap in ((0.5, 0.15), (0.9, 0.01), (0.86, 0.03)):
        n = answers.rows_needed(accuracy, gap)
        error = 3 * math.sqrt(accuracy * (1 - accuracy) / n)
        assert error <= gap + 1e-9, f"{n} rows: three standard errors are {error:.4f}, more than {gap}"
        error = 3 * math.sqrt(accuracy * (1 - accuracy) / (n - 1))
        assert error > gap - 1e-9, f"{n - 1} rows would do as well"


def check_sentiment_rule(answers) -> None:
    rows = build("sentiment")["test"]
    best = ceiling("sentiment", rows)
    right = [answers.sentiment_rule(text) == label for text, label in zip(rows["sentence"], rows["label"], strict=True)]
    accuracy = sum(right) / len(right)
    margin = 3 * math.sqrt(best * (1 - best) / len(right))
    assert accuracy > best - margin, (
        f"accuracy {accuracy:.3f}, ceiling {best:.3f}: what does 'not' do? How many votes has a clause?"
    )


def check_ceiling_with_flipped_labels(answers) -> None:
    for posteriors, flip, expected in (
        ([1.0, 0.0], 0.0, 1.0),
        ([1.0, 0.0], 0.1, 0.9),
        ([0.9, 0.2, 0.5], 0.5, 0.5),
        ([0.9, 0.2], 0.25, 0.675),
    ):
        found = answers.ceiling_with_flipped_labels(posteriors, flip)
        assert math.isclose(found, expected), f"posteriors {posteriors}, flip {flip}: {found}, expected {expected}"


def check_zero_shot(answers) -> None:
    rows = build("sentiment")["test"]
    texts, labels = rows["sentence"][:300], rows["label"][:300]
    guesses = answers.zero_shot(list(texts))
    accuracy = sum(g == y for g, y in zip(guesses, labels, strict=True)) / len(labels)
    assert accuracy > 0.85, f"accuracy {accuracy:.3f}: give the verdict as the second text, and compare two words at [MASK]"
