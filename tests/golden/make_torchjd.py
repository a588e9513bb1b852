"""Makes torchjd.json: what TorchJD computes from given gradients. Run in an environment of its own:

    python -m venv tjd && tjd/bin/pip install torch==2.13.0 'torchjd[full]==0.18.0' && tjd/bin/python tests/golden/make_torchjd.py

For each case: the gradients of the tasks, J (K, n), in float64, and by method the aggregated update (n,). With three tasks,
PCGrad and GradVac are missing: they draw their order at random.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from torchjd.aggregation import IMTLG, MGDA, AlignedMTL, CAGrad, NashMTL, PCGrad, Sum, UPGrad

g = torch.Generator().manual_seed(0)
random = {f"{tasks} tasks": torch.randn(tasks, 8, generator=g, dtype=torch.float64) for tasks in (2, 3, 4)}
cases = {"page": torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64), **random}
result: dict = {"torchjd": version("torchjd"), "torch": version("torch"), "cases": {}}
for name, J in cases.items():
    methods = {
        "equal": Sum(),
        "mgda": MGDA(epsilon=1e-14, max_iters=100_000),
        "cagrad": CAGrad(c=0.5, norm_eps=0.0),
        "imtl_g": IMTLG(),
        "nash_mtl": NashMTL(n_tasks=len(J), optim_niter=200),
        "aligned_mtl": AlignedMTL(),
        "upgrad": UPGrad(),
    }
    if len(J) == 2:
        methods["pcgrad"] = PCGrad()
    updates = {method: aggregate(J).tolist() for method, aggregate in methods.items()}
    result["cases"][name] = {"J": J.tolist(), "updates": updates}
Path(__file__).with_name("torchjd.json").write_text(json.dumps(result, indent=1) + "\n")
