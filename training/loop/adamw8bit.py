"""AdamW whose two averages lie in 8 bits (Dettmers et al. 2022), and which can keep them in the host's memory.

    m ← β₁ m + (1 - β₁) g        v ← β₂ v + (1 - β₂) g²        w ← w - η (m̂ / (√v̂ + ε) + λ w)

m and v are decoded, updated in float32, and coded again: 2 bytes a number and 2 · 4 / 256 for scales, where AdamW keeps 8.
`paged=True` keeps the codes in pinned host memory and copies each tensor's to the device for its update and back: the explicit
form of QLoRA's paged optimizers (section 3), which leave the copying to the driver. On a CPU the same code runs, and the copies
stay on the spot.

v is stored as its root. The levels reach down to 10⁻⁷ of a block's largest number; of √v that is 10⁻¹⁴ of v, so that few v
become zero, and a step is not divided by ε alone.
"""

import torch
from torch import Tensor

from kernels.formulas.blockwise8 import Blockwise8, dequantize8, quantize8

STATES = {"m": True, "root_v": False}  # which average has a sign


class AdamW8bit(torch.optim.Optimizer):
    """Same arguments and meaning as `torch.optim.AdamW`."""

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2, paged=False):
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(f"lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}: out of range")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "paged": paged})

    @property
    def paged(self) -> bool:
        return self.param_groups[0]["paged"]  # in the groups, so that a copy and a state dict carry it

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if p.grad is not None and p.grad.is_sparse:
                    raise RuntimeError("AdamW8bit takes no sparse gradients: torch.optim.SparseAdam does")
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                    for name, signed in STATES.items():
                        self._keep(state, name, quantize8(torch.zeros_like(p, dtype=torch.float32), signed))
                self._update(p, state, **group)
        return loss

    def _update(self, p: Tensor, state: dict, lr, betas, eps, weight_decay, **_) -> None:
        state["step"] += 1
        assert p.grad is not None
        steps, grad = int(state["step"]), p.grad.float()
        m, v = self._fetch(state, "m", p.device), self._fetch(state, "root_v", p.device).square_()
        m.lerp_(grad, 1 - betas[0])
        v.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
        root = v.sqrt()
        bias_1, bias_2 = 1 - betas[0] ** steps, 1 - betas[1] ** steps
        p.mul_(1 - lr * weight_decay)
        p.sub_((m / (root / bias_2**0.5 + eps)).mul_(lr / bias_1).to(p.dtype))
        self._keep(state, "m", quantize8(m))
        self._keep(state, "root_v", quantize8(root, signed=False))

    def _keep(self, state: dict, name: str, q: Blockwise8) -> None:
        """Write codes and scales to where they live. Copies to pinned memory do not wait for the device."""
        for key, tensor in ((name, q.codes), (f"{name}_absmax", q.absmax)):
            if key not in state:
                state[key] = self._space(tensor)
            state[key].copy_(tensor, non_blocking=True)

    def _fetch(self, state: dict, name: str, device: torch.device) -> Tensor:
        codes, absmax = (state[key].to(device, non_blocking=True) for key in (name, f"{name}_absmax"))
        return dequantize8(Blockwise8(codes, absmax, STATES[name]))

    def _space(self, tensor: Tensor) -> Tensor:
        if not self.paged:
            return torch.empty_like(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())

    def state_dict(self):
        if self.paged and torch.cuda.is_available():
            torch.cuda.synchronize()  # the last copies to the host may still be under way
        return super().state_dict()

    def load_state_dict(self, state_dict):
        """torch would cast the codes to the parameter's dtype: uint8 and float32 stay what they are, and paged state paged."""
        packed = state_dict["state"]
        order = [p for group in self.param_groups for p in group["params"]]
        for index, states in packed.items():
            expected = {"step", *(key for name in STATES for key in (name, f"{name}_absmax"))}
            if set(states) != expected or states["m"].shape != order[index].shape:
                raise ValueError(
                    f"state {index} is not that of an AdamW8bit on {tuple(order[index].shape)}: it holds {sorted(states)}"
                )
        paged = self.paged
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["paged"] = paged
        for index, states in packed.items():
            state = self.state[order[index]]
            for key, value in states.items():
                where = torch.device("cpu") if self.paged or key == "step" else order[index].device
                state[key] = value.detach().clone().to(where)
                if self.paged and torch.cuda.is_available() and key != "step":
                    state[key] = state[key].pin_memory()

    def state_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for s in self.state.values() for t in s.values() if t.dim())
