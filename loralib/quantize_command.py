"""`python -m loralib quantize MODEL --out DIR`: a transformers folder with 4-bit weights, in bitsandbytes' format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import transformers
import tyro
from safetensors.torch import save
from tqdm.auto import tqdm

from loralib.checkpoint import write_atomic
from loralib.linear4bit import Linear4bit
from loralib.load4bit import load_4bit
from loralib.qlora import QuantReport


@dataclass(frozen=True)
class Quantize:
    """Write a model with 4-bit linear layers. `from_pretrained` reads the folder, with bitsandbytes installed."""

    model: Annotated[Path, tyro.conf.Positional]
    """a local folder with config.json and safetensors files"""
    out: Path
    """folder to write"""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    blocksize: int = 64
    double_quant: bool = True
    """the scales in 8 bits too"""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the products, for those who load the folder"""
    skip: tuple[str, ...] = ()
    """further layers to leave, by the end of their name; heads, embeddings and norms stay anyway"""


def quantize(settings: Quantize) -> QuantReport:
    if not (settings.model / "config.json").is_file():
        raise ValueError(f"{settings.model} is no folder with a config.json")
    if settings.out.exists() and any(settings.out.iterdir()):
        raise ValueError(f"{settings.out} is not empty: old weights would lie beside the new ones")
    config = transformers.AutoConfig.from_pretrained(settings.model)
    kinds = config.architectures or []
    model_class = getattr(transformers, kinds[0], None) if kinds else None
    if model_class is None:
        raise ValueError(f"{settings.model}/config.json names no architecture that transformers has: {kinds}")
    options = {"quant_type": settings.quant_type, "blocksize": settings.blocksize, "double_quant": settings.double_quant}
    show = lambda tensors: tqdm(tensors, unit=" tensors", leave=False, disable=None)  # noqa: E731
    dtype = getattr(torch, settings.compute_dtype)
    model, report = load_4bit(settings.model, model_class, list(settings.skip), compute_dtype=dtype, progress=show, **options)
    save_4bit(model, settings.out)
    try:
        transformers.AutoTokenizer.from_pretrained(settings.model).save_pretrained(settings.out)
    except (OSError, ValueError):
        print(f"note: {settings.model} has no tokenizer")
    print(report)
    print(f"written to {settings.out}")
    return report


def save_4bit(model, folder: Path) -> None:
    """Weights and config, in the format that `BitsAndBytesConfig(load_in_4bit=True)` models are saved in."""
    layers = {path: m for path, m in model.named_modules() if isinstance(m, Linear4bit)}
    first = next(iter(layers.values()))
    linear = {path for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    facts = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=first.quant_type,
        bnb_4bit_use_double_quant=first.nested_absmax is not None,
        bnb_4bit_compute_dtype=first.compute_dtype,
        llm_int8_skip_modules=sorted(linear) or None,
    ).to_dict()
    tied = set(getattr(model, "_tied_weights_keys", None) or {}) if getattr(model.config, "tie_word_embeddings", False) else set()
    tensors = {name: t.detach().contiguous().clone() for name, t in model.state_dict().items() if name not in tied}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    config = model.config.to_dict() | {"quantization_config": facts, "architectures": [type(model).__name__]}
    write_atomic(folder / "config.json", (json.dumps(config, indent=2, default=str) + "\n").encode())
