"""The checks of lesson 13's exercises, for your answers and for ours."""

import torch
from torch.nn import functional as F


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def check_prompt_as_large(answers) -> None:
    assert answers.prompt_as_large(20, 12, 12, 64, 768) == 480, "BERT-base: 24 numbers of a prefix for each of a prompt"
    assert answers.prompt_as_large(10, 16, 8, 64, 2048) == 80, "Llama 3.2 1B: only 8 key heads for 32 query heads"
    assert answers.prompt_as_large(1, 1, 1, 3, 4) == 2, "6 numbers need two tokens of 4"


def check_share_of_prefix(answers) -> None:
    q, k = draw(2, 3, 5, 4), draw(2, 3, 5, 4) / 2
    found = answers.share_of_prefix(q, k, torch.zeros(3, 7, 4))
    assert found.shape == (2, 3, 5), f"one number for each query of each head: {tuple(found.shape)}"
    wanted = 7 / (7 + (q @ k.transpose(-1, -2) / 2).exp().sum(-1))
    assert torch.allclose(found, wanted, atol=1e-5), "P zero keys take P / (P + the sum of the words' exponentials)"
    large = answers.share_of_prefix(q.abs() + 1, k, torch.full((3, 7, 4), 10.0))
    assert (large > 0.99).all(), "keys that fit the query take nearly all"


def check_shared_prefix_attention(answers) -> None:
    q, k, v = draw(2, 4, 5, 8), draw(2, 2, 5, 8), draw(2, 2, 5, 8) + 1
    first_k, first_v = draw(2, 3, 8), draw(2, 3, 8) - 1
    found = answers.shared_prefix_attention(q, k, v, first_k, first_v)
    keys, values = (torch.cat([a.expand(2, -1, -1, -1), b], 2) for a, b in ((first_k, k), (first_v, v)))
    wanted = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
    assert found.shape == q.shape, f"one output for each query: {tuple(found.shape)}"
    assert torch.allclose(found, wanted, atol=1e-5), "do queries 0 and 1 share key head 0, and is the prefix before the text?"
