"""What all LoRA layers share: named adapters with a rank and a scale each, which of them are active, which are merged."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.lora_matmul import Parts


@dataclass(frozen=True)
class Slot:
    """The numbers of one adapter in one layer."""

    r: int
    alpha: float
    dropout: float
    enable_lora: tuple[bool, ...] | None = None

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    def ranges(self, width: int) -> Parts:
        """The column ranges of the output that this adapter changes."""
        if self.enable_lora is None:
            return ((0, width),)
        step = width // len(self.enable_lora)
        return tuple((i * step, (i + 1) * step) for i, on in enumerate(self.enable_lora) if on)


class LoraLayer(nn.Module):
    """What all LoRA layers share: named adapters, which of them are active, and whether they are merged into `weight`."""

    weight: nn.Parameter

    def start_lora(self) -> None:
        """Give a base layer, whose class was just changed to ours, the empty containers."""
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.slots: dict[str, Slot] = {}
        self.active: tuple[str, ...] = ()
        self.merged: tuple[str, ...] = ()
        self._before_merge: tuple[Tensor | None, tuple[str, ...]] = (None, ())  # the weight and what was active

    def add_adapter(
        self,
        name: str,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        enable_lora=None,
        zero_start: bool = True,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Add an adapter; it is neither active nor known to an optimizer yet. dtype None: at least float32."""
        check_adapter_name(name, self.slots)
        slot = Slot(r, alpha, dropout, None if enable_lora is None else tuple(enable_lora))
        shape_A, shape_B = self.factor_shapes(slot)
        dtype = dtype or torch.promote_types(self.weight.dtype, torch.float32)
        A = torch.empty(shape_A, dtype=dtype, device=self.weight.device)
        B = torch.empty(shape_B, dtype=dtype, device=self.weight.device)
        self.start_factors(A, B, zero_start, generator)
        self.slots[name] = slot
        self.lora_A[name], self.lora_B[name] = nn.Parameter(A), nn.Parameter(B)

    def start_factors(self, A: Tensor, B: Tensor, zero_start: bool, generator: torch.Generator | None) -> None:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
        if zero_start:
            nn.init.zeros_(B)
        else:
            nn.init.kaiming_uniform_(B, a=math.sqrt(5), generator=generator)

    def delete_adapter(self, name: str) -> None:
        if name in self.merged:
            raise RuntimeError(f"adapter {name!r} is merged into the weight: unmerge(model) first, then delete it")
        del self.slots[name], self.lora_A[name], self.lora_B[name]
        self.active = tuple(a for a in self.active if a != name)

    def running(self) -> tuple[str, ...]:
        """The adapters that the forward has to compute now."""
        if not self.merged:
            return self.active
        if self.training and torch.is_grad_enabled() and any(self.lora_A[n].requires_grad for n in self.merged):
            raise RuntimeError(
                f"adapters {list(self.merged)} are merged into the weight, so training would not reach them: "
                "call unmerge(model) before training, or eval() / torch.no_grad() to run the merged model"
            )
        return ()

    # -- subclasses say these two

    def factor_shapes(self, slot: Slot) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of (A, B)."""
        raise TypeError(f"{type(self).__name__} does not say its factor shapes")

    def delta_weight(self, name: str) -> Tensor:
        """The update s · B A in the shape of `weight`, computed in float32 or wider."""
        raise TypeError(f"{type(self).__name__} does not say its update")

    # -- merging edits `weight`, so nothing may read or write weights behind its back

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self._refuse_while_merged("state_dict()")
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self._refuse_while_merged("load_state_dict()")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _refuse_while_merged(self, call: str) -> None:
        if self.merged:
            raise RuntimeError(
                f"{call} while {list(self.merged)} are merged would count the update twice: "
                "call unmerge(model) first, or merge_and_unload(model) to keep the merged weights"
            )


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Every LoRA layer by its path. Raises ValueError where there is none: the usual cause of 'trained nothing'."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no LoRA layers, so there is nothing to train, save or merge. "
            "Marking parameters does not add any: call get_peft_model(model, LoraConfig(...)) first, "
            "or build the model from loralib.Linear"
        )
    return found


def check_adapter_name(name: str, taken) -> None:
    """Names become parts of parameter paths: letters, digits, `_` and `-`, not taken, not a dictionary's attribute."""
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
        or hasattr(nn.ParameterDict(), name)
        or hasattr(nn.ModuleDict(), name)
    ):
        raise ValueError(
            f"adapter name {name!r}: use letters, digits, '_' or '-', and no attribute of a dictionary such as 'keys'"
        )
    if name in taken:
        raise ValueError(f"adapter {name!r} exists already; there are {sorted(taken)}. Delete it first or take another name")


def wide(tensor: Tensor) -> Tensor:
    """The values in float32 (float64 stays), out of the graph: updates are summed wide and rounded once."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
