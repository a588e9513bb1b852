"""Run under torchrun: train on one set of rows with all processes, and write the losses of each step (rank 0).

`python -m torch.distributed.run --nproc-per-node 2 tests/programs/two_processes.py ROWS,ROWS GLOBAL_BATCH STEPS FOLDER`
"""

# ruff: noqa: E402 (the path comes first)
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import tiny
import torch

import loralib
from training.data.batching import Steps
from training.evaluation.evaluation import objective_of
from training.loop import loop
from training.loop.processes import gather, make_accelerator, on_main, share


def features(count: int) -> list[dict]:
    """Texts of 2 to 20 tokens, and from 1 to all of their tokens scored: a mean of means would differ."""
    rng, rows = random.Random(0), []
    for _ in range(count):
        n = rng.randint(2, 20)
        ids = [rng.randrange(40) for _ in range(n)]
        hidden = rng.randrange(n - 1)
        rows.append({"input_ids": ids, "attention_mask": [1] * n, "labels": [-100] * hidden + ids[hidden:]})
    return rows


def main(rows: int, batch: int, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    rank, count = accelerator.process_index, accelerator.num_processes
    model = tiny.gpt2(seed=0, dtype=torch.float64)  # in float32 Adam blows rounding up to 3e-4 within 50 steps
    loralib.inject(model, loralib.LoraConfig(r=4, init_lora_weights=False), seed=rank)  # rank 0's start must win
    data = Steps(features(rows), SimpleNamespace(pad_token_id=0), batch // count, 3, 1, rank, count)
    visited: list[dict] = []
    settings = loop.LoopSettings(steps=steps, learning_rate=5e-3, eval_every=10**6)
    loop.train(model, data, objective_of("generation"), settings, dict, visited.append, accelerator)
    assert gather(share(list(range(7)), accelerator), accelerator) == list(range(7))
    try:
        on_main(lambda: 1 / 0, accelerator)
    except ZeroDivisionError:
        visited.append({"raised": count})  # on every rank, or one would wait forever
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    everyone = gather([weights], accelerator)
    if accelerator.is_main_process:
        equal = all(torch.equal(w, everyone[0]) for w in everyone)
        out.write_text(json.dumps({"rows": visited, "weights": weights.tolist(), "ranks_equal": equal}))


if __name__ == "__main__":
    for rows in sys.argv[1].split(","):
        main(int(rows), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]) / f"2-{rows}.json")
