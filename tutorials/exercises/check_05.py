"""The checks of lesson 05's exercises, for your answers and for ours."""

import torch


def check_alpha_for(answers) -> None:
    assert answers.alpha_for(64, 8, 16) == 128, "16 / 8 is 2, and 128 / 64 is 2"
    assert answers.alpha_for(1, 4, 6) == 1.5, "it also goes down"


def check_dora_weight(answers) -> None:
    g = torch.Generator().manual_seed(0)
    W, A, B = torch.randn(4, 6, generator=g), torch.randn(2, 6, generator=g), torch.randn(4, 2, generator=g)
    m = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = answers.dora_weight(W, A, B, m, 0.5)
    assert torch.allclose(found.norm(dim=1), m, atol=1e-5), "row i has length m[i]"
    direction = torch.nn.functional.normalize(W + 0.5 * B @ A, dim=1)
    assert torch.allclose(found / m[:, None], direction, atol=1e-5), "row i points where W + s B A does: is the scale in it?"
    again = answers.dora_weight(W, A, torch.zeros(4, 2), W.norm(dim=1), 0.5)
    assert torch.allclose(again, W, atol=1e-5), "at the start it is W"


def check_principal_part(answers) -> None:
    W = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    part, distance = answers.principal_part(W, 1)
    assert torch.allclose(part, torch.diag(torch.tensor([3.0, 0.0, 0.0])), atol=1e-6), "the largest direction, and nothing else"
    assert abs(distance - 5**0.5) < 1e-6, f"the root of 4 + 1, found {distance}"


def check_plain_lora(answers) -> None:
    g = torch.Generator().manual_seed(0)
    A, B, A_start, B_start = (torch.randn(*shape, generator=g) for shape in ((2, 6), (4, 2), (2, 6), (4, 2)))
    A_plain, B_plain = answers.plain_lora(A, B, A_start, B_start)
    shapes = tuple(A_plain.shape), tuple(B_plain.shape)
    assert shapes == ((4, 6), (4, 4)), f"A {shapes[0]}, B {shapes[1]}, expected (4, 6) and (4, 4): r is 2, so 2r is 4"
    wanted = B @ A - B_start @ A_start
    assert torch.allclose(B_plain @ A_plain, wanted, atol=1e-5), "not B A - B_start A_start: which part gets the minus?"
