"""Six tasks of the small world, each with the exact ceiling of its test set.

Columns are those of real data sets (GLUE, SQuAD, E2E), so one loader serves both. `ceiling` is the best expected metric on
these very rows: the Bayes accuracy E[max p(y | x)] for labels, 1.0 where the answer is certain, and for data-to-text the
grammar's entropy, in nats per reference token, which no model's loss can beat on average.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from training.data import small_world as world

if TYPE_CHECKING:  # `datasets` takes seconds, and the names of the tasks are read for every `--help`
    from datasets import Dataset, DatasetDict

TAGS = ("O", "B-PER", "B-LOC", "I-LOC")
VALIDATION_ROWS, TEST_ROWS = 500, 1000


@dataclass(frozen=True)
class WorldTask:
    make_row: Callable[[random.Random], dict]
    train_rows: int


def build(task: str, seed: int = 0, train_rows: int | None = None) -> "DatasetDict":
    """The task's splits (train, validation, test); `seed` draws another training set, the test set stays the same."""
    from datasets import DatasetDict

    train = _drawn(task, f"train {seed}", train_rows or WORLD_TASKS[task].train_rows)
    return DatasetDict(
        {"train": train, "validation": _drawn(task, "validation", VALIDATION_ROWS), "test": _drawn(task, "test", TEST_ROWS)}
    )


@lru_cache(maxsize=64)  # the runs of a comparison ask for the same rows, and a Dataset is not changed in place
def _drawn(task: str, split: str, count: int) -> "Dataset":
    from datasets import Dataset

    rng = random.Random(f"{task} {split}")
    rows = [WORLD_TASKS[task].make_row(rng) for _ in range(count)]
    if task == "data2text" and split.startswith("train"):  # a meaning that is trained on must not be tested
        held_out = (_drawn(task, "validation", VALIDATION_ROWS), _drawn(task, "test", TEST_ROWS))
        known = {meaning for part in held_out for meaning in part[:]["meaning_representation"]}
        rows = [row for row in rows if row["meaning_representation"] not in known]
    return Dataset.from_list(rows)


def _topic(rng: random.Random) -> dict:
    p = world.sample_passage(rng)
    return {"sentence": p.text, "label": p.topic, "bayes": max(p.topic_posterior())}


def _sentiment(rng: random.Random) -> dict:
    p = world.sample_passage(rng)
    return {"sentence": p.text, "label": p.polarity, "bayes": max(p.polarity_posterior())}


def _nli(rng: random.Random) -> dict:
    """Entailment 0, neutral 1, contradiction 2. The hypothesis is about the topic, the day, or who was where."""
    p = world.sample_passage(rng)
    kind = rng.choice(("about", "verdict", "fact", "fact"))
    if kind == "fact":
        return {"premise": p.text, **_fact(p, rng), "bayes": 1.0}
    posterior, truth, say = {
        "about": (p.topic_posterior(), p.topic, world.about),
        "verdict": (p.polarity_posterior(), p.polarity, world.verdict),
    }[kind]
    label = truth if rng.random() < 0.5 else rng.choice([i for i in range(len(posterior)) if i != truth])
    yes = 0.5 * posterior[label]  # p(the writer said this and it holds), against the ways of saying it falsely
    no = 0.5 * (1 - posterior[label]) / (len(posterior) - 1)
    return {
        "premise": p.text,
        "hypothesis": say(label),
        "label": 0 if label == truth else 2,
        "bayes": max(yes, no) / (yes + no),
    }


def _fact(p: world.Passage, rng: random.Random) -> dict:
    """'NAME was in PLACE': neutral when the story never names that person."""
    names = [n for n in (*world.PEOPLE, *world.EITHER) if n not in p.words]
    places = [q for q in (*world.PLACES, *world.EITHER) if q != p.place and q not in p.cast]
    label = rng.choice((0, 1, 1, 2))
    name = rng.choice(names if label == 1 else [n for n in p.cast if n in p.words])
    wrong = label == 2 or (label == 1 and rng.random() < 0.5)
    place = rng.choice([q for q in places if q != name]) if wrong else p.place
    return {"hypothesis": world.fact(name, place), "label": label}


def _tagging(rng: random.Random) -> dict:
    p = world.sample_passage(rng)
    return {"tokens": list(p.words), "tags": [TAGS.index(t) for t in p.tags], "bayes": 1.0}


def _qa(rng: random.Random) -> dict:
    """SQuAD's columns: `answer_start` counts characters."""
    p = world.sample_passage(rng)
    verb = rng.choice(sorted(p.actors))
    question, (start, stop) = rng.choice(((world.WHERE, p.place_span), (world.who(verb), p.actors[verb])))
    begin = len(" ".join(p.words[:start])) + (start > 0)
    answer = {"text": [" ".join(p.words[start:stop])], "answer_start": [begin]}
    return {"context": p.text, "question": question, "answers": answer, "bayes": 1.0}


