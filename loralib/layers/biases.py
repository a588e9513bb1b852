"""Biases trained beside LoRA (`bias="all"` or `"lora_only"`): every adapter has copies of its own, and the base keeps its own.

The copy of the active adapter stands in the model under the bias's usual name; with no adapter active the original stands
there, bit for bit. So switching, merging, saving and disabling do with biases what they do with factors.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn
from torch.nn import Parameter

from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import is_adapter_parameter
from loralib.variants.config import AdapterConfig

RECORD = "lora_biases"


@dataclass
class Biases:
    """The biases of a model that some adapter trains; `active` names the adapter whose copies stand in the model."""

    originals: dict[str, Parameter] = field(default_factory=dict)
    places: dict[str, list[tuple[nn.Module, str]]] = field(default_factory=dict)
    """the modules in which each bias stands, and under which name; a shared bias stands in several"""
    copies: dict[str, dict[str, Parameter]] = field(default_factory=dict)
    active: str | None = None
    before_merge: str | None = None


def model_biases(handle: nn.Module) -> Biases:
    """The record of the model; an empty one where no adapter trains biases.

    Any handle finds it: the model, a wrapper around it, or a part of it, because each module with such a bias holds it too.
    """
    return next((module.__dict__[RECORD] for module in handle.modules() if RECORD in module.__dict__), Biases())


def forget_biases(model: nn.Module) -> None:
    """Take the record out of the model and of its modules; what stands in the model stays there."""
    for module in model.modules():
        module.__dict__.pop(RECORD, None)


def bias_names(model: nn.Module, config: AdapterConfig, targets: Iterable[str], heads: Iterable[str]) -> list[str]:
    """Full names of the biases that this adapter trains. ValueError where it asks for biases and there are none."""
    bias = getattr(config, "bias", "none")
    if bias == "none":
        return []
    owners = set(targets)
    names = [name for name, _ in model.named_parameters() if "bias" in name.rpartition(".")[2]]
    apart = tuple(f"{path}." for path in (*heads, *saved_modules(model)))  # heads have biases in copies of their own
    names = [n for n in names if not n.startswith(apart) and not is_adapter_parameter(n)]
    if bias.endswith("_only"):
        names = [n for n in names if n.rpartition(".")[0] in owners]
    if not names:
        raise ValueError(f"bias={bias!r}: none of the {'adapted modules' if bias.endswith('_only') else 'modules'} has a bias")
    return names


def add_biases(model: nn.Module, adapter_name: str, names: list[str]) -> None:
    """Copies of the base's biases for one adapter, frozen until `set_trainable`."""
    if not names:
        return
    record = model.__dict__[RECORD] = model_biases(model)
    for name in names:
        original = record.originals.setdefault(name, model.get_parameter(name))
        record.places.setdefault(name, _places(model, original))
        for module, _ in record.places[name]:
            module.__dict__[RECORD] = record  # so that a part of the model finds it too
        copy = Parameter(original.detach().clone(), requires_grad=False)
        record.copies.setdefault(adapter_name, {})[name] = copy


def refuse_overlap(model: nn.Module, heads: Iterable[str]) -> None:
    """ValueError where a new head would hold a bias that another adapter trains: one of them would change the other's."""
    for name in model_biases(model).originals:
        if name.startswith(tuple(f"{head}." for head in heads)):
            raise ValueError(f"{name} is trained as a bias by another adapter, so its module cannot be saved whole as well")


def use_biases(model: nn.Module, adapter_name: str | None) -> None:
    """Put the adapter's biases in their places, and originals everywhere else."""
    record = model_biases(model)
    chosen = record.copies.get(adapter_name or "", {})
    for name, original in record.originals.items():
        _put(record.places[name], chosen.get(name, original))
    record.active = adapter_name if chosen else None


def delete_biases(model: nn.Module, adapter_name: str) -> None:
    record = model_biases(model)
    if record.active == adapter_name:
        use_biases(model, None)
    record.copies.pop(adapter_name, None)
    still = {name for copies in record.copies.values() for name in copies}
    record.originals = {name: p for name, p in record.originals.items() if name in still}


def the_one_with_biases(model: nn.Module, names: Iterable[str]) -> str | None:
    """Which of the adapters brings biases; ValueError when several do, since a place holds one bias."""
    owners = [n for n in names if n in model_biases(model).copies]
    if len(owners) > 1:
        raise ValueError(f"adapters {owners} each have biases of their own: only one of them can be active at a time")
    return owners[0] if owners else None


def _places(model: nn.Module, parameter: Parameter) -> list[tuple[nn.Module, str]]:
    return [(module, leaf) for module in model.modules() for leaf, other in module._parameters.items() if other is parameter]


def _put(places: list[tuple[nn.Module, str]], parameter: Parameter) -> None:
    for module, leaf in places:  # a bias that is shared is exchanged in all its places
        here = module._parameters[leaf]
        if here is not None and here is not parameter:
            parameter.data = parameter.data.to(here.device, here.dtype)  # the model may have moved while it was away
            module._parameters[leaf] = parameter
