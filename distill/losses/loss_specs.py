"""Losses as people write them on a command line:  kd:T=2,a=0.9  hidden:2->6  relations:1->4,heads=8  hard

    NAME[:PART,PART...]     PART is LAYER->LAYER (of the student, of the teacher) or OPTION=NUMBER, or OPTION=FROM..TO

A number FROM..TO moves in a straight line from the first step to the last. `a` is the share of the teacher: the labels have the
weight 1 - a beside it, so a=1..0 is teacher annealing (Clark et al. 2019, BAM). Losses on hidden states have a weight `w`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HARD = "hard"
LOGITS = ["kd", "mse", "reverse_kl", "jsd", "skl", "srkl", "tv"]
"""the names of `losses.LOSSES`, without the import of torch"""
STATES = ("hidden", "cosine", "patient", "transfer")
ATTENTION = ("scores", "attention", "values", "relations")
OPTIONS: dict[str, Any] = {HARD: ("w",)} | dict.fromkeys(LOGITS, ("T", "a")) | dict.fromkeys((*STATES, *ATTENTION), ("w",))
OPTIONS |= {"jsd": ("T", "a", "beta"), "skl": ("T", "a", "alpha"), "srkl": ("T", "a", "alpha"), "mse": ("a",)}
OPTIONS |= {"relations": ("w", "heads")}
DEFAULTS = {"w": 1.0, "T": 2.0, "a": 0.9, "beta": 0.5, "alpha": 0.1}
SCHEDULED = ("w", "a", "T")


@dataclass(frozen=True)
class LossSpec:
    """One loss: its name, its layer pairs (student, teacher), and its numbers at the first and the last step."""

    text: str
    name: str
    pairs: tuple[tuple[int, int], ...]
    numbers: dict[str, tuple[float, float]]

    def number(self, option: str, progress: float) -> float:
        """An option's value, `progress` from 0 to 1."""
        first, last = self.numbers[option] if option in self.numbers else (DEFAULTS[option],) * 2
        return first + (last - first) * progress


def read_losses(texts: Sequence[str]) -> list[LossSpec]:
    """The losses of a run. ValueError for what is unknown, twice, or would have no effect."""
    specs = [_read(text) for text in texts]
    names = [(spec.name, spec.pairs) for spec in specs]
    if not specs:
        raise ValueError("losses: expected at least one, such as kd:T=2,a=0.9")
    if len(set(names)) < len(names):
        raise ValueError(f"losses {' '.join(texts)}: one comes twice")
    soft = [spec for spec in specs if spec.name in LOGITS]
    if len(soft) > 1:
        raise ValueError(f"losses {' '.join(w.text for w in soft)}: expected one on logits, whose `a` shares with the labels")
    if soft and any(spec.name == HARD for spec in specs):
        raise ValueError(f"losses {soft[0].text} and hard: the labels have the weight 1 - a already; leave hard out")
    return specs


def needs_teacher(specs: Sequence[LossSpec]) -> bool:
    """Whether a loss compares logits, which a cache can hold."""
    return any(spec.name in LOGITS for spec in specs)


def _read(text: str) -> LossSpec:
    name, _, rest = text.partition(":")
    if name not in OPTIONS:
        raise ValueError(f"loss {text!r}: {name!r} is unknown; there are {', '.join(OPTIONS)}")
    pairs, numbers = [], {}
    for part in filter(None, rest.split(",")):
        if "->" in part:
            pairs.append(_layer_pair(part, text))
            continue
        option, equals, value = part.partition("=")
        if not equals or option not in OPTIONS[name]:
            raise ValueError(f"loss {text!r}: {part!r}; {name} takes {', '.join(f'{o}=NUMBER' for o in OPTIONS[name])}")
        if option in numbers:
            raise ValueError(f"loss {text!r}: {option} comes twice")
        numbers[option] = _numbers(value, option, text)
    if (name in (*STATES, *ATTENTION)) != bool(pairs):
        wanted = f"layers of student and teacher, such as {name}:2->6" if not pairs else "no layers"
        raise ValueError(f"loss {text!r}: {name} takes {wanted}")
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"loss {text!r}: a pair of layers comes twice")
    if numbers.get("a") == (0, 0):
        raise ValueError(f"loss {text!r}: a=0 gives the teacher the weight 0; that is the loss hard")
    if numbers.get("w") == (0, 0):
        raise ValueError(f"loss {text!r}: w=0 has no effect; leave the loss out")
    return LossSpec(text, name, tuple(pairs), numbers)


def _layer_pair(part: str, text: str) -> tuple[int, int]:
    try:
        student, teacher = (int(number) for number in part.split("->"))
    except ValueError:
        raise ValueError(f"loss {text!r}: {part!r}, expected two layers, such as 2->6") from None
    if min(student, teacher) < 0:
        raise ValueError(f"loss {text!r}: {part!r}, layers count from 0 (the embeddings)")
    return student, teacher


def _numbers(value: str, option: str, text: str) -> tuple[float, float]:
    ends = value.split("..")
    try:
        first, last = float(ends[0]), float(ends[-1])
    except ValueError:
        raise ValueError(f"loss {text!r}: {option}={value!r}, expected a number, or FROM..TO") from None
    if len(ends) > 2 or (len(ends) == 2 and option not in SCHEDULED):
        raise ValueError(f"loss {text!r}: {option}={value!r}, expected one number")
    for number in (first, last):
        fits = {"a": 0 <= number <= 1, "T": 0 < number < 1e6, "w": 0 <= number < 1e9, "heads": number >= 1 and number % 1 == 0}
        fits |= {"beta": 0 < number < 1, "alpha": 0 <= number < 1}
        if not fits.get(option, math.isfinite(number)):
            raise ValueError(f"loss {text!r}: {option}={number:g} is outside what makes sense")
    return first, last
