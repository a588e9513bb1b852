"""One DoRA layer, forward + backward, as a multiple of LoRA's time: ours and peft's, with the bare frozen layer beside them."""

from dataclasses import dataclass

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model as peft_model
from torch import nn

import loralib
from kernels.bench.lora import Case, check_gradients, step
from kernels.bench.timing import Timing, interleaved, ratio

SHAPES = ((2048, 1024, 1024), (2048, 768, 3072))
RANK = 16
HEADER = ("shape", "r", "threads", "LoRA ms", "DoRA / LoRA", "peft's DoRA / LoRA", "bare / LoRA")


@dataclass(frozen=True)
class Result:
    case: Case
    times: dict[str, Timing]

    def over_lora(self, name: str) -> float:
        return ratio(self.times[name], self.times["lora"])


def measure(case: Case, rounds: int, device: str) -> Result:
    """Four layers with equal weights; DoRA's gradients are checked against peft's before anything is timed."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(case.K, case.N))
    layers: dict[str, nn.Module] = {name: nn.Sequential(nn.Linear(case.K, case.N)) for name in ("bare", "lora", "ours", "peft")}
    for layer in layers.values():
        layer.load_state_dict(base.state_dict())
        layer.to(device).requires_grad_(False)
    settings = {"r": case.r, "lora_alpha": 16, "target_modules": ["0"], "init_lora_weights": False}
    loralib.inject(layers["lora"], loralib.LoraConfig(**settings))
    loralib.inject(layers["ours"], loralib.LoraConfig(use_dora=True, **settings))
    layers["peft"] = peft_model(layers["peft"], PeftConfig(use_dora=True, **settings))
    ours = {n.split(".")[-2]: p for n, p in layers["ours"].named_parameters() if "lora_" in n}
    for name, p in layers["peft"].named_parameters():
        if "lora_" in name:
            p.data.copy_(ours[name.split(".")[-3]].data)
    x = torch.randn(case.M, case.K, device=device).requires_grad_()
    dy = torch.randn(case.M, case.N, device=device)
    check_gradients({name: layers[name] for name in ("ours", "peft")}, x, dy, torch.float32)
    return Result(case, interleaved({name: step(layer, x, dy) for name, layer in layers.items()}, rounds, device))


def row(threads: int, result: Result) -> tuple[str, ...]:
    lora = result.times["lora"]
    return (
        result.case.name,
        str(result.case.r),
        str(threads or "-"),
        f"{1e3 * lora.median:.1f} ({1e3 * lora.low:.1f}–{1e3 * lora.high:.1f})",
        *(f"{result.over_lora(name):.2f}" for name in ("ours", "peft", "bare")),
    )
