"""A mixed batch on a CPU: ours (a loop over the adapters), peft's `adapter_names`, and one adapter for all rows beside them."""

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model as peft_model
from torch import nn

import loralib
from kernels.bench.timing import Timing, interleaved, ratio

PLANS = ((8, 64), (64, 1), (64, 16))
"""(adapters, rows of each)"""
WIDTH, RANK = 1024, 16
HEADER = ("adapters × rows", "threads", "ours ms", "peft / ours", "ours / one adapter")


def measure(adapters: int, each: int, rounds: int) -> dict[str, Timing]:
    """Two stacks of one layer with equal weights; outputs are compared before anything is timed."""
    torch.manual_seed(0)
    names = [f"a{i}" for i in range(adapters)]
    base = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    settings = {"r": RANK, "lora_alpha": 16, "target_modules": ["0"], "init_lora_weights": False}
    ours, theirs = nn.Sequential(nn.Linear(WIDTH, WIDTH)), nn.Sequential(nn.Linear(WIDTH, WIDTH))
    for model in (ours, theirs):
        model.load_state_dict(base.state_dict())
    loralib.inject(ours, loralib.LoraConfig(**settings), adapter_name=names[0])
    theirs = peft_model(theirs, PeftConfig(**settings), adapter_name=names[0])
    for name in names[1:]:
        loralib.add_adapter(ours, loralib.LoraConfig(**settings), name)
        theirs.add_adapter(name, PeftConfig(**settings))
    layer = loralib.lora_layers(ours)["0"]
    for name in names:
        for kind in ("lora_A", "lora_B"):
            getattr(theirs.get_submodule("base_model.model.0"), kind)[name].weight.data.copy_(getattr(layer, kind)[name].data)
    rows = names * each
    x = torch.randn(len(rows), WIDTH)
    theirs.eval()
    ours.eval()

    def mixed():
        with torch.no_grad(), loralib.mixed_batch(ours, rows):
            return ours(x)

    def peft():
        with torch.no_grad():
            return theirs(x, adapter_names=rows)

    def one():
        with torch.no_grad():
            return ours(x)

    torch.testing.assert_close(mixed(), peft(), rtol=1e-4, atol=1e-4)
    return interleaved({"ours": mixed, "peft": peft, "one": one}, rounds, "cpu")


def row(threads: int, plan: tuple[int, int], times: dict[str, Timing]) -> tuple[str, ...]:
    ours = times["ours"]
    return (
        f"{plan[0]} × {plan[1]}",
        str(threads),
        f"{1e3 * ours.median:.2f} ({1e3 * ours.low:.2f}–{1e3 * ours.high:.2f})",
        f"{ratio(times['peft'], ours):.2f}",
        f"{ratio(ours, times['one']):.2f}",
    )
