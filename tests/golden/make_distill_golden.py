"""Makes distill.json: what TRL and TextBrewer compute with given numbers, in float64. Run in an environment of its own:

    python -m venv kd && kd/bin/pip install torch==2.13.0 transformers==5.23.0 datasets accelerate tensorboard tqdm
    kd/bin/pip install --no-deps trl==1.16.0 textbrewer==0.2.1.post1 && kd/bin/python tests/golden/make_distill_golden.py

Each entry of "out" is [value, gradient by the student]. TRL: `GKDTrainer.generalized_jsd_loss`, with labels of -100 at padding.
TextBrewer: the functions of `textbrewer.losses`, the masked ones with the mask. Nothing here is run by the tests.
"""

import json
from pathlib import Path

import textbrewer.losses as tb
import torch
from trl.experimental.gkd.gkd_trainer import GKDTrainer

B, T, C, D, H = 2, 3, 5, 4, 2
generator = torch.Generator().manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return (1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)).round(decimals=3)


inputs = {
    "mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    "logits": (draw(B, T, C), draw(B, T, C)),
    "states": (draw(B, T, D), draw(B, T, D)),
    "scores": (draw(B, H, T, T), draw(B, H, T, T)),
}
mask = inputs["mask"]
labels = torch.where(mask == 1, 1, -100)
out = {}


def keep(name: str, kind: str, loss, *more, **options) -> None:
    student, teacher = inputs[kind]
    student = student.clone().requires_grad_()
    value = loss(student, teacher, *more, **options)
    (gradient,) = torch.autograd.grad(value, student)
    out[name] = [round(value.item(), 12), [round(x, 12) for x in gradient.flatten().tolist()]]


for beta in (0, 0.1, 0.5, 0.9, 1):
    keep(f"trl.jsd.beta{beta}", "logits", GKDTrainer.generalized_jsd_loss, labels, beta=beta)
for temperature in (2.0, 8.0):
    keep(f"trl.jsd.T{temperature:g}", "logits", GKDTrainer.generalized_jsd_loss, labels, beta=0.5, temperature=temperature)
for temperature in (1.0, 2.0, 8.0):
    keep(f"tb.kd_ce.T{temperature:g}", "logits", tb.kd_ce_loss, temperature)
    keep(f"tb.kd_mse.T{temperature:g}", "logits", tb.kd_mse_loss, temperature)
keep("tb.hid_mse", "states", tb.hid_mse_loss, mask)
keep("tb.cos", "states", tb.cos_loss, mask)
keep("tb.pkd", "states", tb.pkd_loss)
keep("tb.att_mse.mask", "scores", tb.att_mse_loss, mask)
keep("tb.att_mse.all_real", "scores", tb.att_mse_loss, torch.ones_like(mask))
keep("tb.att_mse.no_mask", "scores", tb.att_mse_loss)
keep("tb.att_ce.mask", "scores", tb.att_ce_loss, mask)
keep("tb.att_ce.all_real", "scores", tb.att_ce_loss, torch.ones_like(mask))
plain = {k: v.tolist() if isinstance(v, torch.Tensor) else [x.tolist() for x in v] for k, v in inputs.items()}
path = Path(__file__).with_name("distill.json")
path.write_text(json.dumps({"inputs": plain, "out": out}) + "\n")
print(f"{path.name}: {len(out)} losses, {path.stat().st_size} bytes")
