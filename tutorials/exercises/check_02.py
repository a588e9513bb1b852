"""The checks of lesson 02's exercises, for your answers and for ours."""

import math

import torch


def check_scored_share(answers) -> None:
    for prompt, answer, expected in ((10, 9, 0.5), (0, 3, 1.0), (30, 9, 0.25)):
        found = answers.scored_share(prompt, answer)
        assert abs(found - expected) < 1e-9, f"{prompt} prompt and {answer} answer tokens: {found}, expected {expected}"


def check_joint_mean(answers) -> None:
    found = answers.joint_mean([4.0, 2.0], [10, 30])
    assert abs(found - 2.5) < 1e-9, f"the two batches of the quiz give {found}, expected 2.5"
    assert abs(answers.joint_mean([1.0, 5.0, 3.0], [1, 1, 2]) - 3.0) < 1e-9, "every token counts once"


def check_floor_of(answers) -> None:
    coin = answers.floor_of([[0.5, 0.5]] * 3, 10)
    assert abs(coin - 0.3 * math.log(2)) < 1e-9, f"three fair coins in ten tokens: {coin}, expected {0.3 * math.log(2):.4f}"
    assert answers.floor_of([[1.0]], 5) == 0, "a choice without a choice costs nothing"
    assert abs(answers.floor_of([[0.6, 0.4], [1.0, 0.0]], 1) - 0.6730) < 1e-4, "an impossible option adds nothing, and no error"


def check_beam_search(answers) -> None:
    """A language where the greedy first step is wrong: 1 looks better than 2, but 2 leads to a sure continuation."""
    table = {(): [0.0, 0.6, 0.4, 0.0], (1,): [0.4, 0.3, 0.3, 0.0], (2,): [0.0, 0.0, 0.0, 1.0], (2, 3): [1.0, 0.0, 0.0, 0.0]}

    def log_probs(tokens: list[int]) -> torch.Tensor:
        return torch.tensor(table.get(tuple(tokens[1:]), [1.0, 0.0, 0.0, 0.0])).log()

    greedy, wide = (answers.beam_search(log_probs, [9], 0, width, 5) for width in (1, 3))
    assert greedy == [1], f"one beam is greedy decoding: {greedy}, expected [1]"
    assert wide == [2, 3], f"three beams find {wide}; [2, 3] has probability 0.4, [1] only 0.24"
    assert len(answers.beam_search(lambda tokens: torch.tensor([-9.0, -0.1]), [9], 0, 2, 4)) == 4, "stop after `most` new tokens"
