"""Students cut out of their teacher: the same bits in the right places, whole heads, the same answers from all layers."""

import re

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from distill.student.copy_spec import CopySpec, read_copy
from distill.student.cost import answering_seconds, operations, speed_up
from distill.student.student import copy_student
from training.data.tasks import find_task
from training.models.base_models import Base, Source, load_base
from training.models.trained import load_trained, save_trained

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama")


def rows() -> dict:
    return {"input_ids": tiny.ids(), "attention_mask": torch.ones(3, 9, dtype=torch.long)}


def noisy(family: str) -> nn.Module:
    """No bias is 0 and no norm 1, so that nothing looks copied by chance."""
    model, generator = tiny.FAMILIES[family](2), torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def test_words_of_a_copy():
    assert read_copy("copy:1,3,5") == CopySpec((1, 3, 5), {})
    assert read_copy("copy:2,hidden=12,heads=2,intermediate=7,1") == CopySpec(
        (2, 1), {"hidden": 12, "heads": 2, "intermediate": 7}
    )


@pytest.mark.parametrize(
    "text", ["copy:", "copy:hidden=3", "copy:a", "copy:1,x=3", "copy:1,heads=", "copy:1,heads=2.5", "copy:-1"]
)
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"student {text!r}")):
        read_copy(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_all_layers_is_the_teacher_and_shares_nothing_with_it(family):
    teacher = noisy(family)
    before = {n: v.clone() for n, v in teacher.state_dict().items()}
    everything = tuple(range(1, teacher.config.num_hidden_layers + 1))
    student = copy_student(teacher, CopySpec(everything, {})).eval()
    assert type(student) is type(teacher) and student.config is not teacher.config
    for name, value in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name
    assert torch.equal(student(**rows()).logits, teacher(**rows()).logits)
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, before[n]) for n, v in teacher.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(2,), (2, 1), (1, 1, 2)])
def test_each_layer_is_the_named_one_to_the_bit(family, layers):
    teacher = noisy(family)
    student = copy_student(teacher, CopySpec(layers, {}))
    other, own = teacher.state_dict(), student.state_dict()
    numbered = r"(\.layers?\.|\.h\.)(\d+)\."
    for name, value in own.items():
        source = re.sub(numbered, lambda result: f"{result[1]}{layers[int(result[2])] - 1}.", name)
        assert torch.equal(value, other[source]), (name, source)
    assert student.config.num_hidden_layers == len(layers)
    assert len({re.search(numbered, n)[2] for n in own if re.search(numbered, n)}) == len(layers)
    assert student.eval()(**rows()).logits.shape == teacher(**rows()).logits.shape


WIDTHS = {
    "intermediate": {"intermediate": 15},
    "half": {"hidden": 12, "heads": 2},
    "all": {"hidden": 6, "heads": 1, "intermediate": 9},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("which", WIDTHS)
def test_narrower_parts_are_the_first_of_each_matrix(family, which):
    """Also of query, key and value, which GPT-2 keeps in one matrix of (D, 3 D)."""
    teacher, widths = noisy(family), WIDTHS[which]
    if family == "llama" and "heads" in widths:
        teacher = plain_llama()
    student = copy_student(teacher, CopySpec((2,), widths))
    changed = 0
    for (name, own), teachers in zip(student.named_parameters(), in_order(teacher, student, 2), strict=True):
        width = own.shape[-1]
        if "c_attn" in name:
            full, part = teachers.shape[-1] // 3, width // 3
            teachers = teachers[: own.shape[0]] if own.ndim == 2 else teachers
            assert torch.equal(own, torch.cat([teachers[..., i * full : i * full + part] for i in range(3)], -1)), name
        else:
            assert torch.equal(own, teachers[tuple(map(slice, own.shape))]), name
        changed += own.shape != teachers.shape
    assert changed >= (2 if which.startswith("inter") else 10), "the widths are really smaller"
    assert student.eval()(**rows()).logits.isfinite().all()
    visited = {p.shape[-1] for n, p in student.named_parameters()} | {p.shape[0] for n, p in student.named_parameters()}
    assert set(widths.values()) - {widths.get("heads")} <= visited


def in_order(teacher, student, layer: int) -> list[torch.Tensor]:
    other = dict(teacher.named_parameters())
    numbered = r"(\.layers?\.|\.h\.)0\."
    return [other[re.sub(numbered, lambda result: f"{result[1]}{layer - 1}.", name)] for name, _ in student.named_parameters()]


def plain_llama(**changes) -> nn.Module:
    """As many key heads as queries."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "vocab_size": 40}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_key_value_heads=4), **changes).eval()


def test_a_whole_head_answers_as_in_the_teacher():
    """The first of four heads, its input and its width the teacher's: the same queries from the same (first) numbers."""
    teacher = noisy("bert")
    student = copy_student(teacher, CopySpec((1,), {"hidden": 6, "heads": 1}))
    x = torch.zeros(1, 4, 24)
    x[..., :6] = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    for name in ("query", "key", "value"):
        own = getattr(student.bert.encoder.layer[0].attention.self, name)(x[..., :6])
        teachers = getattr(teacher.bert.encoder.layer[0].attention.self, name)(x)[..., :6]
        torch.testing.assert_close(own, teachers)


@pytest.mark.fault
def test_tied_words_stay_tied():
    student = copy_student(noisy("gpt2"), CopySpec((1,), {"hidden": 12, "heads": 2}))
    assert student.lm_head.weight is student.transformer.wte.weight and student.lm_head.weight.shape == (40, 12)


def test_types_stay_also_those_of_a_models_tables():
    """A Llama loaded in bfloat16 keeps its frequencies in float32; rounded ones turn by other angles."""
    teacher = plain_llama(dtype=torch.bfloat16)
    student = copy_student(teacher, CopySpec((1, 2), {})).eval()
    kinds = [{n: v.dtype for n, v in (*m.named_parameters(), *m.named_buffers())} for m in (teacher, student)]
    assert kinds[0] == kinds[1] and set(kinds[0].values()) == {torch.bfloat16, torch.float32}
    assert torch.equal(student(**rows()).logits, teacher(**rows()).logits)
    assert copy_student(noisy("llama").double(), CopySpec((1,), {})).lm_head.weight.dtype == torch.float64


def test_gpt2_says_none_for_four_times():
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=40, n_positions=16)
    teacher = AutoModelForCausalLM.from_config(config)
    assert config.n_inner is None
    student = copy_student(teacher, CopySpec((1,), {"hidden": 4, "heads": 1, "intermediate": 30}))
    assert student.transformer.h[0].mlp.c_fc.weight.shape == (4, 30)
    with pytest.raises(ValueError, match="intermediate=33: the teacher has 32, expected 1 to 32"):
        copy_student(teacher, CopySpec((1,), {"intermediate": 33}))


