"""Learning rates over the steps: up in a straight line while it warms up, then as the schedule says, as a share of the highest.

    linear: 1 → 0 in a straight line      cosine: ½(1 + cos π·past/rest), Loshchilov & Hutter 2017, eq. 5      constant: 1

The values are those of `transformers.get_scheduler`. We write them out because that import brings the whole Trainer of
transformers, and with it peft and bitsandbytes where they are installed: seconds at the start of every command.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": lambda past, rest: (rest - past) / rest,
    "cosine": lambda past, rest: 0.5 * (1 + math.cos(math.pi * (past / rest))),
    "constant_with_warmup": lambda past, rest: 1.0,
}
"""name → the share of the highest learning rate, when `past` of the `rest` steps after the warm-up are past"""


def make_schedule(name: str, optimizer: Optimizer, warmup: int, steps: int) -> LambdaLR:
    """`warmup` of the `steps` steps go up from 0; the rest follow the schedule. Raises ValueError for an unknown name."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(SCHEDULES)}")
    rest = max(1, steps - warmup)

    def share(step: int) -> float:
        return step / warmup if step < warmup else SCHEDULES[name](min(step - warmup, rest), rest)

    return LambdaLR(optimizer, share)
