"""Run under torchrun: LoRA in a loop of one's own with FSDP2 (`fully_shard`), against the whole model in one process.

`python -m torch.distributed.run --nproc-per-node 2 tests/programs/fully_sharded.py OUT.json`
"""

# ruff: noqa: E402 (the path comes first)
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import tiny
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import loralib


def adapted():
    model = tiny.llama(dtype=torch.float64)
    loralib.inject(model, loralib.LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=generator)
    return model


def train(model, ids) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def main(out: Path) -> None:
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    ids = torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(2))
    whole, sharded = adapted(), adapted()
    mesh = init_device_mesh("cpu", (count,))
    for block in sharded.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    train(whole, ids)
    train(sharded, ids.chunk(count)[rank])
    pairs = [
        (a, b.full_tensor()) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True) if a.requires_grad
    ]  # every rank takes part in gathering
    if rank == 0:
        fresh = [p for p in adapted().parameters() if p.requires_grad]
        moved = min(float((a - start).detach().abs().max()) for (a, _), start in zip(pairs, fresh, strict=True))
        worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
        out.write_text(json.dumps({"trained": len(pairs), "moved": moved, "worst": worst}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
