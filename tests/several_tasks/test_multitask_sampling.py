"""Which task is sampled, how often, and which of its examples: closed forms, chi-square, resume."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from multitask.data.sampling import RowStream, TaskSampler, task_probabilities

SIZES = {"big": 6000, "middle": 600, "small": 60}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [6000, 600, 60]),
        ({"kind": "equal"}, [1, 1, 1]),
        ({"kind": "temperature", "temperature": 1.0}, [6000, 600, 60]),
        ({"kind": "temperature", "temperature": 2.0}, [6000**0.5, 600**0.5, 60**0.5]),
        ({"kind": "temperature", "temperature": math.inf}, [1, 1, 1]),
        ({"kind": "proportional", "cap": 600}, [600, 600, 60]),
        ({"kind": "temperature", "temperature": 2.0, "cap": 240}, [240**0.5, 240**0.5, 60**0.5]),
        ({"kind": "annealed", "progress": 0.0}, [6000, 600, 60]),
        ({"kind": "annealed", "progress": 1.0}, [6000**0.2, 600**0.2, 60**0.2]),
    ],
)
def test_the_chances_are_the_formulas(options, wanted):
    result = list(task_probabilities(SIZES, **options).values())
    assert result == pytest.approx([w / sum(wanted) for w in wanted])


def test_no_size_overflows():
    assert list(task_probabilities({"a": 3 * 10**200, "b": 10**200}).values()) == pytest.approx([0.75, 0.25])


def test_defect_1_temperature_flattens_and_one_is_proportional():
    """The text's softmax(size^T) gives one task everything at T = 1, and sharpens as T grows."""
    sizes = {"a": 100, "b": 200, "c": 50}
    assert [round(math.exp(size - 200), 6) for size in (100, 200, 50)] == [0, 1, 0]
    by_t = [list(task_probabilities(sizes, "temperature", T).values()) for T in (1.0, 2.0, 5.0, math.inf)]
    assert by_t[0] == pytest.approx([2 / 7, 4 / 7, 1 / 7]) and by_t[-1] == pytest.approx([1 / 3] * 3)
    entropies = [-sum(p * math.log(p) for p in chances) for chances in by_t]
    assert entropies == sorted(entropies)
    capped = task_probabilities({"a": 100, "b": 10**6}, "temperature", 2.0, cap=400)  # the cap comes before the temperature
    assert capped["b"] / capped["a"] == pytest.approx(2)


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 10**12), min_size=1, max_size=6), st.floats(1, 100))
def test_chances_sum_to_one_and_keep_the_order_of_sizes(sizes, temperature):
    result = task_probabilities(sizes, "temperature", temperature)
    assert sum(result.values()) == pytest.approx(1)
    ordered = sorted(sizes, key=sizes.__getitem__)
    assert all(result[a] <= result[b] + 1e-12 for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize("kind", ["proportional", "temperature", "equal"])
def test_frequencies_pass_a_chi_square_test(kind):
    sampler = TaskSampler(SIZES, kind, temperature=3.0, seed=1)
    draws = [sampler.sample_task() for _ in range(4000)]
    chances = sampler.probabilities()
    assert chisquare([draws.count(t) for t in SIZES], [4000 * chances[t] for t in SIZES]).pvalue > 1e-3
    counts = [sampler.sample_counts(32) for _ in range(500)]
    assert all(sum(c.values()) == 32 for c in counts)
    assert chisquare([sum(c[t] for c in counts) for t in SIZES], [16000 * chances[t] for t in SIZES]).pvalue > 1e-3


def test_annealed_sampling_moves_towards_equal():
    sampler = TaskSampler(SIZES, "annealed", draws=1000, seed=0)
    first = [sampler.sample_task() for _ in range(300)]
    _ = [sampler.sample_task() for _ in range(400)]
    last = [sampler.sample_task() for _ in range(300)]
    assert last.count("small") > 5 * max(1, first.count("small")) and last.count("big") < first.count("big")


@pytest.mark.parametrize(("draws", "powers"), [(5, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]), (1, [1.0, 0.2]), (2, [1.0, 0.2, 0.2])])
def test_annealing_ends_with_the_last_of_its_draws(draws, powers):
    """Stickland & Murray: α = 1 - 0.8 (e - 1) / (E - 1) is 1 for draw 1 of E and 0.2 for draw E; it stays there afterwards."""
    sampler = TaskSampler(SIZES, "annealed", draws=draws)
    for power in powers:
        wanted = [size**power for size in SIZES.values()]
        assert list(sampler.probabilities().values()) == pytest.approx([w / sum(wanted) for w in wanted])
        sampler.sample_task()


def test_a_resumed_sampler_draws_what_the_first_one_would_have():
    for kind in ("temperature", "annealed"):
        whole = TaskSampler(SIZES, kind, temperature=2.0, draws=60, seed=3)
        wanted = [whole.sample_task() for _ in range(60)]
        first = TaskSampler(SIZES, kind, temperature=2.0, draws=60, seed=3)
        begun = [first.sample_task() for _ in range(25)]
        rest = TaskSampler(SIZES, kind, temperature=2.0, draws=60, seed=3)
        rest.load_state_dict(first.state_dict())
        assert begun + [rest.sample_task() for _ in range(35)] == wanted
    other = TaskSampler(SIZES | {"small": 61})
    with pytest.raises(ValueError, match=r"had .* rows when this was saved"):
        other.load_state_dict(whole.state_dict())


@given(size=st.integers(1, 40), takes=st.lists(st.integers(0, 50), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_stream_gives_every_row_once_before_any_twice(size, takes, seed):
    stream = RowStream(size, seed)
    rows = [row for count in takes for row in stream.take(count)]
    assert len(rows) == sum(takes)
    for start in range(0, len(rows) - size + 1, size):
        assert sorted(rows[start : start + size]) == list(range(size))
    again = RowStream(size, seed)
    again.load_state_dict({"taken": takes[0], "size": size})
    assert [row for count in takes[1:] for row in again.take(count)] == rows[takes[0] :]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "random"}, "there are proportional"),
        ({"temperature": 0.5}, "temperature=0.5"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"cap": 0}, "cap=0"),
        ({"progress": 2.0}, "progress"),
        ({"sizes": {"a": 3, "b": 0}}, r"cannot be sampled: \['b'\]"),
        ({"sizes": {}}, "there is no task"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        task_probabilities(**({"sizes": SIZES} | options))
    with pytest.raises(ValueError, match="over how many draws"):
        TaskSampler(SIZES, "annealed")
    with pytest.raises(ValueError, match="expected at least 1"):
        RowStream(0, 1)
