"""What all LoRA layers share: named adapters, which of them are active, and whether they are merged into `weight`.

    y = f(x; W) + Σ_active  s · f(f(x; A); B)         for Linear: y = W x + b + s · B (A x)

A LoRA layer *is* its base layer (a subclass), with containers such as `lora_A` and `lora_B` beside `weight`. Injection changes
the class of the existing module in place, so parameter names, hooks and sharing stay as they were, and taking LoRA out is exact.
What an adapter computes is said by its variant (`variants/`), one object for each adapter in `layer.variants`.
"""

import math
import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralib.base_model.handles import bare_model
from loralib.base_model.never_called import mark_called
from loralib.compute.rows import Rows
from loralib.variants.registry import containers
from loralib.variants.variant import Start, Variant

BLOCKS = ("adapter_site", "virtual_tokens")
"""containers of the adapters that are no LoRA: bottlenecks and fusions, prefixes and prompts (folder `adapters/`)"""


class LoraLayer(nn.Module):
    """The base class of all LoRA layers."""

    weight: nn.Parameter
    lora_A: nn.ParameterDict
    lora_B: nn.ParameterDict
    FILE_KEYS: ClassVar[tuple[str, str]] = ("lora_A.weight", "lora_B.weight")
    """the ends of the keys of A and B in an adapter file"""
    PLAIN: ClassVar[str] = ""
    """name of the plain layer's class"""
    called = False
    """whether a forward has reached this layer since an adapter was added (`never_called.py`)"""

    def start_lora(self) -> None:
        """Give a base layer, whose class was just changed to ours, the empty containers."""
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.variants: dict[str, Variant] = {}
        self.active: tuple[str, ...] = ()
        self.merged: tuple[str, ...] = ()
        self.rows: Rows | None = None
        self.cache: dict[str, Any] = {}
        """what a variant computes from `weight` and keeps; copies of the layer start without it"""
        self._before_merge: tuple[Tensor | None, Tensor | None, tuple[str, ...]] = (None, None, ())  # weight, bias, active

    def add_adapter(self, name: str, variant: Variant, start: Start | None = None) -> None:
        """Add an adapter; it is neither active nor known to an optimizer yet. start None: dtype at least float32."""
        check_adapter_name(name, self.variants)
        if self.PLAIN not in variant.layers:
            raise ValueError(f"{variant.title} is for {', '.join(variant.layers)}, not for {self.PLAIN}")
        self.variants[name] = variant
        variant.start(self, name, start or Start(torch.promote_types(self.weight.dtype, torch.float32)))

    def add_parameter(self, container: str, name: str, value: Tensor, trainable: bool = True) -> None:
        """Put a tensor of an adapter into a container, which is made when first needed. A Parameter is shared, not copied."""
        if not hasattr(self, container):
            setattr(self, container, nn.ParameterDict())
        getattr(self, container)[name] = value if isinstance(value, nn.Parameter) else nn.Parameter(value, trainable)

    def trained(self, name: str) -> dict[str, nn.Parameter]:
        """The trainable parameters of an adapter, by container."""
        return {container: getattr(self, container)[name] for container in self.variants[name].parameters}

    def delete_adapter(self, name: str) -> None:
        if name in self.merged:
            raise RuntimeError(f"adapter {name!r} is merged into the weight: unmerge(model) first, then delete it")
        variant = self.variants.pop(name)
        variant.remove(self, name)
        for container in (*variant.parameters, *variant.fixed):
            del getattr(self, container)[name]
        self.active = tuple(a for a in self.active if a != name)

    def active_adapters(self) -> tuple[str, ...]:
        """The adapters that the forward has to compute now: none while they are merged."""
        if not self.merged:
            return self.active
        learning = (p for n in self.merged for p in self.trained(n).values() if p.requires_grad)
        if self.training and torch.is_grad_enabled() and any(True for _ in learning):
            raise RuntimeError(
                f"adapters {list(self.merged)} are merged into the weight, so training would not reach them: "
                "call unmerge(model) before training, or eval() / torch.no_grad() to run the merged model"
            )
        return ()

    def plain_forward(self, x: Tensor) -> Tensor:
        """The definition: y = W x + b + Σ s · B A x. `forward` computes the same in one step, and a test compares the two."""
        y = self.base_forward(x)
        for name in self.active_adapters():
            y = y + self.update(name, x)
        return y

    def forward(self, input: Tensor) -> Tensor:
        if not self.called:
            mark_called(self)
        if self.rows is not None:
            return self._forward_rows(input, self.rows)
        names = self.active_adapters()
        if not names:
            return self.base_forward(input)
        y = self.variants[names[0]].forward(self, names[0], input)
        for name in names[1:]:
            y = y + self.update(name, input)
        return y

    def base_forward(self, input: Tensor) -> Tensor:
        """The base layer alone: W x + b."""
        return super().forward(input)  # pyright: ignore

    def update(self, name: str, input: Tensor) -> Tensor:
        """What one adapter adds to the output of the base layer; for LoRA s · B A x."""
        return self.variants[name].update(self, name, input)

    def _forward_rows(self, input: Tensor, rows: Rows) -> Tensor:
        """Each example with an adapter of its own: the base once for all, the updates group by group."""
        y, is_own_tensor = self.base_forward(input), False
        for name, index in rows.groups(input, type(self).__name__):
            if name in self.variants:
                update = self.update(name, input[index]).to(y.dtype)
                y = y.index_add_(0, index, update) if is_own_tensor else y.index_add(0, index, update)
                is_own_tensor = True  # the first sum made a new tensor; what `base_forward` gave may be a view
        return y

    def delta_weight(self, name: str) -> Tensor:
        """ΔW, which merging adds, in the shape of `weight`, computed in float32 or wider; for plain LoRA s · B A."""
        return self.variants[name].delta_weight(self, name)

    def delta_bias(self, name: str) -> Tensor | None:
        """Δb, which merging adds to the bias; only (IA)³ changes it."""
        return self.variants[name].delta_bias(self, name)

    # -- what each kind of layer says about two factors

    def factor_shapes(self, variant: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of (A, B)."""
        raise TypeError(f"{type(self).__name__} does not say its factor shapes")

    def start_factors(self, A: Tensor, B: Tensor, zero_start: bool, generator: torch.Generator | None) -> None:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
        if zero_start:
            nn.init.zeros_(B)
        else:
            nn.init.kaiming_uniform_(B, a=math.sqrt(5), generator=generator)

    def drop(self, input: Tensor, dropout: float) -> Tensor:
        """Dropout on the input of an update, in training."""
        return F.dropout(input, dropout, self.training)

    def low_rank(self, input: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        """scaling · f(f(x; A); B)"""
        raise TypeError(f"{type(self).__name__} does not say its update")

    def low_rank_weight(self, A: Tensor, B: Tensor) -> Tensor:
        """B A, for Linear (d_out, d_in), for other layers in the shape of `weight`."""
        raise TypeError(f"{type(self).__name__} does not say its update")

    def forward_with_low_rank(
        self, input: Tensor, A: Tensor, B: Tensor, scaling: float | Tensor, dropout: float, variant: Any
    ) -> Tensor:
        """The base layer and `low_rank` in one step, where there is a faster way."""
        return self.base_forward(input) + self.low_rank(self.drop(input, dropout), A, B, scaling)  # pyright: ignore

    def __getstate__(self):
        """A copy, or a pickled model, computes anew what is cached: it may hold the weight a second time."""
        return {**self.__dict__, "cache": {}}

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
    """Every LoRA layer by its path in the model itself, whatever wrapper is given.

    Raises ValueError where there is none: the usual cause of 'trained nothing'.
    """
    model = bare_model(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no LoRA layers, so there is nothing to train, save or merge. "
            "Marking parameters does not add any: call get_peft_model(model, LoraConfig(...)) first, "
            "or build the model from loralib.Linear"
        )
    return layers


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter's name says that it belongs to an adapter's layer (not to a head or a bias)."""
    return any(f".{container}." in f".{name}." for container in (*containers(), *BLOCKS))


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
