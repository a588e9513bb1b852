"""A mixed batch with few tokens for each adapter: the batched multiplications give what the loop over the adapters gives."""

import pytest
import torch
from torch import nn

import loralib as lora
from loralib.compute import few_examples
from loralib.compute.few_examples import FEWEST_ADAPTERS, LAST, MOST_TOKENS
from loralib.compute.grouped import STACKS
from loralib.compute.rows import Rows

NAMES = [f"a{i}" for i in range(6)]


def layer_with_adapters(dtype=torch.float64, **changes) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 5)).to(dtype)
    for i, name in enumerate(NAMES):
        config = lora.LoraConfig(
            r=1 + i % 3,
            lora_alpha=2 + i,
            init_lora_weights=False,
            **{"target_modules": ["0"] if name == "a3" else ["0", "1"]} | changes,
        )
        lora.inject(model, config, adapter_name=name) if i == 0 else lora.add_adapter(model, config, name)
    return model.eval()


def outputs(model: nn.Module, x: torch.Tensor, names: list, times: int = 1) -> list[torch.Tensor]:
    with torch.no_grad(), lora.mixed_batch(model, names):
        return [model(x) for _ in range(times)]


def loop(model: nn.Module, x: torch.Tensor, names: list) -> torch.Tensor:
    """Example by example, each with its own adapter alone."""
    results = []
    for row, name in zip(x, names, strict=True):
        with torch.no_grad(), lora.mixed_batch(model, [name]):
            results.append(model(row[None]))
    return torch.cat(results)


BATCHES = {
    "one each": NAMES,
    "two each": [*NAMES, *NAMES],
    "other numbers": [*NAMES, "a1", "a1", "a4"],
    "base examples": [None, *NAMES, None, "a2"],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("tokens", [(), (1,), (2,)])
def test_it_equals_the_loop(batch, tokens):
    model, names = layer_with_adapters(), BATCHES[batch]  # its second layer has no a3: those examples get the base there
    x = torch.randn(len(names), *tokens, 10, dtype=torch.float64)
    wanted = loop(model, x, names)
    first, second, third = outputs(model, x, names, times=3)
    torch.testing.assert_close(torch.stack([first, second, third]), wanted.expand(3, *wanted.shape), atol=1e-12, rtol=1e-12)
    largest = max(names.count(name) for name in NAMES) * max(1, sum(tokens))
    assert all((layer in STACKS) == (largest <= MOST_TOKENS) for layer in model), "from the second batch on, where tokens are few"


def test_the_stack_is_made_only_for_adapters_that_come_again():
    model, x = layer_with_adapters(), torch.randn(6, 10, dtype=torch.float64)
    for names in (NAMES, NAMES[::-1], NAMES):
        outputs(model, x, names)
        assert model[0] not in STACKS
    outputs(model, x, NAMES)
    assert model[0] in STACKS


def test_a_changed_adapter_is_stacked_again():
    model, x = layer_with_adapters(), torch.randn(6, 10, dtype=torch.float64)
    before = outputs(model, x, NAMES, times=2)[1]
    with torch.no_grad():
        model[0].lora_B["a2"].mul_(3)
    after = outputs(model, x, NAMES)[0]
    torch.testing.assert_close(after, loop(model, x, NAMES), atol=1e-12, rtol=1e-12)
    assert not torch.equal(after[2], before[2]) and torch.equal(after[3], before[3])


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"enable_lora": {"0": [True, False]}, "target_modules": ["0"]}],
    ids=["no low-rank update", "factors computed in each call"],
)
def test_other_adapters_run_the_loop(changes):
    model, x = layer_with_adapters(**changes), torch.randn(6, 10, dtype=torch.float64)
    results = outputs(model, x, NAMES, times=2)
    torch.testing.assert_close(results[1], loop(model, x, NAMES), atol=1e-12, rtol=1e-12)
    assert model[0] not in STACKS


def test_training_and_dropout_run_the_loop():
    model, x = layer_with_adapters(lora_dropout=0.5), torch.randn(6, 10, dtype=torch.float64)
    with lora.mixed_batch(model, NAMES):
        model(x), model(x)
    assert model[0] not in LAST
    outputs(model.train(), x, NAMES, times=3)
    assert model[0] not in STACKS
    outputs(model.eval(), x, NAMES, times=2)
    assert model[0] in STACKS


def test_few_adapters_run_the_loop():
    model, names = layer_with_adapters(), NAMES[: FEWEST_ADAPTERS - 1]
    outputs(model, torch.randn(len(names), 10, dtype=torch.float64), names, times=3)
    assert model[0] not in STACKS


def test_half_precision_layers_with_float32_adapters():
    model = layer_with_adapters(torch.bfloat16)
    x = torch.randn(6, 10, dtype=torch.bfloat16)
    results = outputs(model, x, NAMES, times=2)
    assert results[1].dtype == torch.bfloat16
    torch.testing.assert_close(*results, atol=0.1, rtol=2**-6)  # other roundings of the low-rank update to 8 bits


def test_places_of_repeats_the_first_example_of_a_short_group():
    taken, places, valid = few_examples.places_of(Rows(("b", "a", "b")), ("a", "b"), torch.device("cpu"))
    assert (taken.tolist(), places.tolist(), valid.tolist()) == ([1, 1, 0, 2], [1, 0, 2], [True, False, True, True])
