"""Bottleneck adapters in every architecture: places, rows of their own, bad input."""

import copy

import pytest
import tiny
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel, T5Config, T5Model

from adapter_methods.test_adapters_bottleneck import GOLDEN, golden_model, hidden, two
from adapters.bottleneck.attachment import activate, attach, attached, detach, sites, train_only
from adapters.bottleneck.bottleneck import Bottleneck, BottleneckConfig
from adapters.bottleneck.composition import Average, BatchSplit, Fuse, Parallel, Stack, members, repeated
from adapters.bottleneck.places import PLACEMENTS, transformer_blocks
from adapters.fusion.fuse import add_fusion, delete_fusion


def encoder(kind, config, **sizes):
    torch.manual_seed(0)
    sizes |= {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
    return kind(config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes))


def seeded(kind, config):
    torch.manual_seed(0)
    return kind(config)


MODELS = {
    "bert": tiny.bert,
    "roberta": lambda: encoder(RobertaModel, RobertaConfig, max_position_embeddings=40),
    "distilbert": lambda: seeded(
        DistilBertModel,
        DistilBertConfig(dim=24, hidden_dim=40, n_layers=2, n_heads=4, vocab_size=40, dropout=0.0, attention_dropout=0.0),
    ),
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,
    "t5": lambda: seeded(
        T5Model,
        T5Config(d_model=24, d_ff=40, num_layers=2, num_decoder_layers=2, num_heads=4, d_kv=6, vocab_size=40, dropout_rate=0.0),
    ),
}


def run(model, kind):
    inputs = {"input_ids": tiny.ids()} | ({"decoder_input_ids": tiny.ids(2)} if kind == "t5" else {})
    with torch.no_grad():
        return model.eval()(**inputs)[0]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby", "parallel"])
def test_every_architecture_starts_at_the_base_and_learns(kind, placement):
    """PT23: the identity start is the base to the last bit; a step changes the output; off, copied and detached are the base."""
    model = MODELS[kind]()
    base, before = run(model, kind), {k: v.clone() for k, v in model.state_dict().items()}
    report = attach(model, BottleneckConfig(placement=placement, reduction_factor=4), "a", seed=0)
    layers = {"t5": 4, "llama": 3}.get(kind, 2)
    assert len(report.rows) == layers * (2 if placement == "houlsby" else 1)
    assert torch.equal(run(model, kind), base)
    inputs = {"input_ids": tiny.ids()} | ({"decoder_input_ids": tiny.ids(2)} if kind == "t5" else {})
    model.train()(**inputs)[0].square().mean().backward()
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all(model.get_parameter(n).grad is not None for n in learning), "a parameter without a gradient"
    with torch.no_grad():
        for n in learning:
            model.get_parameter(n).sub_(0.5 * torch.sign(model.get_parameter(n).grad))
    changed = run(model, kind)
    assert not torch.allclose(changed, base)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, kind), changed)
    activate(twin, None)
    assert torch.equal(run(twin, kind), base) and torch.equal(run(model, kind), changed), "a copy has sites of its own"
    detach(model, "a")
    assert torch.equal(run(model, kind), base) and not sites(model) and not attached(model)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize(("placement", "count"), [("pfeiffer", 894_528), ("houlsby", 1_789_056), ("parallel", 7_091_712)])
def test_counts_on_roberta_base(placement, count):
    """Section 5.4 of the reference; 2dm + m + d at each place."""
    with torch.device("meta"):
        model = RobertaModel(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
    report = attach(model, BottleneckConfig(placement=placement), "a")
    assert report.parameters == count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if placement == "pfeiffer":
        attach(model, BottleneckConfig(), "b")
        add_fusion(model, Fuse("a", "b"))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 21_252_096


def test_pt23_the_other_starts():
    model = golden_model()
    for init, low, high in (("identity", 0, 0), ("houlsby", 1e-6, 5e-3), ("bert", 5e-3, 1e-1)):
        attach(model, BottleneckConfig(init=init, reduction_factor=4), f"x-{init}", seed=1)
        off = float((hidden(model) - GOLDEN["out.base"]).abs().max())
        assert low <= off <= max(high, 1e-6), (init, off)


def test_adapter_drop_and_layers():
    model = golden_model()
    report = attach(model, BottleneckConfig(leave_out=(0,), reduction_factor=4), "a")
    assert [row.layer for row in report.rows] == [1] and "layer.1.output.LayerNorm" in str(report)
    with pytest.raises(ValueError, match="there are layers 0 to 1"):
        attach(model, BottleneckConfig(leave_out=(7,)), "b")
    with pytest.raises(ValueError, match="leaves no layer"):
        attach(model, BottleneckConfig(leave_out=(0, 1)), "b")
    with pytest.raises(ValueError, match="`places` says already where adapters go"):
        attach(model, BottleneckConfig(places=(("bert.encoder.layer.0", "parallel"),), leave_out=(0,)), "b")


def test_the_report_is_a_table():
    """Paths of different lengths; every line ends with the number of parameters, below the end of the title."""
    report = attach(tiny.bert(), BottleneckConfig(placement="houlsby"), "a")
    lines = str(report).splitlines()[: 1 + len(report.rows)]
    assert len({len(row.path) for row in report.rows}) > 1
    assert {len(line) for line in lines} == {len(lines[0])} and lines[0].endswith("parameters")


def test_rows_of_a_batch_have_adapters_of_their_own():
    model = golden_model()
    a, b = two(model)
    alone = {}
    for name in (a, b, None):
        activate(model, name)
        alone[name] = hidden(model)
    activate(model, BatchSplit(a, None, b))
    mixed = hidden(model)
    for row, name in enumerate((a, None, b)):
        torch.testing.assert_close(mixed[row], alone[name][row], atol=1e-6, rtol=0)
    activate(model, BatchSplit(a, b))
    with pytest.raises(ValueError, match="for 2 rows, the batch has 3"):
        hidden(model)


def test_parallel_is_each_adapter_on_all_rows_in_one_pass():
    model = tiny.bert()
    for i, name in enumerate("ab"):
        attach(model, BottleneckConfig(reduction_factor=4, init="bert"), name, seed=i)
        with torch.no_grad():
            model.classifier.copies[name].weight.add_(i)
    alone = []
    for name in "ab":
        activate(model, name)
        alone.append(run(model, "bert"))
    both = Parallel("a", "b")
    inputs = repeated({"input_ids": tiny.ids(), "attention_mask": torch.ones(3, 9, dtype=torch.long)}, both)
    activate(model, both, "a")
    with torch.no_grad():
        out = model(**inputs).logits
    torch.testing.assert_close(out[:3], alone[0], atol=1e-6, rtol=1e-5)
    assert out.shape == (6, 3) and (out[3:] - alone[1]).abs().max() > 1e-3, "both parts had the head that was named"
    activate(model, both.rows(6))  # named by rows, each row has the head of its adapter too
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, torch.cat(alone), atol=1e-6, rtol=1e-5)
        activate(model, both)
        with pytest.raises(ValueError, match="no 2 equal parts"):
            model(tiny.ids())


