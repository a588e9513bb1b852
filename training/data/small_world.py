"""The small world: a generated language whose right answers are known exactly.

A *passage* is a very small story. Two hidden things shape it: a topic t (one of four) and a polarity z (good or bad).
Every event names a topic, which is t with probability RHO; every clause has a sign, which is z with probability Q.
So the exact posteriors follow from Bayes' rule, and with them the best accuracy that any model can reach:

    p(t | events)  is proportional to  prod_i (RHO if v_i = t else (1 - RHO) / 3)
    p(z | clauses) is proportional to  prod_j (Q   if e_j = z else 1 - Q)

Words are plain English; a few names (`jordan`, `paris`) are a person or a place by context only.
The idea of simulating a world and then putting it into words is that of bAbI (Weston et al. 2015).
"""

import math
import random
from dataclasses import dataclass

TOPICS = ("music", "sport", "food", "science")
VERBS = {
    "music": ("played", "sang", "tuned", "composed", "practised", "recorded"),
    "sport": ("kicked", "threw", "caught", "won", "chased", "lost"),
    "food": ("cooked", "tasted", "baked", "fried", "served", "ate"),
    "science": ("measured", "tested", "studied", "proved", "counted", "observed"),
}
NOUNS = {
    "music": ("violin", "song", "piano", "drum", "melody", "flute"),
    "sport": ("ball", "match", "race", "goal", "medal", "game"),
    "food": ("soup", "bread", "rice", "cake", "dinner", "apple"),
    "science": ("star", "atom", "theory", "planet", "magnet", "cell"),
}
PEOPLE = ("lan", "minh", "mai", "nam", "linh", "anna", "omar", "lucas", "nina", "peter", "sara", "tom", "ines", "kofi")
PLACES = ("hanoi", "hue", "da nang", "ha long", "oslo", "lima", "cairo", "kyoto", "new york", "cape town")
EITHER = ("jordan", "florence", "paris", "sydney", "austin", "chelsea")
THINGS = ("day", "evening", "room", "weather", "crowd", "light", "street", "road", "garden", "house")
GOOD = ("good", "great", "lovely", "bright", "warm", "gentle", "sweet", "calm")
BAD = ("bad", "awful", "sad", "dull", "cold", "rough", "bitter", "gloomy")
VERDICTS = ("bad", "good")

RHO, Q, NEGATION = 0.75, 0.92, 0.1
EVENTS, CLAUSES, CAST = 3, 5, 3


