"""What the hash of the commit chooses: the same on every machine, and in time everything."""

from commit_choice import chosen_within, one_in_four

NAMES = [f"test {number}" for number in range(29)]


def test_each_commit_runs_a_quarter_and_some_commit_runs_each():
    choices = [one_in_four(NAMES[::-1], f"{commit:040x}") for commit in range(30)]
    assert {len(choice) for choice in choices} <= {7, 8} and set().union(*choices) == set(NAMES)
    assert one_in_four(NAMES, "a" * 40) == one_in_four(NAMES, "a" * 40) and one_in_four([], "a") == set()


def test_a_choice_stays_within_its_limit():
    seconds = {name: 5.0 * number for number, name in enumerate(NAMES[:20])}
    choices = [chosen_within(seconds, 4, 150, f"{commit:040x}") for commit in range(200)]
    assert all(len(choice) == 4 and sum(seconds[name] for name in choice) <= 150 for choice in choices)
    assert set().union(*choices) == set(seconds)
