"""The checks of lesson 06's exercises, for your answers and for ours."""

import torch


def check_storage(answers) -> None:
    assert answers.storage(500, 4, 10) == (5000, 540), "ten models of 500, or one of 500 and ten adapters of 4"


def check_stack(answers) -> None:
    g = torch.Generator().manual_seed(0)
    factors = [(torch.randn(r, 5, generator=g), torch.randn(7, r, generator=g)) for r in (2, 3)]
    A, B = answers.stack(factors, [2.0, -0.5])
    shapes = f"A {tuple(A.shape)}, B {tuple(B.shape)}"
    assert A.shape == (5, 5) and B.shape == (7, 5), f"the ranks 2 and 3 add up: expected A (5, 5), B (7, 5), found {shapes}"
    wanted = 2 * factors[0][1] @ factors[0][0] - 0.5 * factors[1][1] @ factors[1][0]
    assert torch.allclose(B @ A, wanted, atol=1e-5), "B A is not the weighted sum of the products"


def check_group_rows(answers) -> None:
    found = answers.group_rows(["a", None, "b", "a"])
    assert found == {"a": [0, 3], "b": [2]}, f"rows 0 and 3 ask for a, row 2 for b, row 1 for the base: found {found}"
    assert answers.group_rows([None, None]) == {}, "the base alone: no groups"
