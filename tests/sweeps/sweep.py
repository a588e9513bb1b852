"""What becomes of every class of transformers: adapted, quantised, merged and loaded, or refused by name. Never silence.
`python tests/sweeps/sweep.py` writes SWEEP.md; `--only NAME` prints one class. A cell says "works", "refused: ..." (an error of
ours), "fails: ..." (an error of transformers or torch), "not built: ..." or "silent: ..."."""

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from zlib import crc32

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]
# ruff: noqa: E402
import tiny_transformers as tiny
import torch
import transformers
from torch import nn

import loralib as lora
from loralib.base_model.never_called import NeverCalledError
from loralib.base_model.no_gradient import PASSES, NoGradientWarning
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import lora_layers

TABLE = Path(__file__).with_name("SWEEP.md")
WORKS = "works"
PEFT_TASKS, TOLERANCE = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM"), 1e-5
REFUSALS = (ValueError, NeverCalledError, RuntimeError, TypeError)


def try_class(name: str, task: str) -> dict[str, str]:
    """{check: "works", "refused: why", "silent: what" or "not built: why"} of one class."""
    try:
        with torch.no_grad():
            model = tiny.build(name)
            given = tiny.inputs(model)
            plain = tiny.outputs(model, given)
            again = tiny.outputs(tiny.build(name), given)
        if not plain.isfinite().all() or not torch.equal(plain, again):
            return {"lora": "not built: the outputs are not finite, or not the same twice"}
    except Exception as error:
        return {"lora": f"not built: {type(error).__name__}: {_short(error)}"}
    del model
    rare = crc32(name.encode()) % 10 == 0
    checks = {"lora": check_lora, "merge": check_merge, "4-bit": check_4bit, "peft": check_peft}
    checks |= {"bfloat16": check_half, "hooks": check_hooks, "ddp": check_ddp} if rare else {}
    result = {}
    for label, check in checks.items():
        result[label] = _outcome(check, name, task, given)
        if label == "lora" and not result[label].startswith(WORKS):
            break
    return result


def _outcome(check: Callable, name: str, task: str, given: dict) -> str:
    torch.manual_seed(3)
    try:
        return check(name, task, given) or WORKS
    except AssertionError as error:
        return f"silent: {_short(error)}"
    except REFUSALS as error:
        ours = _raised_by_us(error)
        return f"refused: {_short(error)}" if ours else f"fails: {type(error).__name__}: {_short(error)}"
    except Exception as error:
        return f"fails: {type(error).__name__}: {_short(error)}"


