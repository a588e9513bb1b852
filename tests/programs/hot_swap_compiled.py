"""Run by test_loralib_mixed_batch.py: exchange adapters in a compiled model; any recompilation is an error."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import tiny
import torch

import loralib as lora


def main(backend: str, folders: list[str]) -> None:
    model = tiny.llama()
    lora.load_adapter(model, folders[0], trainable=False)
    lora.prepare_hotswap(model, rank=8)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for folder in folders:
            lora.hotswap_adapter(model, folder)
            result = compiled(tiny.ids(), use_cache=False).logits
            torch.testing.assert_close(result, model(tiny.ids(), use_cache=False).logits, atol=1e-5, rtol=1e-5)
    # the check can fail: without a prepared adapter, another scale compiles again
    plain = tiny.llama()
    lora.load_adapter(plain, folders[0], "x", trainable=False)
    lora.load_adapter(plain, folders[1], "y", trainable=False)
    compiled = torch.compile(plain, backend="eager")
    try:
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
            for name in ("x", "y"):
                lora.set_active(plain, name)
                compiled(tiny.ids(), use_cache=False)
    except torch._dynamo.exc.RecompileError:
        print(f"{len(folders)} adapters, 1 compilation")


main(sys.argv[1], sys.argv[2:])
