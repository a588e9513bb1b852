"""The small world: exact posteriors, honest ceilings, tasks that are what they say, tokenizers that survive a reload."""

import itertools
import json
import math
import random
import zlib
from collections import Counter

import pytest
from transformers import AutoTokenizer

from training.data import small_world as world
from training.data import world_tasks
from training.data.tokenizers import decoder_tokenizer, encoder_tokenizer
from training.models.base_models import SMALL


def passages(count=4000, seed=0):
    rng = random.Random(seed)
    return [world.sample_passage(rng) for _ in range(count)]


def test_every_word_is_in_the_vocabulary_and_texts_fit_the_models():
    known, rng = set(world.vocabulary()), random.Random(1)
    for p in passages(2000):
        words = [*p.words, *world.remark(p, rng).split()]
        assert set(words) <= known and len(words) + 3 <= 96


@pytest.mark.parametrize("posterior", ["topic_posterior", "polarity_posterior"])
def test_posteriors_are_calibrated(posterior):
    """Of all passages to which p is given, a share p has the label: within 4 standard errors in every bin."""
    label = {"topic_posterior": "topic", "polarity_posterior": "polarity"}[posterior]
    bins: dict[float, list[bool]] = {}
    for p in passages():
        for value, probability in enumerate(getattr(p, posterior)()):
            bins.setdefault(round(probability, 6), []).append(getattr(p, label) == value)
    for probability, hits in bins.items():
        error = math.sqrt(max(probability * (1 - probability), 1e-4) / len(hits))
        assert abs(sum(hits) / len(hits) - probability) < 4 * error + 1 / len(hits), (probability, len(hits))


def test_a_reader_of_the_words_alone_finds_the_votes_and_signs():
    """The posterior may use only what stands in the text: read events and clauses back from the words."""
    verb_topic = {v: i for i, t in enumerate(world.TOPICS) for v in world.VERBS[t]}
    for p in passages(500):
        votes = [verb_topic[w] for w in p.words if w in verb_topic]
        signs = []
        for thing in (i for i, w in enumerate(p.words) if w in world.THINGS and p.words[i + 1] == "was"):
            clause = list(itertools.takewhile(lambda w: w != ".", p.words[thing + 2 :]))
            signs.append((clause[-1] in world.GOOD) ^ ("not" in clause))
        assert sorted(votes) == sorted(p.votes) and sorted(signs) == sorted(map(bool, p.signs))


def test_either_names_are_told_apart_by_context_only():
    kinds = {n: Counter() for n in world.EITHER}
    for p in passages():
        for word, tag in zip(p.words, p.tags, strict=True):
            if word in kinds:
                kinds[word][tag] += 1
    assert all(set(c) == {"B-PER", "B-LOC"} for c in kinds.values())


@pytest.mark.parametrize("task", world_tasks.WORLD_TASKS)
def test_tasks_repeat_by_seed_and_share_no_text_between_splits(task):
    first, again, other = world_tasks.build(task), world_tasks.build(task), world_tasks.build(task, seed=1)
    assert first["train"].to_list() == again["train"].to_list() != other["train"].to_list()
    assert first["test"].to_list() == other["test"].to_list()
    column = first["train"].column_names[0]
    texts = [set(map(str, first[s][column])) for s in ("train", "validation", "test")]
    assert not texts[0] & texts[2] and not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("task", "count", "checksum"),
    [
        ("topic", 200, 922742061),
        ("sentiment", 100, 765768640),
        ("nli", 2000, 57798740),
        ("tagging", 40, 1399669962),
        ("qa", 500, 3890258922),
        ("data2text", 1982, 995092907),  # 2000, without the meanings that are held out
    ],
)
def test_the_examples_are_those_of_all_published_results(task, count, checksum):
    """Any change of the generator, even one that keeps every probability, makes older results incomparable."""
    splits = world_tasks.build(task)
    examples = [
        {name: value for name, value in example.items() if not isinstance(value, float)}  # a logarithm may differ by platform
        for split in splits.values()
        for example in split
    ]
    assert len(splits["train"]) == count
    assert zlib.crc32(json.dumps(examples).encode()) == checksum


def read_topic(text: str) -> list[float]:
    """p(topic | text), from the words alone."""
    words = text.split()
    votes = [sum(v in words for v in world.VERBS[t]) for t in world.TOPICS]
    weights = [(world.RHO / ((1 - world.RHO) / 3)) ** v for v in votes]
    return [w / sum(weights) for w in weights]


def read_polarity(text: str) -> list[float]:
    score = 0
    for clause in text.split(" . "):
        words = clause.removesuffix(" .").split()
        if len(words) > 2 and words[0] == "the" and words[2] == "was":
            score += 1 if (words[-1] in world.GOOD) ^ ("not" in words) else -1
    good = 1 / (1 + ((1 - world.Q) / world.Q) ** score)
    return [1 - good, good]


