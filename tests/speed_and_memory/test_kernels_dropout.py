"""Dropout's mask from 16-bit words: its rate, its independence, odd sizes, and an expected value of exactly x.

The bounds are standard deviations of counts: a correct generator exceeds five of them once in 1.7 million counts.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.formulas.dropout import WORDS, dropped_words, keep_mask, keep_probability, plain_dropout

RATES = (0.1, 0.5, 0.05, 2**-16, 1 - 2**-16)


def mask_of(count: int, p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return keep_mask(torch.Size([count]), p)


def deviations(count: float, total: int, probability: float) -> float:
    """By how many standard deviations of a binomial distribution the count differs from its mean."""
    return (count - total * probability) / math.sqrt(total * probability * (1 - probability))


@pytest.mark.parametrize("p", RATES)
def test_the_rate(p):
    mask = mask_of(2**22, p)
    assert abs(deviations(float(mask.sum()), mask.numel(), keep_probability(p))) < 5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_of_the_four_words_of_a_random_number_has_the_rate(p):
    """`random_()` without a range never sets the highest bit: then one word in four would have another rate."""
    of_word = mask_of(2**22, p).view(-1, 4).sum(0)
    assert max(abs(deviations(float(count), 2**20, keep_probability(p))) for count in of_word) < 5


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7, 64, 768])
def test_positions_are_independent(distance):
    """Both of two positions are kept with the square of the probability."""
    mask = mask_of(2**22, 0.3).bool()
    pairs = mask[: len(mask) // (2 * distance) * 2 * distance].view(-1, 2, distance)
    both = (pairs[:, 0] & pairs[:, 1]).sum()
    assert abs(deviations(float(both), pairs[:, 0].numel(), keep_probability(0.3) ** 2)) < 5


def test_calls_are_independent():
    torch.manual_seed(0)
    first, second = (keep_mask(torch.Size([2**22]), 0.3).bool() for _ in range(2))
    assert abs(deviations(float((first & second).sum()), 2**22, keep_probability(0.3) ** 2)) < 5


def test_a_generator_in_the_same_state_gives_the_same_masks():
    """What a resumed run needs."""
    torch.manual_seed(5)
    keep_mask(torch.Size([7, 9]), 0.4)
    state = torch.get_rng_state()
    later = [keep_mask(torch.Size([7, 9]), 0.4) for _ in range(2)]
    torch.set_rng_state(state)
    assert all(torch.equal(keep_mask(torch.Size([7, 9]), 0.4), mask) for mask in later)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.sampled_from(RATES))
@settings(max_examples=40, deadline=None)
def test_odd_sizes(shape, p):
    mask = keep_mask(torch.Size(shape), p)
    assert mask.shape == torch.Size(shape) and mask.dtype == torch.uint8 and bool((mask <= 1).all())


@given(st.floats(1e-12, 1 - 1e-12))
@settings(deadline=None)
def test_the_scale_is_that_of_the_threshold_and_nothing_is_lost(p):
    """Of all 2^16 words, exactly the part keep_probability(p) is kept; never all of them and never none."""
    words = torch.arange(-WORDS // 2, WORDS // 2)
    remaining = int((words >= dropped_words(p) - WORDS // 2).sum())
    assert remaining / WORDS == keep_probability(p) and 0 < remaining < WORDS
    assert abs(remaining / WORDS - (1 - p)) <= 1 / WORDS


def test_the_expected_value_is_x():
    x = torch.full((2**20,), 3.0, dtype=torch.float64)
    torch.manual_seed(0)
    mean = float(plain_dropout(x, keep_mask(x.shape, 0.25), 0.25).mean())
    assert abs(mean - 3) < 5 * 3 * math.sqrt(0.25 / 0.75 / 2**20)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.5])
def test_a_rate_outside_is_refused(p):
    with pytest.raises(ValueError, match="expected 0 < p < 1"):
        keep_mask(torch.Size([4]), p)
