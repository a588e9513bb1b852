"""Several processes, one run: numbers and gradients are summed over all ranks, so that the split changes nothing.

No DistributedDataParallel: it divides by the number of ranks, which is a mean of means once the ranks hold unequal numbers
of tokens. Here each rank's loss is already divided by the count over all ranks, and one all-reduce adds the gradients up.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, distributed, nn

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def make_accelerator(mixed_precision: str = "no", **options: Any) -> Accelerator:
    """An Accelerator for one run; a process may train several times, with different precisions.

    ValueError for ways of launching that would split the model itself (FSDP, DeepSpeed).
    """
    AcceleratorState._reset_state()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = several and not torch.cuda.is_available()  # without this, accelerate would make a run of each process
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, **options)
    accelerator.gradient_accumulation_steps = 1  # the loop divides once; accelerate must not divide again
    if several and accelerator.num_processes == 1:
        raise ValueError("launched as several processes, but they do not find each other: start them with torchrun or accelerate")
    if accelerator.distributed_type not in SUPPORTED:
        raise ValueError(
            f"launched as {accelerator.distributed_type.value}: this loop copies the model to each process; "
            "launch with `accelerate launch --multi_gpu` or `torchrun`"
        )
    return accelerator


def total(values: Iterable[float], accelerator: Accelerator) -> list[float]:
    """The sums over all ranks, in float64."""
    values = list(values)
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    distributed.all_reduce(tensor)
    return tensor.tolist()


def sum_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its sum over all ranks: one flat buffer per dtype, one all-reduce each.

    A rank that had no row in this step takes part with zeros. What has a gradient on no rank keeps none: an optimizer leaves it
    alone.
    """
    if accelerator.num_processes == 1:
        return
    moved = total([p.grad is not None for p in parameters], accelerator)
    parameters = [p for p, ranks in zip(parameters, moved, strict=True) if ranks]
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        of_dtype = [p for p in parameters if p.dtype == dtype]
        for p in of_dtype:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        flat = torch.cat([p.grad.flatten() for p in of_dtype])  # pyright: ignore[reportOptionalMemberAccess]
        distributed.all_reduce(flat)
        for p, part in zip(of_dtype, flat.split([p.numel() for p in of_dtype]), strict=True):
            p.grad.copy_(part.view_as(p))  # pyright: ignore[reportOptionalMemberAccess]


@torch.no_grad()
def same_start(parameters: list[Tensor], accelerator: Accelerator) -> None:
    """Rank 0's values for everybody."""
    if accelerator.num_processes > 1:
        for p in parameters:
            distributed.broadcast(p, 0)


def share(items: list, accelerator: Accelerator) -> list:
    """This rank's contiguous part; sizes differ by one at most, and `gather` puts the parts together in order."""
    count, rank = accelerator.num_processes, accelerator.process_index
    return items[len(items) * rank // count : len(items) * (rank + 1) // count]


def gather(items: list, accelerator: Accelerator) -> list:
    """The parts of all ranks, in the order of the ranks."""
    return items if accelerator.num_processes == 1 else gather_object(items)


def on_main(work: Callable[[], Any], accelerator: Accelerator) -> Any:
    """Rank 0 does the work; every rank gets its result, or its error, so that nobody waits forever."""
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
