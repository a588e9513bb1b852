"""Run under torchrun: steps of a distillation on rows of unequal lengths, some without labels; writes rows and weights (rank 0).

`python -m torch.distributed.run --nproc-per-node 2 tests/programs/two_processes_distill.py GLOBAL_BATCH STEPS OUT.json`
"""

# ruff: noqa: E402 (the path comes first)
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import pairs
import torch

from distill.runs.trainer import DistillSteps
from training.data.batching import Steps
from training.loop import loop
from training.loop.processes import gather, make_accelerator

WORDS = ["kd:T=4..1,a=1..0.5", "hidden:1->2,w=0..3", "relations:1->2,heads=2", "patient:0->1"]


def main(batch: int, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    rank, count = accelerator.process_index, accelerator.num_processes
    student = pairs.model("tagging", 1 + rank, hidden_size=12)  # rank 0's start must win
    one = pairs.distiller(WORDS, "tagging", student, pairs.model("tagging", 9))
    data = Steps(pairs.features("tagging", 13, labelled=5), pairs.TOKENIZER, batch // count, 3, 1, rank, count)  # 13: an odd rest
    rows: list[dict] = []
    settings = loop.LoopSettings(steps=steps, learning_rate=3e-3, weight_decay=0.1, eval_every=10**6)
    loop.run(DistillSteps(one, data, settings, accelerator=accelerator), on_row=rows.append)
    weights = torch.cat([p.detach().flatten() for p in one.parameters()])
    everyone = gather([weights], accelerator)
    if accelerator.is_main_process:
        equal = all(torch.equal(w, everyone[0]) for w in everyone)
        out.write_text(json.dumps({"rows": rows, "weights": weights[::7].tolist(), "ranks_equal": equal}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
