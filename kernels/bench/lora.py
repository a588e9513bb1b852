"""One LoRA layer, forward + backward: ours against peft, with the zero-cost ceiling (the bare frozen layer) beside it.

`ceiling` = peft / bare is the ratio that a LoRA branch of no cost at all would reach; `peft / ours` cannot exceed it by
more than noise. Gradients are checked against float64 (without dropout) before anything is timed. Without peft, ours and the bare
layer remain.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import loralib
from kernels.bench.machine import obstacle
from kernels.bench.timing import Timing, interleaved, ratio
from kernels.formulas.lora_matmul import lora_matmul_reference
from kernels.measure import saved_bytes

SHAPES = ((2048, 768, 768), (2048, 768, 3072), (512, 2048, 2048))
TINY = ((16, 24, 40),)
RANKS = (8, 16)
DROPOUTS = (0.0, 0.1)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """M tokens, K = d_in, N = d_out, rank r."""

    M: int
    K: int
    N: int
    r: int
    dtype: str = "fp32"
    dropout: float = 0.0

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
    saved: dict[str, int]

    def over(self, name: str, other: str) -> str:
        """The time of one as a multiple of the other's; a dash where one of them is not installed."""
        return f"{ratio(self.times[name], self.times[other]):.2f}" if {name, other} <= set(self.times) else "–"


def measure(case: Case, rounds: int, device: str) -> Result:
    """Build the layers with equal weights, check their gradients, then time them interleaved."""
    torch.manual_seed(0)
    dtype = DTYPES[case.dtype]
    base = nn.Sequential(nn.Linear(case.K, case.N))
    names = ("bare", "ours") if obstacle("peft") else ("bare", "ours", "peft")
    layers: dict[str, nn.Module] = {name: nn.Sequential(nn.Linear(case.K, case.N)) for name in names}
    for layer in layers.values():
        layer.load_state_dict(base.state_dict())
        layer.to(device, dtype).requires_grad_(False)
    settings = {"r": case.r, "lora_alpha": 16, "lora_dropout": case.dropout, "target_modules": ["0"], "init_lora_weights": False}
    loralib.inject(layers["ours"], loralib.LoraConfig(**settings))
    if "peft" in layers:
        layers["peft"] = peft_layer(layers["peft"], layers["ours"], settings)
    x = torch.randn(case.M, case.K, device=device, dtype=dtype).requires_grad_()
    dy = torch.randn(case.M, case.N, device=device, dtype=dtype)
    A, B = factors(layers["ours"])
    wanted = exact_gradients(lambda x, A, B: lora_matmul_reference(x, *frozen(base), A, B, 16 / case.r), (x, A, B), dy)
    check_gradients({name: layer.eval() for name, layer in layers.items() if name != "bare"}, x, dy, wanted)
    layers = {name: layer.train() for name, layer in layers.items()}
    times = interleaved({name: step(layer, x, dy) for name, layer in layers.items()}, rounds, device)
    saved = {name: saved_bytes(lambda layer=layer: layer(x), layer.parameters()) for name, layer in layers.items()}
    return Result(case, times, saved)


def factors(layer: nn.Module) -> list[Tensor]:
    """A, B, and DoRA's magnitude where there is one, in that order in ours and in peft's layer."""
    return [p for n, p in layer.named_parameters() if "lora_" in n]


def frozen(base: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64."""
    return base.get_parameter("0.weight").detach().double(), base.get_parameter("0.bias").detach().double()


def peft_layer(base: nn.Module, ours: nn.Module, settings: dict) -> nn.Module:
    """peft's layer with the factors of ours."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(base, LoraConfig(**settings))
    known = {n.split(".")[-2]: p for n, p in ours.named_parameters() if "lora_" in n}
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data.copy_(known[name.split(".")[-3]].data)
    return model


def exact_gradients(definition: Callable[..., Tensor], inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, ...]:
    """By autograd of the definition in float64 on the CPU."""
    leaves = [t.detach().double().cpu().requires_grad_() for t in inputs]
    return torch.autograd.grad(definition(*leaves), leaves, dy.double().cpu())


def check_gradients(layers: dict[str, nn.Module], x: Tensor, dy: Tensor, wanted: tuple[Tensor, ...]) -> None:
    """RuntimeError when a gradient of x or of a factor differs from float64 by more than rounding."""
    bound = 1e-4 if x.dtype == torch.float32 else 2e-2  # relative to the norm; sums in another order, 2^-8 in bf16
    for name, layer in layers.items():
        grads = torch.autograd.grad(layer(x), [x, *factors(layer)], dy)
        for computed, exact in zip(grads, wanted, strict=True):
            error = float((computed.double().cpu() - exact).norm() / exact.norm())
            if not error <= bound:
                raise RuntimeError(f"gradients of {name}: error {error:.1e}, expected at most {bound:.0e}: nothing was timed")


def step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of one layer."""
    leaves = [p for p in layer.parameters() if p.requires_grad]

    def run() -> None:
        x.grad = None
        for p in leaves:
            p.grad = None
        layer(x).backward(dy)

    return run
