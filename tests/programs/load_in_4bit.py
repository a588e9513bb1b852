"""A process of its own: load a folder in 4 bits and print what it took. `python load_in_4bit.py FOLDER`."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import tiny
import torch
import transformers

from kernels.measure import peak_bytes
from loralib.four_bit.load4bit import load_4bit
from loralib.layers.linear4bit import Linear4bit

CPU = torch.device("cpu")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as small:  # what is imported and allocated on first use is not the model's
        tiny.llama().save_pretrained(small)
        load_4bit(small, transformers.LlamaForCausalLM)
    before = peak_bytes(CPU)
    model, report = load_4bit(sys.argv[1], transformers.LlamaForCausalLM)
    packed = sum(m.quantized.nbytes for m in model.modules() if isinstance(m, Linear4bit))
    layer = max(row.shape[0] * row.shape[1] for row in report.rows) * 4
    print(json.dumps({"above": peak_bytes(CPU) - before, "packed": packed, "other": report.other_bytes, "layer": layer}))


main()