def _raised_by_us(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return any(f"/{package}/" in trace.tb_frame.f_code.co_filename for package in ("loralib", "kernels"))


def adapted(name: str, task: str, model: nn.Module | None = None) -> nn.Module:
    """The class with LoRA on all linear layers, B away from zero."""
    model = tiny.build(name) if model is None else model
    lora.inject(model, lora.LoraConfig(r=2, task_type=task if task in PEFT_TASKS else None, init_lora_weights=False), seed=1)
    return model


def step(model: nn.Module, given: dict) -> int:
    """One step of gradient descent; the number of adapted modules without a gradient, each of which a warning must name.

    Every other adapted module and every head must have a gradient.
    """
    with warnings.catch_warnings(record=True) as text:
        warnings.simplefilter("always")
        for _ in range(PASSES + 1):
            out = tiny.outputs(model, given)
            (out * torch.linspace(0.5, 1.5, len(out))).sum().backward()
    named = {path for warning in text if isinstance(warning.message, NoGradientWarning) for path in warning.message.paths}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    idle = [name for name in trained if (grad := model.get_parameter(name).grad) is None or not grad.any()]
    silent = [name for name in idle if name.rpartition(".lora_")[0] not in named]
    assert not silent, f"{len(silent)} trained parameters without a gradient, e.g. {silent[:2]}"
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                if p.grad is not None:
                    p -= 0.01 * p.grad / p.grad.abs().max().clamp(min=1e-30)
                p.grad = None
    return len(named)


def same(result: torch.Tensor, wanted: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    scale = max(float(wanted.abs().max()), 1.0)
    worst = float((result - wanted).abs().max())
    assert worst <= tolerance * scale, f"{what}: outputs differ by {worst:.1e} at a scale of {scale:.1e}"


def has_effect(result: torch.Tensor, plain: torch.Tensor, what: str) -> None:
    assert float((result - plain).abs().max()) > 1e-6, f"{what} has no effect on the outputs"


def check_lora(name: str, task: str, given: dict) -> str:
    """A step moves all factors and heads; a file brings them back; with adapters off the base answers bit for bit."""
    plain = tiny.outputs(tiny.build(name), given)
    model = adapted(name, task)
    idle = step(model, given)
    heads = saved_modules(model)
    labels = task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "IMAGE_CLS", "AUDIO_CLS")
    assert heads or not labels, "no head is trained and saved"
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        trained = tiny.outputs(model, given)
        has_effect(trained, plain, "LoRA")
        lora.save_adapter(model, folder)
        fresh = tiny.build(name)
        lora.load_adapter(fresh, folder, trainable=False)
        same(tiny.outputs(fresh, given), trained, "saved and loaded")
        with lora.disable_adapters(model):
            same(tiny.outputs(model, given), plain, "with adapters off", 1e-6)
    return f"{WORKS}, {idle} modules without a gradient are named" if idle else WORKS


@torch.no_grad()
def check_merge(name: str, task: str, given: dict) -> None:
    model = adapted(name, task)
    wanted = tiny.outputs(model, given)
    same(tiny.outputs(lora.merge_and_unload(model), given), wanted, "merged", 1e-4)


def check_4bit(name: str, task: str, given: dict) -> None:
    def quantised():
        model = tiny.build(name)
        lora.quantize_model(model)
        return model

    with torch.no_grad():
        plain = tiny.outputs(quantised(), given)
    model = adapted(name, task, quantised())
    step(model, given)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        trained = tiny.outputs(model, given)
        has_effect(trained, plain, "LoRA on 4 bits")
        lora.save_adapter(model, folder)
        fresh = quantised()
        lora.load_adapter(fresh, folder, trainable=False)
        same(tiny.outputs(fresh, given), trained, "saved and loaded")


@torch.no_grad()
def check_peft(name: str, task: str, given: dict) -> str | None:
    """A file that peft writes gives peft's outputs. What peft itself cannot do is no fault of ours."""
    import peft

    layers = sorted(lora_layers(adapted(name, task)))
    config = peft.LoraConfig(r=2, target_modules=layers, task_type=task if task in PEFT_TASKS else None, init_lora_weights=False)
    with tempfile.TemporaryDirectory() as folder:
        try:
            other = peft.get_peft_model(tiny.build(name), config).eval()
            for n, p in other.named_parameters():
                if "modules_to_save" in n:
                    p += 0.01 * torch.randn_like(p)
            wanted = tiny.outputs(other.base_model.model, given)
            other.save_pretrained(folder)
        except Exception as error:
            return f"peft fails: {type(error).__name__}: {_short(error)}"
        ours = tiny.build(name)
        lora.load_adapter(ours, folder, trainable=False)
        same(tiny.outputs(ours, given), wanted, "a file of peft")
    return None


def check_half(name: str, task: str, given: dict) -> str | None:
    given = {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()}
    try:
        with torch.no_grad():
            tiny.outputs(tiny.build(name).bfloat16(), given)
    except Exception as error:
        return f"the base fails: {type(error).__name__}: {_short(error)}"
    step(adapted(name, task, tiny.build(name).bfloat16()), given)
    return None


def check_hooks(name: str, task: str, given: dict) -> None:
    """accelerate's hooks, as `device_map` puts them: they replace `forward` on the object."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    def hooked():
        model = tiny.build(name)
        for module in model.modules():
            if not isinstance(module, nn.ModuleList | nn.ModuleDict):
                add_hook_to_module(module, ModelHook())
        return model

    plain = adapted(name, task)
    model = adapted(name, task, hooked())
    with torch.no_grad():
        same(tiny.outputs(model, given), tiny.outputs(plain, given), "with hooks")
    step(model, given)


def check_ddp(name: str, task: str, given: dict) -> None:
    """One process, gloo: a step through the wrapper, and a file that is saved from the wrapper."""
    import torch.distributed as dist

    if not dist.is_initialized():
        store = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115 (the group keeps it)
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
    model = adapted(name, task)
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    out = wrapped(**given)
    torch.cat([v.flatten() for k, v in out.items() if k.endswith("logits")]).sum().backward()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(wrapped, folder)
        fresh = tiny.build(name)
        lora.load_adapter(fresh, folder, trainable=False)
        same(tiny.outputs(fresh, given), tiny.outputs(model, given), "saved from the wrapper")


def _short(error: BaseException) -> str:
    text = re.sub(r"/\S+/(?=adapter_)", "", " ".join(str(error).split()))  # without the folder of this run
    return text[:160]


def _row(entry: tuple[str, str, str]) -> dict[str, str]:
    torch.set_num_threads(1)
    task, _, name = entry
    return {"class": name, "task": task} | try_class(name, task)


CHECKS = ("lora", "merge", "4-bit", "peft", "bfloat16", "hooks", "ddp")


def page(rows: list[dict[str, str]]) -> str:
    """The table in Markdown, with the counts of each check above it."""
    lines = [
        f"# Every class of transformers {transformers.__version__}",
        "",
        "Made by `python tests/sweeps/sweep.py`, which explains the checks. An empty cell was not tried: after a refusal of LoRA",
        "nothing else is, and the last three checks are made on one class of ten.",
        "",
        "| check | tried | works | refused by us | other |",
        "|:--|--:|--:|--:|--:|",
    ]
    for check in CHECKS:
        result = [row[check] for row in rows if row.get(check)]
        works, refused = sum(value.startswith(WORKS) for value in result), sum(value.startswith("refused") for value in result)
        lines.append(f"| {check} | {len(result)} | {works} | {refused} | {len(result) - works - refused} |")
    silent = sum(value.startswith("silent") for row in rows for value in row.values())
    lines += ["", f"Silent failures: {silent}.", "", f"| class | task | {' | '.join(CHECKS)} |", "|:--" * (len(CHECKS) + 2) + "|"]
    for row in sorted(rows, key=lambda row: (row["task"], row["class"])):
        cells = [row["class"], row["task"], *(row.get(check, "").replace("|", "/") for check in CHECKS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def kind(cell: str) -> str:
    """What a cell says, without the reason: works, refused, fails, not built, silent; "" for what was not tried."""
    return re.split("[:,]", cell)[0]


def read_table() -> tuple[str, list[dict[str, str]]]:
    """(the version of transformers, the rows of the committed table)."""
    text = TABLE.read_text()
    version = text.partition("\n")[0].rpartition(" ")[2]
    lines = [line for line in text.partition("| class |")[2].splitlines()[2:] if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return version, [dict(zip(("class", "task", *CHECKS), row, strict=True)) for row in cells]


def main(words: list[str]) -> None:
    entries = [entry for entry in tiny.classes() if "--only" not in words or entry[2] in words]
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for row in pool.map(_row, entries, chunksize=4):
            rows.append(row)
            bad = {check: row[check] for check in CHECKS if not row.get(check, WORKS).startswith(WORKS)}
            print(len(rows), row["class"], bad or WORKS, flush=True)
    if "--only" not in words:
        TABLE.write_text(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
