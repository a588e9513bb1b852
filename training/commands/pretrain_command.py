"""`python -m training pretrain`: rebuild the committed bases (about 8 minutes each on one core)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PretrainSettings:
    """Pretrain the small encoder and decoder on the small world's text."""

    kind: Literal["encoder", "decoder", "both"] = "both"
    """which base to pretrain"""
    steps: int | None = None
    """None is the committed recipe's number"""
    out: str = str(Path("runs/base_models"))
    """folder to write to; the committed ones stay as they are"""
    committed: bool = False
    """write over the committed bases instead"""


def run(settings: PretrainSettings) -> None:
    import torch
    from tqdm.auto import tqdm

    from training.models.base_models import HERE
    from training.models.pretrain import Recipe, pretrain, save_base

    torch.set_num_threads(1)
    for kind in ("encoder", "decoder") if settings.kind == "both" else (settings.kind,):
        recipe = Recipe(kind) if settings.steps is None else Recipe(kind, steps=settings.steps)
        with tqdm(total=recipe.steps, desc=kind) as bar:

            def show(row: dict, bar=bar) -> None:
                bar.update(row["step"] - bar.n)
                bar.set_postfix({k: v for k, v in row.items() if k not in ("step", "seconds")})

            model, result = pretrain(recipe, show)
        folder = (HERE if settings.committed else Path(settings.out)) / kind
        save_base(model, recipe, result, folder)
        tqdm.write(f"{kind}: {result} -> {folder}")
