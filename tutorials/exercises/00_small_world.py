"""Exercises of lesson 00. Write the functions, then run `python -m tutorials check 00`."""


def rows_needed(accuracy: float, gap: float) -> int:
    """★ The smallest number of test rows for which three standard errors of `accuracy` are not larger than `gap`.

    One line. The standard error is sqrt(a (1 - a) / n).
    """
    raise NotImplementedError("rows_needed")


def sentiment_rule(text: str) -> int:
    """★★ 1 for a good day, 0 for a bad one, from the words of a story alone, as well as any rule can.

    About six lines. `GOOD` and `BAD` of training.data.small_world are the adjectives; ` . ` ends a sentence.
    """
    raise NotImplementedError("sentiment_rule")


def ceiling_with_flipped_labels(posteriors: list[float], flip: float) -> float:
    """★★ The ceiling of a two-class test set after an annotator flipped each label with probability `flip`.

    `posteriors` holds p(label = 1 | text) for each row, before the flipping. About three lines.
    """
    raise NotImplementedError("ceiling_with_flipped_labels")


def zero_shot(texts: list[str]) -> list[int]:
    """★★★ 1 for a good day, 0 for a bad one, with the committed masked-word model and no training at all.

    About ten lines. Load `BertForMaskedLM` from training.models.base_models.SMALL["encoder"], as lesson 00 does.
    """
    raise NotImplementedError("zero_shot")
