"""What a model costs to answer: parameters, bytes on disk, operations, and time measured in turn with others."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from adapters.virtual.attention import implementation
from distill.compression.int8_product import int_mm_is_exact
from training.data.batching import Batch
from training.evaluation.evaluation import model_inputs
from training.runs.step_time import ratio, seconds_of


def operations(model: Any, batch: Batch) -> int:
    """Multiplications and additions of one forward pass, counted by torch: matrix multiplications and attention.

    Attention as plain matrix multiplications, over all pairs of tokens: torch does not count its fused form on a CPU. Matmuls
    of int8 numbers count as those of floats, by whatever route they go: it is their time that differs.
    """
    int_mm_is_exact()  # tried once in a process, and not a part of the model
    int8 = {torch.ops.aten._int_mm: _product}  # pyright: ignore[reportPrivateImportUsage]
    with torch.no_grad(), implementation(model, "eager"), FlopCounterMode(display=False, custom_mapping=int8) as counter:
        model(**model_inputs(batch))
    return counter.get_total_flops()


def file_bytes(folder: Path) -> int:
    """Of all weights in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@torch.no_grad()
def answering_seconds(models: dict[str, Any], batch: Batch, rounds: int = 20, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of one batch for each model, taken in turn, round after round: a slow moment slows all of them."""
    inputs = model_inputs(batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(warm_up + rounds):
        for name, model in models.items():
            seconds = seconds_of(lambda model=model: model(**inputs))
            if number >= warm_up:
                times[name].append(seconds)
    return times


def speed_up(times: dict[str, list[float]], name: str, to: str) -> tuple[float, float, float]:
    """(20 %, median, 80 %) of the time of `to` over that of `name`, round by round."""
    return ratio(times[to], times[name])


def _product(a: tuple[int, ...], b: tuple[int, ...], **options: Any) -> int:
    """Of (M, K) times (K, N), as torch counts them."""
    return 2 * a[0] * a[1] * b[1]
