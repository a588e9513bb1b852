"""Write a model with 4-bit layers as transformers and bitsandbytes do, so that `load_4bit` and `from_pretrained` read it."""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save

from loralib.files.save_and_load import write_atomic
from loralib.layers.linear4bit import Linear4bit


def save_4bit(model, folder: Path) -> int:
    """Weights and config, in the format that `BitsAndBytesConfig(load_in_4bit=True)` models are saved in; the weights' bytes."""
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
    tied = tied_names(model)
    tensors = {name: t.detach().contiguous().clone() for name, t in model.state_dict().items() if name not in tied}
    folder.mkdir(parents=True, exist_ok=True)
    content = save(tensors, metadata={"format": "pt"})
    write_atomic(folder / "model.safetensors", content)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    config = model.config.to_dict() | {"quantization_config": facts, "architectures": [type(model).__name__]}
    write_atomic(folder / "config.json", (json.dumps(config, indent=2, default=str) + "\n").encode())
    return len(content)


def tied_names(model) -> set[str]:
    """Names that stand for a weight which has another name too, and which no file holds twice."""
    return set(getattr(model, "_tied_weights_keys", None) or {}) if getattr(model.config, "tie_word_embeddings", False) else set()
