"""A mixed batch on a CPU: ours (a loop over the adapters), peft's `adapter_names`, and one adapter for all rows beside them."""

import torch
from torch import Tensor, nn

import loralib
from kernels.bench.machine import obstacle
from kernels.bench.timing import Timing, interleaved, ratio
from kernels.formulas.grouped_lora import grouped_lora_reference

PLANS = ((8, 64), (64, 1), (64, 16))
"""(adapters, rows of each)"""
TINY = ((3, 2),)
WIDTH, RANK = 1024, 16
HEADER = ("adapters × rows", "threads", "ours ms", "peft / ours", "ours / one adapter")
SETTINGS = {"r": RANK, "lora_alpha": RANK, "target_modules": ["0"], "init_lora_weights": False}


def measure(adapters: int, each: int, rounds: int) -> dict[str, Timing]:
    """Stacks of one layer with equal weights; outputs are compared with float64 before anything is timed."""
    torch.manual_seed(0)
    names = [f"a{i}" for i in range(adapters)]
    base, ours = nn.Sequential(nn.Linear(WIDTH, WIDTH)), nn.Sequential(nn.Linear(WIDTH, WIDTH))
    ours.load_state_dict(base.state_dict())
    loralib.inject(ours, loralib.LoraConfig(**SETTINGS), adapter_name=names[0])
    for name in names[1:]:
        loralib.add_adapter(ours, loralib.LoraConfig(**SETTINGS), name)
    ours.eval()
    rows = names * each
    x = torch.randn(len(rows), WIDTH)

    def mixed() -> Tensor:
        with torch.no_grad(), loralib.mixed_batch(ours, rows):
            return ours(x)

    def one() -> Tensor:
        with torch.no_grad():
            return ours(x)

    runs = {"ours": mixed, "one": one}
    if not obstacle("peft"):
        runs["peft"] = peft_run(base, ours, names, x)
    wanted = exact(base, ours, names, x)
    for name in runs.keys() - {"one"}:
        torch.testing.assert_close(runs[name]().double(), wanted, rtol=1e-4, atol=1e-4)
    return interleaved(runs, rounds, "cpu")


def exact(base: nn.Sequential, ours: nn.Module, names: list[str], x: Tensor) -> Tensor:
    """The definition in float64; row i asks for adapter i modulo their number."""
    layer = loralib.lora_layers(ours)["0"]
    A, B = (torch.stack([getattr(layer, kind)[name].detach().double() for name in names]) for kind in ("lora_A", "lora_B"))
    with torch.no_grad():
        y = base.double()(x.double())
    return grouped_lora_reference(y, x.double(), A, B, torch.ones(len(names)).double(), torch.arange(len(x)) % len(names))


def peft_run(base: nn.Module, ours: nn.Module, names: list[str], x: Tensor):
    """peft's model of the same weights and adapters, with an adapter for every row."""
    from peft import LoraConfig, get_peft_model

    peft_model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    peft_model.load_state_dict(base.state_dict())
    model = get_peft_model(peft_model, LoraConfig(**SETTINGS), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, LoraConfig(**SETTINGS))
    layer = loralib.lora_layers(ours)["0"]
    for name in names:
        for kind in ("lora_A", "lora_B"):
            getattr(model.get_submodule("base_model.model.0"), kind)[name].weight.data.copy_(getattr(layer, kind)[name].data)
    model.eval()

    def run() -> Tensor:
        with torch.no_grad():
            return model(x, adapter_names=names * (len(x) // len(names)))

    return run


def row(threads: int, plan: tuple[int, int], times: dict[str, Timing]) -> tuple[str, ...]:
    ours = times["ours"]
    return (
        f"{plan[0]} × {plan[1]}",
        str(threads),
        f"{1e3 * ours.median:.2f} ({1e3 * ours.low:.2f}–{1e3 * ours.high:.2f})",
        f"{ratio(times['peft'], ours):.2f}" if "peft" in times else "–",
        f"{ratio(ours, times['one']):.2f}",
    )
