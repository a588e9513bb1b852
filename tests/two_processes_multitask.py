"""Run under torchrun: multitask steps on rows of unequal lengths with all processes; writes rows and weights (rank 0).

`python -m torch.distributed.run --nproc-per-node 2 tests/two_processes_multitask.py METHOD GLOBAL_BATCH STEPS OUT.json`
"""

# ruff: noqa: E402 (the path comes first)
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import multi
import torch

from multitask.balancing import make_balancing
from multitask.steps import OBJECTIVE, Learner, MultitaskSteps
from training import loop
from training.processes import gather, make_accelerator


def main(method: str, batch: int, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    rank, count = accelerator.process_index, accelerator.num_processes
    model = multi.model(dtype=torch.float64)
    learner = Learner(model, make_balancing(method, [spec.kind for spec in multi.TASKS.values()]).double())
    data = multi.manager(batch_size=batch // count, rank=rank, processes=count)
    rows: list[dict] = []
    settings = loop.LoopSettings(steps=steps, learning_rate=3e-3, weight_decay=0.1, eval_every=10**6)
    loop.run(MultitaskSteps(learner, data, OBJECTIVE, settings, accelerator), on_row=rows.append)
    weights = torch.cat([p.detach().flatten() for p in learner.parameters()])
    everyone = gather([weights], accelerator)
    if accelerator.is_main_process:
        equal = all(torch.equal(w, everyone[0]) for w in everyone)
        out.write_text(json.dumps({"rows": rows, "weights": weights[:: len(weights) // 500].tolist(), "ranks_equal": equal}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
