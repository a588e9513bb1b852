"""One DoRA layer, forward + backward, as a multiple of LoRA's time: ours and peft's, with the bare frozen layer beside them."""

from dataclasses import dataclass

import torch
from torch import nn

import loralib
from kernels.bench.lora import Case, check_gradients, exact_gradients, factors, frozen, peft_layer, step
from kernels.bench.machine import obstacle
from kernels.bench.timing import Timing, interleaved, ratio
from kernels.formulas.dora_matmul import dora_matmul_reference

SHAPES = ((2048, 1024, 1024), (2048, 768, 3072))
TINY = ((16, 24, 40),)
RANK = 16
HEADER = ("shape", "r", "threads", "LoRA ms", "DoRA / LoRA", "peft's DoRA / LoRA", "bare / LoRA")


@dataclass(frozen=True)
class Result:
    case: Case
    times: dict[str, Timing]

    def over_lora(self, name: str) -> str:
        """A dash where it is not installed."""
        return f"{ratio(self.times[name], self.times['lora']):.2f}" if name in self.times else "–"


def measure(case: Case, rounds: int, device: str) -> Result:
    """The layers with equal weights; DoRA's gradients are checked against float64 before anything is timed."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(case.K, case.N))
    names = ("bare", "lora", "ours") if obstacle("peft") else ("bare", "lora", "ours", "peft")
    layers: dict[str, nn.Module] = {name: nn.Sequential(nn.Linear(case.K, case.N)) for name in names}
    for layer in layers.values():
        layer.load_state_dict(base.state_dict())
        layer.to(device).requires_grad_(False)
    settings = {"r": case.r, "lora_alpha": 16, "target_modules": ["0"], "init_lora_weights": False}
    loralib.inject(layers["lora"], loralib.LoraConfig(**settings))
    loralib.inject(layers["ours"], loralib.LoraConfig(use_dora=True, **settings))
    if "peft" in layers:
        layers["peft"] = peft_layer(layers["peft"], layers["ours"], settings | {"use_dora": True})
    x = torch.randn(case.M, case.K, device=device).requires_grad_()
    dy = torch.randn(case.M, case.N, device=device)

    def definition(x, A, B, magnitude):
        return dora_matmul_reference(x, *frozen(base), A, B, magnitude, 16 / case.r)

    wanted = exact_gradients(definition, (x, *factors(layers["ours"])), dy)
    check_gradients({name: layers[name] for name in names if name in ("ours", "peft")}, x, dy, wanted)
    return Result(case, interleaved({name: step(layer, x, dy) for name, layer in layers.items()}, rounds, device))


def row(threads: int, result: Result) -> tuple[str, ...]:
    lora = result.times["lora"]
    return (
        result.case.name,
        str(result.case.r),
        str(threads or "-"),
        f"{1e3 * lora.median:.1f} ({1e3 * lora.low:.1f}–{1e3 * lora.high:.1f})",
        *(result.over_lora(name) for name in ("ours", "peft", "bare")),
    )
