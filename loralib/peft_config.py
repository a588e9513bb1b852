"""LoraConfig to and from peft's `adapter_config.json`. Unknown settings are refused when they are switched on, since an
adapter trained with, say, DoRA computes something else than plain LoRA on the same tensors."""

from loralib.config import ALL_LINEAR, LoraConfig
from loralib.lora_layer import LoraLayer

OURS = "enable_lora"
READ = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "task_type",
    "base_model_name_or_path",
    "init_lora_weights",
    "peft_type",
    "rank_pattern",
    "alpha_pattern",
    OURS,
}
NO_EFFECT = {  # switched on by default, or only a note, in peft's files
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "fan_in_fan_out",  # told by the layer's type
}
REQUIRED = ("r", "lora_alpha", "target_modules")


def config_to_peft(config: LoraConfig, layers: dict[str, LoraLayer], heads: list[str], adapter_name: str) -> dict:
    """The settings as peft reads them. `target_modules` are the full paths that were matched, so nothing is matched anew."""
    mine = {path: layer for path, layer in layers.items() if adapter_name in layer.slots}
    partial = {path: sum(s.enable_lora) for path, layer in mine.items() if (s := layer.slots[adapter_name]).enable_lora}
    return {
        "peft_type": "LORA",
        "task_type": config.task_type,
        "base_model_name_or_path": config.base_model_name_or_path,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": sorted(mine),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": heads or None,
        "rank_pattern": {path: parts * config.r for path, parts in partial.items()},
        "alpha_pattern": {path: parts * config.lora_alpha for path, parts in partial.items()},
        "bias": "none",
        "fan_in_fan_out": any(type(layer).__name__ == "Conv1D" for layer in mine.values()),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        **({OURS: config.enable_lora} if partial else {}),
    }


def config_from_peft(settings: dict) -> LoraConfig:
    """Read peft's settings. ValueError names what is absent, of a wrong type, or not supported."""
    if not isinstance(settings, dict):
        raise ValueError(f"expected an object of settings, found {type(settings).__name__}")
    absent = [key for key in REQUIRED if settings.get(key) is None]
    if absent:
        raise ValueError(f"settings {absent} are missing; there are {sorted(settings)[:8]}")
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"peft_type={settings['peft_type']!r}: this is not a LoRA adapter")
    _refuse_unsupported(settings)
    targets = settings["target_modules"]
    if not isinstance(targets, str) and not (isinstance(targets, list) and all(isinstance(t, str) for t in targets)):
        raise ValueError(f"target_modules={targets!r}: expected a list of names or one regular expression")
    return LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout") or 0.0,
        target_modules=ALL_LINEAR if targets == ALL_LINEAR else targets,
        exclude_modules=settings.get("exclude_modules") or None,
        layers_to_transform=settings.get("layers_to_transform"),
        layers_pattern=settings.get("layers_pattern") or None,
        modules_to_save=settings.get("modules_to_save") or [],
        enable_lora=settings.get(OURS) or {},
        task_type=settings.get("task_type"),
        base_model_name_or_path=settings.get("base_model_name_or_path"),
    )


def _refuse_unsupported(settings: dict) -> None:
    on = {
        k: v
        for k, v in settings.items()
        if k not in READ | NO_EFFECT and v not in (None, False, "none", "", 0) and v != {} and v != []
    }
    on.pop("runtime_config", None)
    if settings.get("init_lora_weights", True) not in (True, False, "gaussian"):
        on["init_lora_weights"] = settings["init_lora_weights"]  # PiSSA and its kin change the base weight too
    if not settings.get(OURS):
        on |= {k: settings[k] for k in ("rank_pattern", "alpha_pattern") if settings.get(k)}
    if on:
        raise ValueError(f"settings {on} change what the adapter computes and are not supported here")
