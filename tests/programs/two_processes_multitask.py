"""Run under torchrun: multitask steps on rows of unequal lengths with all processes; writes rows and weights (rank 0).

`torchrun --nproc-per-node 2 tests/programs/two_processes_multitask.py METHOD,METHOD BATCH STEPS FOLDER [teachers]`
"""

# ruff: noqa: E402 (the path comes first)
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import multi
import pairs
import torch

from distill.runs.many_tasks import DistilledLearner, DistilledSteps
from distill.teacher.teacher import Teacher
from multitask.balancing.balancing import make_balancing
from multitask.runs.steps import OBJECTIVE, Learner, MultitaskSteps
from training.loop import loop
from training.loop.processes import gather, make_accelerator


def main(method: str, batch: int, steps: int, out: Path, teachers: bool) -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    rank, count = accelerator.process_index, accelerator.num_processes
    model = multi.model(dtype=torch.float64)
    balancing = make_balancing(method, [spec.kind for spec in multi.TASKS.values()]).double()
    learner, kind_of_steps = Learner(model, balancing), MultitaskSteps
    if teachers:
        asked = {name: Teacher([pairs.model(spec.kind, 9)], spec.kind) for name, spec in multi.TASKS.items()}
        learner, kind_of_steps = DistilledLearner(model, balancing, asked, 2.0, (0.0, 1.0)), DistilledSteps
    data = multi.manager(batch_size=batch // count, rank=rank, processes=count)
    rows: list[dict] = []
    settings = loop.LoopSettings(steps=steps, learning_rate=3e-3, weight_decay=0.1, eval_every=10**6)
    loop.run(kind_of_steps(learner, data, OBJECTIVE, settings, accelerator), on_row=rows.append)
    weights = torch.cat([p.detach().flatten() for p in learner.parameters()])
    everyone = gather([weights], accelerator)
    if accelerator.is_main_process:
        equal = all(torch.equal(w, everyone[0]) for w in everyone)
        out.write_text(json.dumps({"rows": rows, "weights": weights[:: len(weights) // 500].tolist(), "ranks_equal": equal}))


if __name__ == "__main__":
    for method in sys.argv[1].split(","):
        out = Path(sys.argv[4]) / f"2-{method}.json"
        main(method, int(sys.argv[2]), int(sys.argv[3]), out, sys.argv[5:] == ["teachers"])
