"""What all LoRA layers share: named adapters with a rank and a scale each, which of them are active, which are merged."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.formulas.lora_matmul import Parts
from loralib.base_model.handles import bare_model
from loralib.base_model.never_called import mark_called
from loralib.compute.rows import Rows
from loralib.rslora import lora_scaling

Kind = Literal["lora", "dora", "pissa", "ia3_input", "ia3_output"]
TRAINED = ("lora_A", "lora_B", "lora_magnitude_vector", "ia3_l")
"""containers of what an adapter trains in a layer"""
FIXED = ("lora_start_A", "lora_start_B")
"""PiSSA's starting factors: they belong to the adapter and do not train"""
BLOCKS = ("adapter_site", "virtual_tokens")
"""containers of the adapters that are no LoRA: bottlenecks and fusions, prefixes and prompts (folder `adapters/`)"""


@dataclass(frozen=True)
class Slot:
    """The numbers of one adapter in one layer."""

    r: int
    alpha: float
    dropout: float = 0.0
    enable_lora: tuple[bool, ...] | None = None
    rslora: bool = False
    kind: Kind = "lora"

    @property
    def scaling(self) -> float:
        return lora_scaling(self.alpha, self.r, self.rslora)

    @property
    def is_ia3(self) -> bool:
        return self.kind in ("ia3_input", "ia3_output")

    def ranges(self, width: int) -> Parts:
        """The column ranges of the output that this adapter changes."""
        if self.enable_lora is None:
            return ((0, width),)
        step = width // len(self.enable_lora)
        return tuple((i * step, (i + 1) * step) for i, on in enumerate(self.enable_lora) if on)


