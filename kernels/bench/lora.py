"""One LoRA layer, forward + backward: ours against peft, with the zero-cost ceiling (the bare frozen layer) beside it.

`ceiling` = peft / bare is the ratio that a LoRA branch of no cost at all would reach; `peft / ours` cannot exceed it by
more than noise. Gradients are checked against peft's before anything is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model as peft_model
from torch import nn

import loralib
from kernels.bench.timing import Timing, interleaved, ratio
from kernels.measure import saved_bytes

SHAPES = ((2048, 768, 768), (2048, 768, 3072), (512, 2048, 2048))
RANKS = (8, 16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """M tokens, K = d_in, N = d_out, rank r."""

    M: int
    K: int
    N: int
    r: int
    dtype: str = "fp32"

    @property
    def flops(self) -> int:
        """Forward 2MKN, dx 2MKN, and 6Mr(K + N) for the branch and its gradients (W is frozen)."""
        return 4 * self.M * self.K * self.N + 6 * self.M * self.r * (self.K + self.N)

    @property
    def name(self) -> str:
        return f"{self.M}×{self.K}→{self.N}"


@dataclass(frozen=True)
class Result:
    case: Case
    times: dict[str, Timing]
    peft_over_ours: float
    ceiling: float
    saved: dict[str, int]


def measure(case: Case, rounds: int, device: str) -> Result:
    """Build the three layers with equal weights, check their gradients, then time them interleaved."""
    torch.manual_seed(0)
    dtype = DTYPES[case.dtype]
    base = nn.Sequential(nn.Linear(case.K, case.N))
    layers: dict[str, nn.Module] = {name: nn.Sequential(nn.Linear(case.K, case.N)) for name in ("bare", "ours", "peft")}
    for layer in layers.values():
        layer.load_state_dict(base.state_dict())
        layer.to(device, dtype).requires_grad_(False)
    loralib.inject(layers["ours"], loralib.LoraConfig(r=case.r, lora_alpha=16, target_modules=["0"], init_lora_weights=False))
    config = PeftConfig(r=case.r, lora_alpha=16, target_modules=["0"], init_lora_weights=False)
    layers["peft"] = peft_model(layers["peft"], config)
    _same_factors(layers)
    x = torch.randn(case.M, case.K, device=device, dtype=dtype).requires_grad_()
    dy = torch.randn(case.M, case.N, device=device, dtype=dtype)
    check_gradients({name: layers[name] for name in ("ours", "peft")}, x, dy, dtype)
    times = interleaved({name: step(layer, x, dy) for name, layer in layers.items()}, rounds, device)
    saved = {name: saved_bytes(lambda layer=layer: layer(x), layer.parameters()) for name, layer in layers.items()}
    return Result(case, times, ratio(times["peft"], times["ours"]), ratio(times["peft"], times["bare"]), saved)


def _same_factors(layers: dict[str, nn.Module]) -> None:
    ours = [p for n, p in layers["ours"].named_parameters() if "lora_" in n]
    theirs = [p for n, p in layers["peft"].named_parameters() if "lora_" in n]
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a)


def check_gradients(layers: dict[str, nn.Module], x: torch.Tensor, dy: torch.Tensor, dtype: torch.dtype) -> None:
    """RuntimeError when the gradients of `ours` and `peft` differ by more than rounding."""
    grads = {}
    for name in layers:
        inputs = [x, *(p for n, p in layers[name].named_parameters() if "lora_" in n)]
        grads[name] = torch.autograd.grad(layers[name](x), inputs, dy)
    bound = 1e-4 if dtype == torch.float32 else 2e-2  # relative to the norm; two orders of summation, 2^-8 in bf16
    for ours, theirs in zip(grads["ours"], grads["peft"], strict=True):
        error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
        if error > bound:
            raise RuntimeError(f"gradients differ from peft's by {error:.1e}: nothing was timed")


def step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of one layer."""
    leaves = [p for p in layer.parameters() if p.requires_grad]

    def run() -> None:
        x.grad = None
        for p in leaves:
            p.grad = None
        layer(x).backward(dy)

    return run
