"""`python -m tutorials widget-data`: measures what the book's widgets show, and writes scripts/widget_data.js."""

import json
import tempfile
from pathlib import Path

FILE = Path(__file__).parent / "scripts" / "widget_data.js"
TOKENS = 64
"""tokens of an example in the memory calculator"""
LAYER = "bert.encoder.layer.1.attention.self.query.weight"


def models() -> dict:
    """{name: function that makes it}; their sizes count, not their weights."""
    from transformers import AutoConfig, BertConfig, BertForSequenceClassification

    from training.models.base_models import SMALL

    small = AutoConfig.from_pretrained(SMALL["encoder"])
    return {
        "the small encoder of this course": lambda: BertForSequenceClassification(small),
        "BERT-base": lambda: BertForSequenceClassification(BertConfig()),
    }


def facts(make, examples: int = 4) -> dict:
    """What the formulas need of a model. `activations_*`: bytes for each token, measured on one batch with r = 8."""
    import loralib

    model = make()
    base = sum(p.numel() for p in model.parameters())
    layers = model.config.num_hidden_layers
    shapes = [list(model.get_submodule(name).weight.shape) for name in linear_layers(model) if ".layer.0." in name]
    full = activation_bytes(model, examples)
    loralib.inject(model, loralib.LoraConfig(r=8, target_modules=linear_layers(model), modules_to_save=[]))
    tokens = examples * TOKENS
    return {
        "base": base,
        "layers": layers,
        "shapes": shapes,
        "tokens": TOKENS,
        "activations_full": full / tokens,
        "activations_lora": activation_bytes(model, examples) / tokens,
    }


def linear_layers(model) -> list[str]:
    """The linear layers inside the Transformer layers: all that LoRA adapts in the calculator."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layer." in name]


def activation_bytes(model, examples: int) -> int:
    """Bytes that autograd keeps for the backward pass of one batch, without the parameters."""
    import torch

    from kernels.measure import saved_bytes

    model.train()
    ids = torch.randint(5, 100, (examples, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(examples, dtype=torch.long)
    return saved_bytes(lambda: model(input_ids=ids, labels=labels).loss, leave_out=model.parameters())


def learned_update() -> list[list[float]]:
    """The update of one query weight by full fine-tuning on question answering, as a list of rows."""
    from safetensors.torch import load_file

    from training import train_model
    from training.models.base_models import SMALL

    before = load_file(SMALL["encoder"] / "model.safetensors")[LAYER]
    result = train_model("qa", method="full", steps=300, eval_every=300, trackers="", out=tempfile.mkdtemp())
    update = dict(result.model.named_parameters())[LAYER].detach().cpu() - before
    return [[round(value, 4) for value in row] for row in update.tolist()]


def normal_numbers() -> list[float]:
    """What the NF4 widget quantizes: 256 normal numbers."""
    import torch

    return [round(x, 3) for x in torch.randn(256, generator=torch.Generator().manual_seed(0)).tolist()]


def command() -> int:
    import torch

    from kernels.formulas import nf4

    torch.manual_seed(0)
    values = {"WIDGET_MODELS": {name: facts(make) for name, make in models().items()}, "WIDGET_UPDATE": learned_update()}
    values |= {"WIDGET_NORMAL": normal_numbers(), "WIDGET_NF4_LEVELS": nf4.levels("nf4").tolist()}
    head = "// Made by `python -m tutorials widget-data`; do not edit.\n"
    lines = [f"window.{name} = {json.dumps(value, separators=(',', ':'))};\n" for name, value in values.items()]
    FILE.write_text(head + "".join(lines))
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
    return 0