class LoraLayer(nn.Module):
    """What all LoRA layers share: named adapters, which of them are active, and whether they are merged into `weight`."""

    weight: nn.Parameter
    lora_magnitude_vector: nn.ParameterDict  # of DoRA; these four are made when first needed
    ia3_l: nn.ParameterDict
    lora_start_A: nn.ParameterDict
    lora_start_B: nn.ParameterDict
    KINDS: tuple[Kind, ...] = ("lora",)
    called = False
    """whether a forward has reached this layer since an adapter was added (`never_called.py`)"""

    def start_lora(self) -> None:
        """Give a base layer, whose class was just changed to ours, the empty containers."""
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.slots: dict[str, Slot] = {}
        self.active: tuple[str, ...] = ()
        self.merged: tuple[str, ...] = ()
        self.rows: Rows | None = None
        self._before_merge: tuple[Tensor | None, Tensor | None, tuple[str, ...]] = (None, None, ())  # weight, bias, active

    def add_adapter(
        self,
        name: str,
        slot: Slot,
        zero_start: bool = True,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Add an adapter; it is neither active nor known to an optimizer yet. dtype None: at least float32."""
        check_adapter_name(name, self.slots)
        if slot.kind not in self.KINDS:
            raise ValueError(f"{slot.kind} is for {', '.join(kinds_for(slot.kind))}, not for {type(self).__name__}")
        dtype = dtype or torch.promote_types(self.weight.dtype, torch.float32)
        if not slot.is_ia3:
            shape_A, shape_B = self.factor_shapes(slot)
            A = torch.empty(shape_A, dtype=dtype, device=self.weight.device)
            B = torch.empty(shape_B, dtype=dtype, device=self.weight.device)
            self.start_factors(A, B, zero_start, generator)
            self.lora_A[name], self.lora_B[name] = nn.Parameter(A), nn.Parameter(B)
        self.slots[name] = slot
        self.start_variant(name, dtype)

    def start_factors(self, A: Tensor, B: Tensor, zero_start: bool, generator: torch.Generator | None) -> None:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
        if zero_start:
            nn.init.zeros_(B)
        else:
            nn.init.kaiming_uniform_(B, a=math.sqrt(5), generator=generator)

    def start_variant(self, name: str, dtype: torch.dtype) -> None:
        """Further parameters of a variant; plain LoRA has none."""

    def trained(self, name: str) -> dict[str, nn.Parameter]:
        """What this adapter trains here, by container: lora_A, lora_B, and what a variant adds."""
        return {kind: getattr(self, kind)[name] for kind in TRAINED if name in getattr(self, kind, ())}

    def container(self, kind: str) -> nn.ParameterDict:
        """The container of a variant's parameters, made when first needed."""
        if not hasattr(self, kind):
            setattr(self, kind, nn.ParameterDict())
        return getattr(self, kind)

    def delete_adapter(self, name: str) -> None:
        if name in self.merged:
            raise RuntimeError(f"adapter {name!r} is merged into the weight: unmerge(model) first, then delete it")
        del self.slots[name]
        for kind in (*TRAINED, *FIXED):
            if name in getattr(self, kind, ()):
                del getattr(self, kind)[name]
        self.active = tuple(a for a in self.active if a != name)

    def running(self) -> tuple[str, ...]:
        """The adapters that the forward has to compute now."""
        if not self.merged:
            return self.active
        learning = (p for n in self.merged for p in self.trained(n).values() if p.requires_grad)
        if self.training and torch.is_grad_enabled() and any(True for _ in learning):
            raise RuntimeError(
                f"adapters {list(self.merged)} are merged into the weight, so training would not reach them: "
                "call unmerge(model) before training, or eval() / torch.no_grad() to run the merged model"
            )
        return ()

    # -- forward: the plain layer, and what each running adapter adds to it

    def forward(self, input: Tensor) -> Tensor:
        if not self.called:
            mark_called(self)
        if self.rows is not None:
            return self._forward_rows(input, self.rows)
        names = self.running()
        if not names:
            return self.plain(input)
        y = self.adapted(names[0], input)
        for name in names[1:]:
            y = y + self.update(name, input)
        return y

    def plain(self, input: Tensor) -> Tensor:
        """The base layer alone."""
        return super().forward(input)  # pyright: ignore

    def adapted(self, name: str, input: Tensor) -> Tensor:
        """The layer with one adapter."""
        return self.plain(input) + self.update(name, input)

    def update(self, name: str, input: Tensor) -> Tensor:
        """What one adapter adds to the output of the base layer."""
        raise TypeError(f"{type(self).__name__} does not say its update")

    def _forward_rows(self, input: Tensor, rows: Rows) -> Tensor:
        """Each row with an adapter of its own: the base once for all, the updates group by group."""
        y, mine = self.plain(input), False
        for name, index in rows.groups(input, type(self).__name__):
            if name in self.slots:
                update = self.update(name, input[index]).to(y.dtype)
                y = y.index_add_(0, index, update) if mine else y.index_add(0, index, update)
                mine = True  # the first sum made a tensor of its own; what `plain` gave may be a view
        return y

    # -- subclasses say these two

    def factor_shapes(self, slot: Slot) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of (A, B)."""
        raise TypeError(f"{type(self).__name__} does not say its factor shapes")

    def delta_weight(self, name: str) -> Tensor:
        """What merging adds, in the shape of `weight`, computed in float32 or wider; for plain LoRA s · B A."""
        raise TypeError(f"{type(self).__name__} does not say its update")

    def delta_bias(self, name: str) -> Tensor | None:
        """What merging adds to the bias; only (IA)³ changes it."""
        return None

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


def kinds_for(kind: Kind) -> list[str]:
    """Names of the layer classes that know a variant."""
    return sorted(c.__name__ for c in _subclasses(LoraLayer) if kind in c.KINDS and "Projection" not in c.__name__)


def _subclasses(base: type[LoraLayer]) -> list[type[LoraLayer]]:
    return [c for child in base.__subclasses__() for c in (child, *_subclasses(child))]


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Every LoRA layer by its path in the model itself, whatever wrapper is given.

    Raises ValueError where there is none: the usual cause of 'trained nothing'.
    """
    model = bare_model(model)
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no LoRA layers, so there is nothing to train, save or merge. "
            "Marking parameters does not add any: call get_peft_model(model, LoraConfig(...)) first, "
            "or build the model from loralib.Linear"
        )
    return found


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter's name says that it belongs to an adapter's layer (not to a head or a bias)."""
    return any(f".{kind}." in f".{name}." for kind in (*TRAINED, *FIXED, *BLOCKS))


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