@pytest.mark.parametrize(
    ("family", "spec", "message"),
    [
        ("bert", CopySpec((1, 3), {}), r"layers \[3\]: the teacher has 2, counted from 1"),
        ("bert", CopySpec((0,), {}), r"layers \[0\]"),
        ("bert", CopySpec((1,), {"hidden": 25, "heads": 4}), "hidden=25: the teacher has 24, expected 1 to 24"),
        ("bert", CopySpec((1,), {"intermediate": 0}), "intermediate=0: the teacher has 40"),
        ("bert", CopySpec((1,), {"hidden": 12}), "give both"),
        ("bert", CopySpec((1,), {"heads": 2}), "expected hidden = heads x 6: give both"),
        ("gpt2", CopySpec((1,), {"heads": 5}), "heads=5: the teacher has 4"),
        ("llama", CopySpec((1,), {"hidden": 12, "heads": 2}), "4 queries share 2 key heads"),
        ("llama", CopySpec((1,), {"hidden": 6, "heads": 1}), "4 queries share 2 key heads"),
        ("t5", CopySpec((1,), {}), "is an encoder with a decoder"),
    ],
)
def test_what_a_teacher_cannot_give_is_refused(family, spec, message):
    with pytest.raises(ValueError, match=message):
        copy_student(tiny.FAMILIES[family](), spec)


def test_a_model_without_known_layers_is_refused():
    class Unknown(nn.Module):
        config = tiny.bert().config

        def __init__(self, config=None):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    with pytest.raises(ValueError, match="Unknown: its layers have no structure that is known here, so none can be copied"):
        copy_student(Unknown(), CopySpec((1,), {}))


@pytest.mark.parametrize("word", ["copy:2", "copy:1,hidden=32,heads=2,intermediate=50"])
def test_a_saved_student_comes_back_with_its_bits(word, tmp_path):
    for name, task in (("encoder", "sentiment"), ("decoder", "data2text")):
        base = load_base(find_task(task), Source(name))
        student = copy_student(base.model, read_copy(word)).eval()
        save_trained(tmp_path / name, "full", Base(student, base.tokenizer, (), base.source), find_task(task), 64)
        again = load_trained(tmp_path / name)
        assert again.method == "full" and again.max_length == 64 and again.spec.name == task
        assert again.base.model.state_dict().keys() == student.state_dict().keys()
        for key, value in student.state_dict().items():
            assert torch.equal(again.base.model.state_dict()[key], value), key
        assert torch.equal(again.base.model.eval()(**rows()).logits, student(**rows()).logits)


def test_the_cost_of_a_model_counts_attention_whatever_computes_it():
    """By hand for BERT: each token of each layer takes 4 D² + 2 D F + 2 T D multiplications, as many sums."""
    result = []
    for layers in ((1,), (1, 2)):
        model = copy_student(tiny.bert(), CopySpec(layers, {})).eval()
        before = model.config._attn_implementation
        result.append(operations(model, rows()))
        assert model.config._attn_implementation == before == "sdpa"
    B, T, D, F = 3, 9, 24, 40
    assert result[1] - result[0] == 2 * B * T * (4 * D * D + 2 * D * F + 2 * T * D)


def test_times_are_taken_in_turn():
    calls = []

    class Clock(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, **inputs):
            calls.append(self.name)

    times = answering_seconds({"a": Clock("a"), "b": Clock("b")}, rows(), rounds=4, warm_up=1)
    assert (
        calls == ["a", "b"] * 5 and [len(t) for t in times.values()] == [4, 4] and all(s >= 0 for t in times.values() for s in t)
    )
    low, middle, high = speed_up({"slow": [4.0, 6.0, 2.0], "fast": [2.0, 2.0, 2.0]}, "fast", "slow")
    assert low < middle == 2.0 < high