def read_claim(row: dict) -> tuple[float, int] | None:
    """p(the hypothesis holds | the premise), and how many others the writer could have said; None for a fact."""
    text = row["hypothesis"].split()
    if "about" in text:
        return read_topic(row["premise"])[world.TOPICS.index(text[-2])], 3
    return (read_polarity(row["premise"])[world.VERDICTS.index(text[3])], 1) if "day" in text else None


def read_nli(row: dict) -> int:
    claim, text = read_claim(row), row["hypothesis"].split()
    if claim is not None:
        return 0 if claim[0] > (1 - claim[0]) / claim[1] else 2
    if text[0] not in row["premise"].split():
        return 1
    return 0 if f"in {' '.join(text[3:-1])} " in row["premise"] + " " else 2


READERS = {
    "topic": lambda row: max(range(4), key=read_topic(row["sentence"]).__getitem__),
    "sentiment": lambda row: int(read_polarity(row["sentence"])[1] > 0.5),
    "nli": read_nli,
}


@pytest.mark.parametrize("task", READERS)
def test_a_reader_by_rule_reaches_the_ceiling_and_no_more(task):
    """The rule reads only the text. Its accuracy is the computed ceiling, within 3 standard errors."""
    rng = random.Random(0)
    rows = [world_tasks.WORLD_TASKS[task].make_row(rng) for _ in range(3000)]
    best = sum(row["bayes"] for row in rows) / len(rows)
    accuracy = sum(READERS[task](row) == row["label"] for row in rows) / len(rows)
    assert best < 1 and abs(accuracy - best) < 3 * math.sqrt(best * (1 - best) / len(rows)), (accuracy, best)


def test_every_rows_ceiling_is_bayes_rule():
    rng = random.Random(1)
    for _ in range(300):
        row = world_tasks.WORLD_TASKS["nli"].make_row(rng)
        p, others = read_claim(row) or (1.0, 1)  # a fact is certain
        assert row["bayes"] == pytest.approx(max(p, (1 - p) / others) / (p + (1 - p) / others))
        row = world_tasks.WORLD_TASKS["topic"].make_row(rng)
        assert row["bayes"] == pytest.approx(max(read_topic(row["sentence"])))
        row = world_tasks.WORLD_TASKS["sentiment"].make_row(rng)
        assert row["bayes"] == pytest.approx(max(read_polarity(row["sentence"])))


def test_nli_labels_follow_from_the_text_and_are_balanced():
    rows = world_tasks.build("nli")["test"]
    counts = Counter(rows["label"])
    assert all(0.2 < counts[label] / len(rows) < 0.45 for label in range(3))
    for row in rows:
        if " was in " not in row["hypothesis"]:
            continue
        name, _, place = row["hypothesis"].removesuffix(" .").partition(" was in ")
        named = name in row["premise"].split()
        there = f"in {place} " in row["premise"] + " "
        assert row["label"] == (1 if not named else 0 if there else 2), row


def test_answers_stand_where_they_are_said_to_stand():
    for row in world_tasks.build("qa")["test"]:
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(text)] == text
        if row["question"].startswith("who"):
            verb = row["question"].split()[1]
            assert row["context"][start + len(text) :].startswith(f" {verb} ")


def test_data2text_log_probabilities_sum_to_one():
    """For one meaning, the texts that the grammar can say have probabilities that add up to one."""
    slots = {"name": "anna", "place": "oslo", "action": "baked cake", "friend": "omar", "mood": "good"}
    rng, visited = random.Random(0), {}
    for _ in range(6000):
        text, log_p = world_tasks.realise(slots, rng)
        assert visited.setdefault(text, log_p) == pytest.approx(log_p)
    assert sum(map(math.exp, visited.values())) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("make", [encoder_tokenizer, decoder_tokenizer])
def test_tokenizers_survive_a_reload(make, tmp_path):
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    pair = ("anna is in oslo .", "where is it ?")
    for arguments in ((pair[0],), pair):
        before, after = tokenizer(*arguments), again(*arguments)
        assert dict(before) == dict(after)
    if make is encoder_tokenizer:
        assert again(*pair)["token_type_ids"] == [0] * 7 + [1] * 5
        assert again.convert_ids_to_tokens(again(*pair)["input_ids"])[6] == "[SEP]"
    assert again.decode(again("anna is in oslo .", add_special_tokens=False)["input_ids"]) == "anna is in oslo ."


@pytest.mark.parametrize("kind", SMALL)
def test_the_committed_bases_are_small_and_match_the_world(kind):
    folder = SMALL[kind]
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1_000_000
    made = (encoder_tokenizer if kind == "encoder" else decoder_tokenizer)()
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == made.get_vocab()
