"""Files of int8 students: the same bits back, strictly read."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, bert, llama
from torch import nn

from distill.compression.compressed_files import CARD, WEIGHTS, CompressedFileError, load_compressed, save_compressed
from distill.compression.int8 import Int8Linear, int8_layer, quantize_int8
from distill.compression.int8_product import int8_linear
from distill_students.test_distill_int8 import KINDS, logits, normal
from training.data.tasks import find_task
from training.models.base_models import load_base


@pytest.mark.parametrize("kind", KINDS)
def test_reloaded_models_answer_with_the_same_bits(kind, tmp_path):
    model = FAMILIES[kind]()
    report = quantize_int8(model)
    nbytes = save_compressed(model, tmp_path)
    other = FAMILIES[kind](seed=9)
    assert not torch.equal(logits(other), logits(model))
    text = load_compressed(other, tmp_path)
    count = len(load_file(tmp_path / WEIGHTS))
    assert text == f"{count}/{count} tensors loaded"
    assert torch.equal(logits(other), logits(model))
    header = int.from_bytes((tmp_path / WEIGHTS).read_bytes()[:8], "little") + 8 + (tmp_path / CARD).stat().st_size
    assert nbytes == report.nbytes + report.other_bytes + header


def test_the_committed_base_really_shrinks(tmp_path):
    spec = find_task("sentiment")
    model = load_base(spec).model.eval()
    dense = sum(p.nbytes for p in model.parameters())
    report = quantize_int8(model)
    linear = sum(np.prod(row.shape) for row in report.rows)
    channels = sum(row.shape[0] for row in report.rows)
    assert report.nbytes + report.other_bytes == dense - 3 * linear + 4 * channels
    assert report.error < 0.01
    nbytes = save_compressed(model, tmp_path)
    assert nbytes < 0.45 * dense
    again = load_base(spec, seed=3).model.eval()
    load_compressed(again, tmp_path)
    x = torch.randint(5, 145, (4, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(x).logits, model(x).logits)


def test_files_are_read_strictly(tmp_path):
    model = bert()
    quantize_int8(model)
    save_compressed(model, tmp_path)
    tensors, card = load_file(tmp_path / WEIGHTS), json.loads((tmp_path / CARD).read_text())
    name = "bert.encoder.layer.0.attention.self.query"

    def fails(match, fresh=bert, tensors=tensors, card=card):
        save_file(tensors, tmp_path / WEIGHTS)
        (tmp_path / CARD).write_text(json.dumps(card))
        with pytest.raises(CompressedFileError, match=match):
            load_compressed(fresh(), tmp_path)

    fails("1 tensors missing .*query.scale", tensors={k: t for k, t in tensors.items() if k != f"{name}.scale"})
    fails("1 unexpected .*more", tensors={**tensors, "more": torch.zeros(1)})
    fails(
        r"query.weight is torch.float32 \(24, 24\), expected torch.int8",
        tensors={**tensors, f"{name}.weight": torch.zeros(24, 24)},
    )
    fails(r"query.scale is torch.float32 \(23,\)", tensors={**tensors, f"{name}.scale": torch.zeros(23)})
    fails("format 1", card={**card, "format": 2})
    fails("no layer nowhere", card={**card, "int8": {"nowhere": [1, 1]}})
    fails(r"is \[24, 24\] in the model, \[24, 25\] in the file", card={**card, "int8": {name: [24, 25]}})
    fails("expected .*classifier.weight|classifier.weight is", fresh=lambda: bert(labels=4))
    fails("in the model, 4 in the file", fresh=llama)
    fails("no layer bert", fresh=llama, card={**card, "widths": {}})
    fails("tied weights", card={**card, "tied": {"a": "b"}})
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CompressedFileError, match="not a compressed model"):
        load_compressed(bert(), tmp_path)
    with pytest.raises(CompressedFileError, match="not a compressed model"):
        load_compressed(bert(), tmp_path / "absent")


def test_hooks_and_copies_survive():
    model = bert()
    visited = []
    model.bert.pooler.dense.register_forward_hook(lambda module, args, out: visited.append(type(module)))
    quantize_int8(model)
    logits(copy.deepcopy(model))
    assert visited == [Int8Linear]


def test_int8_linear_keeps_the_dtype_of_its_input():
    layer = int8_layer(nn.Linear(8, 4))
    x = normal(0, 3, 8).bfloat16()
    y = int8_linear(x, layer.weight, layer.scale, layer.bias)
    assert y.dtype == torch.bfloat16 and torch.equal(y, layer(x.float()).bfloat16())
