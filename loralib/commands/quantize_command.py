"""`python -m loralib quantize MODEL --out DIR`: a transformers folder with 4-bit weights, in bitsandbytes' format."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

TOKENIZERS = ("tokenizer*", "vocab*", "*.model")

if TYPE_CHECKING:
    from loralib.four_bit.qlora import QuantReport


@dataclass(frozen=True)
class Quantize:
    """Write a model with 4-bit linear layers. `from_pretrained` reads the folder, with bitsandbytes installed."""

    model: Annotated[Path, tyro.conf.Positional]
    """a local folder with config.json and safetensors files"""
    out: Path
    """folder to write"""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """the 16 levels: nf4 for normally distributed weights, or fp4"""
    blocksize: int = 64
    """weights that share one scale"""
    double_quant: bool = True
    """the scales in 8 bits too"""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the matmuls, for those who load the folder"""
    skip: tuple[str, ...] = ()
    """further layers to leave, by the end of their name; heads, embeddings and norms stay anyway"""


def quantize(settings: Quantize) -> "QuantReport":
    import torch
    import transformers
    from tqdm.auto import tqdm

    from loralib.four_bit.load4bit import load_4bit
    from loralib.four_bit.save4bit import save_4bit

    if not (settings.model / "config.json").is_file():
        raise ValueError(f"{settings.model} is no folder with a config.json")
    if settings.out.exists() and any(settings.out.iterdir()):
        raise ValueError(f"{settings.out} is not empty: old weights would lie beside the new ones")
    config = transformers.AutoConfig.from_pretrained(settings.model)
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{settings.model} is quantised already (quantization_config in its config.json): give the float model")
    kinds = config.architectures or []
    model_class = getattr(transformers, kinds[0], None) if kinds else None
    if model_class is None:
        raise ValueError(f"{settings.model}/config.json names no architecture that transformers has: {kinds}")
    options = {"quant_type": settings.quant_type, "blocksize": settings.blocksize, "double_quant": settings.double_quant}
    show = lambda tensors: tqdm(tensors, unit=" tensors", leave=False, disable=None)  # noqa: E731
    dtype = getattr(torch, settings.compute_dtype)
    model, report = load_4bit(settings.model, model_class, list(settings.skip), compute_dtype=dtype, progress=show, **options)
    save_4bit(model, settings.out)
    copy_tokenizer(settings.model, settings.out)
    print(report)
    print(f"written to {settings.out}")
    return report


def copy_tokenizer(model: Path, out: Path) -> None:
    """Where there is none, transformers may make one that knows no word: so the files are looked for first."""
    import transformers

    if not any(file for pattern in TOKENIZERS for file in model.glob(pattern)):
        return print(f"note: {model} has no tokenizer, so {out} has none")
    try:
        transformers.AutoTokenizer.from_pretrained(model).save_pretrained(out)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"note: {out} has no tokenizer, for that of {model} cannot be read: {reason}")
