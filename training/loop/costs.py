"""What the steps of a run cost: seconds by part of a step, and tokens with and without padding.

    data → forward → backward → optimizer (with the norm of the gradients and the sums over processes)

On a GPU the parts are measured with events, which the GPU reaches later than Python; they are read at the end of a step, after
its loss was read anyway. Nothing waits because of the measurement.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch

PARTS = ("data", "forward", "backward", "optimizer")


def shares_of(seconds_by_part: Mapping[str, float]) -> str:
    """`data 2 %, forward 30 %, ...` for a person; "" for a run without steps."""
    together = sum(seconds_by_part.values())
    return ", ".join(f"{name} {seconds / together:.0%}" for name, seconds in seconds_by_part.items()) if together else ""


def costs_line(result: Mapping[str, Any]) -> str:
    """A line of a report; "" for the result of a run without steps, or of an older version."""
    shares = shares_of(result.get("seconds_by_part", {}))
    return f"Time of the steps: {shares}. {result['padding']:.0%} of the trained tokens were padding.\n" if shares else ""


class Costs:
    """Sums over all steps; a part of checkpoints, so that a resumed run reports all of its steps."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.real_tokens = self.all_tokens = 0
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """A step begins: what follows is the first part."""
        self._marks = [("", self._now())]

    def mark(self, part: str) -> None:
        """The time since the last mark belongs to this part."""
        self._marks.append((part, self._now()))

    def finish(self, real_tokens: int, all_tokens: int) -> None:
        """A step ends: add its parts to the sums, and the tokens of all its batches."""
        if self.device.type == "cuda" and self._marks:
            self._marks[-1][1].synchronize()
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            self.seconds[part] += before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
        self.real_tokens += real_tokens
        self.all_tokens += all_tokens
        self._marks = []

    @property
    def padding(self) -> float:
        """The fraction of all tokens that are padding."""
        return 1 - self.real_tokens / self.all_tokens if self.all_tokens else 0.0

    def report(self) -> dict[str, Any]:
        """For the result of a run."""
        return {"seconds_by_part": dict(self.seconds), "padding": self.padding}

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def state_dict(self) -> dict:
        return {"seconds": dict(self.seconds), "real_tokens": self.real_tokens, "all_tokens": self.all_tokens}

    def load_state_dict(self, state: dict) -> None:
        self.seconds = dict(state["seconds"])
        self.real_tokens, self.all_tokens = state["real_tokens"], state["all_tokens"]
