"""The list of all variants, by the name of the method in adapter files."""

from loralib.variants.config import AdapterConfig, LoraConfig
from loralib.variants.dora import Dora
from loralib.variants.ia3 import Ia3, IA3Config
from loralib.variants.lora import Lora
from loralib.variants.pissa import Pissa
from loralib.variants.swappable import Swappable
from loralib.variants.variant import Variant
from loralib.variants.vera import Vera, VeraConfig

CONFIGS: dict[str, type[AdapterConfig]] = {config.peft_type: config for config in (LoraConfig, IA3Config, VeraConfig)}
VARIANTS: list[type[Variant]] = [Lora, Dora, Pissa, Swappable, Ia3, Vera]


def register(config: type[AdapterConfig], *variants: type[Variant]) -> None:
    """Add a method: its settings, and its variants. ValueError for a name that is taken."""
    if not config.peft_type or CONFIGS.get(config.peft_type, config) is not config:
        raise ValueError(f"peft_type={config.peft_type!r} of {config.__name__}: expected a new name; there are {sorted(CONFIGS)}")
    CONFIGS[config.peft_type] = config
    VARIANTS.extend(variant for variant in variants if variant not in VARIANTS)


def trainable_containers() -> tuple[str, ...]:
    """Names of the containers of what adapters train in a layer."""
    return tuple(dict.fromkeys(name for variant in VARIANTS for name in variant.parameters))


def containers() -> tuple[str, ...]:
    """Names of all containers of adapters in a layer, also of what does not train."""
    return tuple(dict.fromkeys((*trainable_containers(), *(name for variant in VARIANTS for name in variant.fixed))))
