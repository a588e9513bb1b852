"""`--compile`: the same losses, no graph break in our layers, and a break in a model is reported.

In processes of their own: the shape checker under pytest cannot be traced. The backend is "eager": what is tested is the graph.
"""

from command import run_code

RUN = """
from functools import partial
from training import train_model
from training.models import compiling
from training.runs import run
run.compile_model = partial(compiling.compile_model, backend="eager")
for task, method in (("sentiment", "lora"), ("data2text", "qlora")):
    losses = []
    for compile in (False, True):
        options = {"steps": 2, "train_rows": 40, "eval_rows": 20, "samples": 0, "trackers": "", }
        out = f"FOLDER/{task}-{method}-{compile}"
        result = train_model(task, method=method, out=out, compile=compile, **options)
        losses.append([row["loss"] for row in result.rows if "loss" in row])
        assert result.graph_breaks == ({} if compile else None), result.graph_breaks
        assert ("graph breaks" in open(f"{out}/report.md").read()) == compile
    assert all(abs(a - b) <= 1e-5 * abs(a) for a, b in zip(*losses, strict=True)), losses
"""
BREAK = """
import torch
from torch import nn
from training.models.compiling import compile_model, graph_breaks, is_compiled
class Breaks(nn.Module):
    def forward(self, x):
        torch._dynamo.graph_break()
        return x * 2
model = Breaks()
assert not is_compiled(model)
compile_model(model, backend="eager")
model(torch.ones(3))
assert is_compiled(model) and sum(graph_breaks().values()) >= 1, graph_breaks()
plain = nn.Linear(3, 3)
compile_model(plain, backend="eager")
plain(torch.ones(2, 3))
assert graph_breaks() == {}
"""


def test_a_compiled_run_has_the_same_losses_and_no_graph_break(tmp_path):
    done = run_code(RUN.replace("FOLDER", str(tmp_path)))
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_graph_break_is_counted_with_its_reason():
    done = run_code(BREAK)
    assert done.returncode == 0, done.stderr[-3000:]