def _data2text(rng: random.Random) -> dict:
    """A meaning and one text for it, with the exact log-probability that the grammar gives the text."""
    topic = rng.choice(world.TOPICS)
    slots = {
        "name": rng.choice(world.PEOPLE + world.EITHER),
        "place": rng.choice(world.PLACES) if rng.random() < 0.8 else None,
        "action": f"{rng.choice(world.VERBS[topic])} {rng.choice(world.NOUNS[topic])}",
        "friend": rng.choice(world.PEOPLE) if rng.random() < 0.5 else None,
        "mood": rng.choice(world.VERDICTS) if rng.random() < 0.8 else None,
    }
    if slots["friend"] == slots["name"]:
        slots["friend"] = None
    meaning = " ; ".join(f"{k} : {v}" for k, v in slots.items() if v)
    text, log_p = realise(slots, rng)
    return {"meaning_representation": meaning, "human_reference": text, "log_p": log_p}


def realise(slots: dict, rng: random.Random) -> tuple[str, float]:
    """A text for these facts (name, place, action, friend, mood; None where there is none), and its exact log-probability."""
    log_ps: list[float] = []
    pick = partial(_pick, rng, log_ps)
    verb, noun = slots["action"].split()
    core = f"{slots['name']} {verb} the {noun}"
    opening = (
        pick({f"{core} in {slots['place']} .": 0.6, f"in {slots['place']} {core} .": 0.4}) if slots["place"] else f"{core} ."
    )
    rest = []
    if slots["friend"]:
        friend = slots["friend"]
        rest.append(pick({f"{friend} was there too .": 0.7, f"then {slots['name']} met {friend} .": 0.3}))
    if slots["mood"]:
        adjectives = world.GOOD if slots["mood"] == "good" else world.BAD
        word = pick({a: 1 / len(adjectives) for a in adjectives})
        rest.append(pick({f"it was a {word} day .": 0.7, f"the day was {word} .": 0.3}))
    if len(rest) == 2 and pick({"friend first": 0.5, "mood first": 0.5}) == "mood first":
        rest.reverse()
    return " ".join([opening, *rest]), sum(log_ps)


def _pick(rng: random.Random, log_ps: list[float], options: dict[str, float]) -> str:
    """One of the options by its probability, whose logarithm joins `log_ps`."""
    option = rng.choices(list(options), list(options.values()))[0]
    log_ps.append(math.log(options[option]))
    return option


def slot_errors(meaning: str, text: str) -> tuple[int, int]:
    """(errors, facts): facts of the meaning that the text lacks, and facts of the text that the meaning lacks.

    Summed over texts, errors / facts is the slot error rate (Wen et al. 2015, section 4.1). A wrong value counts twice: the
    right one is missing and the wrong one is added. The world's words say exactly one thing each, so no judge is needed.
    """
    wanted, stated = _facts_of_meaning(meaning), _facts_of_text(text)
    return len(wanted ^ stated), len(wanted)


def _facts_of_meaning(meaning: str) -> set[tuple[str, str]]:
    slots = dict(part.split(" : ") for part in meaning.split(" ; "))
    verb, noun = slots["action"].split()
    facts = {("person", slots["name"]), ("verb", verb), ("noun", noun)}
    facts |= {("person", slots["friend"])} if "friend" in slots else set()
    return facts | {(kind, slots[kind]) for kind in ("place", "mood") if kind in slots}


def _facts_of_text(text: str) -> set[tuple[str, str]]:
    words = text.split()
    known: dict[str, tuple[str, str]] = {name: ("person", name) for name in world.PEOPLE + world.EITHER}
    known |= {verb: ("verb", verb) for verbs in world.VERBS.values() for verb in verbs}
    known |= {noun: ("noun", noun) for nouns in world.NOUNS.values() for noun in nouns}
    known |= {word: ("mood", mood) for mood, group in (("good", world.GOOD), ("bad", world.BAD)) for word in group}
    return {known[w] for w in words if w in known} | {("place", p) for p in world.PLACES if f" {p} " in f" {text} "}


WORLD_TASKS = {
    "topic": WorldTask(_topic, 200),
    "sentiment": WorldTask(_sentiment, 100),
    "nli": WorldTask(_nli, 2000),
    "tagging": WorldTask(_tagging, 40),
    "qa": WorldTask(_qa, 500),
    "data2text": WorldTask(_data2text, 2000),
}


def ceiling(task: str, rows: "Dataset") -> float:
    """The best expected metric on these rows (data2text: the floor of the loss, nats per reference token with its end)."""
    if task == "data2text":
        tokens = sum(len(text.split()) + 1 for text in rows["human_reference"])
        return -sum(rows["log_p"]) / tokens
    return sum(rows["bayes"]) / len(rows)
