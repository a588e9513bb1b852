"""Word tables in adapter files: where tokens were added, peft writes the embedding and the output head whole.

The last rows belong to the added tokens. They are at random after `resize_token_embeddings`, so an adapter that was trained with
them answers right only with the same rows. All other rows must be those of the base: else the adapter is for another model.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base_model.handles import bare_model
from loralib.files.read_adapter import AdapterFileError
from loralib.layers.heads import SavedModule
from loralib.layers.lora_layer import LoraLayer

Rows = dict[str, tuple[int, Tensor]]
"""path of a table → (the first row that differs, the whole table of the file)"""


def word_tables(model: nn.Module) -> dict[str, nn.Module]:
    """The input embedding and the output head by their paths; empty for a model that has none."""
    tables = {}
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            module = getattr(model, getter)()
        except (AttributeError, NotImplementedError, TypeError):  # no text model
            continue
        path = next((name for name, m in model.named_modules() if m is module), None)
        if path and isinstance(getattr(module, "weight", None), Tensor):
            tables[path] = module
    return tables


def tables_to_save(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """{key: table}, where the model has more or fewer words than the folder that it was loaded from; else empty.

    A table that the adapter saves whole is left out, and so is a head that shares the embedding's weight.
    """
    model, tensors, saved_pointers = bare_model(model), {}, set()
    words = _words_in_folder(getattr(model, "config", None))
    for path, module in word_tables(model).items() if words else ():
        weight = module.get_parameter("weight") if not isinstance(module, SavedModule) else None
        if weight is None or weight.shape[0] == words or id(weight) in saved_pointers:
            continue
        saved_pointers.add(id(weight))
        adapted = isinstance(module, LoraLayer) and adapter_name in module.variants
        tensors[f"{path}.base_layer.weight" if adapted else f"{path}.weight"] = weight
    return tensors


def _words_in_folder(config: Any) -> int | None:
    """`vocab_size` in the config.json of the folder that the model came from; None where there is no such folder."""
    file = Path(str(getattr(config, "_name_or_path", "") or "-"), "config.json")
    if not file.is_file():
        return None
    settings = json.loads(file.read_text())
    return settings.get("vocab_size") or settings.get("text_config", {}).get("vocab_size")


def added_rows(weight: Tensor, table: Tensor, key: str) -> tuple[int, Tensor] | None:
    """Where the table of a file differs from the model's weight: the first row and the table; None where it does not.

    AdapterFileError for another number of rows, and where most rows differ.
    """
    if weight.shape[1:] != table.shape[1:]:
        raise AdapterFileError(
            f"{key} is {tuple(table.shape)}, and the model's is {tuple(weight.shape)}: it is for another model"
        )
    if len(weight) != len(table):
        raise AdapterFileError(
            f"{key} has {len(table)} rows, and the model's has {len(weight)}: tokens were added before the adapter was trained. "
            f"Call model.resize_token_embeddings({len(table)}) first"
        )
    table = table.to(weight.dtype)
    differ = (weight.detach().cpu() != table).any(1).nonzero().flatten().tolist()
    if differ and differ[0] < len(table) / 2:
        raise AdapterFileError(
            f"{key} is not the base model's weight (row {differ[0]} of {len(table)} differs, and only those of added tokens, at "
            "the end, may): the base was changed with this adapter"
        )
    return (differ[0], table) if differ else None


@torch.no_grad()
def take_rows(model: nn.Module, rows: Rows) -> str | None:
    """Write the rows of the added tokens into the model; returns a sentence about it for the report."""
    for path, (first, table) in rows.items():
        weight = model.get_submodule(path).get_parameter("weight")
        weight[first:] = table[first:].to(weight.device)
    if not rows:
        return None
    return f"the last rows of {', '.join(rows)}, of added tokens, were taken from the file into the base"