@dataclass(frozen=True)
class Passage:
    """One story: its words, their tags, the hidden causes, and where the answers stand (word positions, end exclusive)."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    topic: int
    polarity: int
    votes: tuple[int, ...]
    signs: tuple[int, ...]
    cast: tuple[str, ...]
    place: str
    place_span: tuple[int, int]
    actors: dict[str, tuple[int, int]]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def topic_posterior(self) -> list[float]:
        """p(topic | text), exact, four numbers."""
        other = (1 - RHO) / (len(TOPICS) - 1)
        return _normalise([math.prod(RHO if v == t else other for v in self.votes) for t in range(len(TOPICS))])

    def polarity_posterior(self) -> list[float]:
        """p(polarity | text), exact: [bad, good]."""
        return _normalise([math.prod(Q if e == z else 1 - Q for e in self.signs) for z in (0, 1)])


def sample_passage(rng: random.Random) -> Passage:
    """Draw one passage from the world."""
    topic, polarity = rng.randrange(len(TOPICS)), rng.randrange(2)
    names: list[str] = rng.sample(PEOPLE + EITHER, CAST)
    place = rng.choice([p for p in PLACES + EITHER if p not in names])
    votes = [_other_than(topic, len(TOPICS), rng) if rng.random() > RHO else topic for _ in range(EVENTS)]
    signs = [1 - polarity if rng.random() > Q else polarity for _ in range(CLAUSES)]

    sentences = [_place_sentence(names[0], place, rng), _meeting(rng.sample(names, 2))]
    sentences += _events(names, votes, rng)
    things = rng.sample(THINGS, CLAUSES)
    sentences += [_clause(thing, sign, rng) for thing, sign in zip(things, signs, strict=True)]
    rng.shuffle(sentences)
    return _join(sentences, topic, polarity, tuple(votes), tuple(signs), tuple(names), place)


def remark(passage: Passage, rng: random.Random) -> str:
    """A second piece of text about the passage, as texts on the web have them: a verdict, a title, a question answered.

    Pretraining reads these. They tell the hidden cause, as a reviewer's verdict does; no label set is ever read in pretraining.
    """
    kind = rng.choice(("verdict", "about", "where", "who", "fact"))
    if kind == "verdict":
        return verdict(passage.polarity) if rng.random() < 0.5 else _long_verdict(passage.polarity, rng)
    if kind == "about":
        return about(passage.topic)
    if kind == "where":
        return f"{WHERE} {passage.place} ."
    if kind == "fact":
        return fact(rng.choice(passage.cast), passage.place)
    verb = rng.choice(sorted(passage.actors))
    return f"{who(verb)} {passage.words[passage.actors[verb][0]]} ."


WHERE = "where is it ?"


def who(verb: str) -> str:
    return f"who {verb} ?"


def verdict(polarity: int) -> str:
    return f"it was a {VERDICTS[polarity]} day ."


def _long_verdict(polarity: int, rng: random.Random) -> str:
    first, second = rng.sample((BAD, GOOD)[polarity], 2)
    return f"it was a {first} and {second} day ."


def about(topic: int) -> str:
    return f"it is about {TOPICS[topic]} ."


def fact(name: str, place: str) -> str:
    return f"{name} was in {place} ."


def vocabulary() -> list[str]:
    """Every word of the world, sorted: the word-level tokenizer's vocabulary."""
    phrases = [*TOPICS, *PEOPLE, *PLACES, *EITHER, *THINGS, *GOOD, *BAD]
    phrases += [w for group in (VERBS, NOUNS) for words in group.values() for w in words]
    phrases += [
        "is in was waiting then met the not very and it a about where who ? . : ; => name place action friend mood there too"
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def content_words() -> set[str]:
    """The words that carry meaning (those that pretraining masks)."""
    phrases = [*TOPICS, *PEOPLE, *PLACES, *EITHER, *GOOD, *BAD]
    phrases += [w for group in (VERBS, NOUNS) for words in group.values() for w in words]
    return {word for phrase in phrases for word in phrase.split()}


# ---------------------------------------------------------------- sentences: lists of (word, tag, mark)

Sentence = list[tuple[str, str, str]]


def _plain(text: str) -> Sentence:
    return [(word, "O", "") for word in text.split()]


def _person(name: str, mark: str = "") -> Sentence:
    return [(name, "B-PER", mark)]


def _location(place: str) -> Sentence:
    return [(word, "I-LOC" if i else "B-LOC", "place") for i, word in enumerate(place.split())]


def _place_sentence(name: str, place: str, rng: random.Random) -> Sentence:
    if rng.random() < 0.5:
        return _person(name) + _plain("is in") + _location(place) + _plain(".")
    return _plain("in") + _location(place) + _person(name) + _plain("was waiting .")


def _meeting(pair: list[str]) -> Sentence:
    return _plain("then") + _person(pair[0]) + _plain("met") + _person(pair[1]) + _plain(".")


def _events(names: list[str], votes: list[int], rng: random.Random) -> list[Sentence]:
    sentences, used = [], set()
    for vote in votes:
        verb = rng.choice([v for v in VERBS[TOPICS[vote]] if v not in used])
        used.add(verb)
        noun = rng.choice(NOUNS[TOPICS[vote]])
        sentences.append(_person(rng.choice(names), f"actor:{verb}") + _plain(f"{verb} the {noun} ."))
    return sentences


def _clause(thing: str, sign: int, rng: random.Random) -> Sentence:
    negated = rng.random() < NEGATION
    adjectives = rng.sample((BAD, GOOD)[sign ^ negated], 2)
    manner = rng.choices(("{0}", "very {0}", "{0} and {1}"), (5, 1, 4))[0]
    return _plain(f"the {thing} was {'not ' * negated}{manner.format(*adjectives)} .")


def _join(sentences, topic, polarity, votes, signs, cast, place) -> Passage:
    pieces = [piece for sentence in sentences for piece in sentence]
    marks = [mark for _, _, mark in pieces]
    start = marks.index("place")
    actors = {m.removeprefix("actor:"): (i, i + 1) for i, m in enumerate(marks) if m.startswith("actor:")}
    words, tags = tuple(w for w, _, _ in pieces), tuple(t for _, t, _ in pieces)
    span = (start, start + len(place.split()))
    return Passage(words, tags, topic, polarity, votes, signs, cast, place, span, actors)


def _other_than(index: int, count: int, rng: random.Random) -> int:
    return rng.choice([i for i in range(count) if i != index])


def _normalise(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [w / total for w in weights]
