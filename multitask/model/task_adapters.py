"""A frozen backbone with an adapter for each task: LoRA by `loralib`, bottlenecks by `adapters`, chosen row by row.

Tasks then share everything that is frozen and nothing that learns: no interference, and no transfer.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from adapters.bottleneck.attachment import sites
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.composition import BatchSplit
from adapters.verbs import activate, attach, train_only
from loralib import LoraConfig, lora_layers, mixed_batch

TaskAdapterConfig = LoraConfig | BottleneckConfig


class TaskAdapters:
    """Puts one adapter for each task into `backbone` and freezes the rest of it; `acting` chooses them row by row."""

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], config: TaskAdapterConfig, seed: int = 0):
        self.names = [f"task{i}-{re.sub(r'[^A-Za-z0-9_-]', '_', task)}" for i, task in enumerate(tasks)]
        self.backbone, self.config = backbone, replace(config, modules_to_save=[])
        for i, name in enumerate(self.names):
            attach(backbone, self.config, name, seed=seed + i)
        train_only(backbone, self.names)

    @contextmanager
    def acting(self, task_ids: list[int]) -> Iterator[None]:
        """Inside, row i of the batch has the adapter of its task."""
        names = [self.names[k] for k in task_ids]
        if isinstance(self.config, LoraConfig):
            with mixed_batch(self.backbone, names):
                yield
        else:
            activate(self.backbone, BatchSplit(*names))
            yield

    def task_of(self) -> dict[int, int]:
        """Which task each adapter parameter belongs to, by the parameter's id."""
        parts = {name: k for k, name in enumerate(self.names)}
        lora = isinstance(self.config, LoraConfig)
        holders = lora_layers(self.backbone) if lora else {path: site.bottlenecks for path, site in sites(self.backbone).items()}
        named = (pair for holder in holders.values() for pair in holder.named_parameters())
        return {id(p): parts[part] for path, p in named for part in path.split(".") if part in parts}