def test_heads_switch_with_their_adapters():
    model = tiny.bert()
    attach(model, BottleneckConfig(reduction_factor=4), "a", seed=0)
    attach(model, BottleneckConfig(reduction_factor=4), "b", seed=1)
    with torch.no_grad():
        model.classifier.copies["a"].weight.add_(1)
    outs = {}
    for what, head in (("a", None), ("b", None), (Stack("a", "b"), None), (Stack("a", "b"), "a")):
        activate(model, what, head)
        outs[str(what), head] = run(model, "bert")
    a, b, stacked, chosen = outs.values()
    assert torch.equal(b, stacked) and torch.equal(a, chosen) and not torch.equal(a, b)
    train_only(model, "a")
    activate(model, "b")
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".b." in n), "active is not trainable"


class Unknown(nn.Module):
    class Config:
        hidden_size = 8

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.config = self.Config()

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_an_unknown_structure_is_refused_and_can_be_named():
    model = Unknown()
    with pytest.raises(ValueError, match=r"Unknown: its layers .Linear. have no structure"):
        attach(model, BottleneckConfig(reduction_factor=4))
    places = (("layers.0", "output"), ("layers.1", "parallel", "layers.1"))
    report = attach(model, BottleneckConfig(reduction_factor=4, places=places, modules_to_save=[]), seed=0)
    x = torch.randn(3, 8)
    base = x + model.layers[0].forward(x)
    base = base + model.layers[1].forward(base)
    assert torch.equal(model(x), base) and len(report.rows) == 2
    with pytest.raises(ValueError, match="way 'sideways'"):
        attach(model, BottleneckConfig(places=(("layers.0", "sideways"),)), "b")
    with pytest.raises(ValueError, match="of way 'output' already"):
        attach(
            model, BottleneckConfig(reduction_factor=4, places=(("layers.0", "parallel", "layers.0"),), modules_to_save=[]), "c"
        )


def test_bad_input_is_refused():
    model = golden_model()
    for wrong in ({"placement": "side"}, {"init": "zero"}, {"non_linearity": "sigmoid"}, {"reduction_factor": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BottleneckConfig(**wrong)
    with pytest.raises(ValueError, match="leaves no neuron"):
        Bottleneck(8, BottleneckConfig(reduction_factor=16))
    a, b = two(model)
    with pytest.raises(ValueError, match="exists already"):
        attach(model, BottleneckConfig(reduction_factor=4), a)
    with pytest.raises(KeyError, match=r"no adapter .'c'"):
        activate(model, Stack(a, "c"))
    with pytest.raises(RuntimeError, match="add_fusion"):
        activate(model, Fuse(a, b))
    with pytest.raises(ValueError, match="at least two"):
        Fuse(a)
    with pytest.raises(ValueError, match="2 adapters with 1 weights"):
        Average(a, b, weights=[1.0])
    add_fusion(model, Fuse(a, b))
    with pytest.raises(ValueError, match="member of fusions"):
        detach(model, a)
    delete_fusion(model, Fuse(a, b))
    detach(model, a)
    assert attached(model) == [b] and members(Stack(a, Average(a, b))) == [a, b]
    attach(model, BottleneckConfig(placement="houlsby", reduction_factor=4), "h")
    with pytest.raises(ValueError, match="different places"):
        add_fusion(model, Fuse(b, "h"))


def test_gradient_checkpointing_gives_the_same_gradients():
    """PT26, with a parallel adapter, which remembers an input between two hooks."""
    results = []
    for checkpointing in (False, True):
        model = tiny.gpt2()
        attach(model, BottleneckConfig(placement="parallel", reduction_factor=4, init="bert"), "a", seed=0)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(tiny.ids(), use_cache=False).logits.square().mean().backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_new_placement_is_one_function_and_one_line(monkeypatch):
    """Only after attention. It goes into every family whose structure is known."""
    monkeypatch.setitem(PLACEMENTS, "attention", lambda block: [(block.attention, "output")])
    for family in ("bert", "distilbert", "gpt2", "llama", "t5"):
        model = tiny.FAMILIES[family]()
        report = attach(model, BottleneckConfig(placement="attention", reduction_factor=4), seed=0)
        blocks = dict(transformer_blocks(model))
        assert [row.path for row in report.rows] == [f"{path}.{block.attention}" for path, block in blocks.items()]
