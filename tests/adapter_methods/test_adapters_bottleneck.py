"""Bottleneck adapters and fusion. Oracle: AdapterHub's `adapters` 1.3.0 (golden/make_adapterhub.py), identities, counts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from adapters.bottleneck.attachment import activate, attach, sites
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.composition import Average, Fuse, Stack
from adapters.fusion.fuse import add_fusion
from adapters.fusion.fusion import AdapterFusion, AdapterFusionConfig, fusion_penalty, no_decay

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "adapterhub.safetensors")
PLACEMENT = {"seq_bn": "pfeiffer", "double_seq_bn": "houlsby", "par_bn": "parallel"}


def golden_model() -> BertModel:
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
    model = BertModel(BertConfig(**sizes, max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    model.load_state_dict({k.removeprefix("base."): v for k, v in GOLDEN.items() if k.startswith("base.")}, strict=False)
    return model.eval()


def hidden(model) -> torch.Tensor:
    with torch.no_grad():
        return model(GOLDEN["ids"], attention_mask=GOLDEN["mask"]).last_hidden_state


def load_golden(model, kind: str, letter: str) -> str:
    """Attach our adapter under AdapterHub's name and give it AdapterHub's weights."""
    name = f"{kind}_{letter}"
    attach(model, BottleneckConfig(placement=PLACEMENT[kind], reduction_factor=4, modules_to_save=[]), name)
    result = {path: site for path, site in sites(model).items() if name in site.bottlenecks}
    for path, site in result.items():
        layer = path.split(".")[2]
        part = "attention.output" if "attention" in path else "output"
        prefix = f"adapter.encoder.layer.{layer}.{part}.adapters.{name}."
        ours = {"down": "adapter_down.0", "up": "adapter_up"}
        state = {f"{k}.{w}": GOLDEN[f"{prefix}{v}.{w}"] for k, v in ours.items() for w in ("weight", "bias")}
        site.bottlenecks[name].load_state_dict(state)
    return name


@pytest.mark.parametrize("kind", PLACEMENT)
def test_pt22_outputs_are_adapterhubs(kind):
    model = golden_model()
    torch.testing.assert_close(hidden(model), GOLDEN["out.base"], atol=1e-5, rtol=0)
    name = load_golden(model, kind, "a")
    torch.testing.assert_close(hidden(model), GOLDEN[f"out.{name}"], atol=1e-5, rtol=0)
    assert (GOLDEN[f"out.{name}"] - GOLDEN["out.base"]).abs().max() > 0.1
    activate(model, None)
    torch.testing.assert_close(hidden(model), GOLDEN["out.base"], atol=1e-5, rtol=0)


def two(model) -> tuple[str, str]:
    return load_golden(model, "seq_bn", "a"), load_golden(model, "seq_bn", "b")


def test_stack_is_adapterhubs_and_average_is_not_halved():
    """7.6: AdapterHub divides twice. Its average of two equal adapters acts at half strength, ours as one."""
    model = golden_model()
    a, b = two(model)
    activate(model, Stack(a, b))
    torch.testing.assert_close(hidden(model), GOLDEN["out.stack"], atol=1e-5, rtol=0)
    activate(model, Average(a, b))
    assert (hidden(model) - GOLDEN["out.average_halved"]).abs().max() > 0.005
    for site in sites(model).values():
        site.bottlenecks[b].load_state_dict(site.bottlenecks[a].state_dict())
    activate(model, a)
    alone = hidden(model)
    activate(model, Average(a, b))
    torch.testing.assert_close(hidden(model), alone)


def test_pt24_fusion_is_adapterhubs():
    model = golden_model()
    a, b = two(model)
    add_fusion(model, Fuse(a, b))
    for stage in ("fusion_start", "fusion"):
        for path, site in sites(model).items():
            prefix = f"{stage}.encoder.layer.{path.split('.')[2]}.output.adapter_fusion_layer.seq_bn_a,seq_bn_b."
            state = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
            if stage == "fusion_start":  # the start of V is ours too, not only loaded
                assert torch.equal(site.fusions[f"{a}__{b}"].value.weight, state["value.weight"])
            assert "value.bias" not in state
            site.fusions[f"{a}__{b}"].load_state_dict(state)
        torch.testing.assert_close(hidden(model), GOLDEN[f"out.{stage}"], atol=1e-5, rtol=0)
        penalty = GOLDEN["penalty_start" if stage == "fusion_start" else "penalty"]
        torch.testing.assert_close(fusion_penalty(model).detach(), penalty, atol=1e-12, rtol=1e-5)


def test_pt25_a_fusion_trains_alone_and_its_pull_is_in_the_loss():
    """7.8: the penalty is a term of the loss, with a gradient of its own; 7.7: V can be separated from all other weights."""
    model = golden_model()
    a, b = two(model)
    add_fusion(model, Fuse(a, b), seed=0)
    (model(GOLDEN["ids"]).last_hidden_state.square().sum() + fusion_penalty(model)).backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in model.named_parameters() if ".fusions." in n} and len(trained) == 2 * 5
    assert no_decay(model) == {n for n in trained if n.endswith("value.weight")} and len(no_decay(model)) == 2
    site = next(iter(sites(model).values()))
    V = site.fusions[f"{a}__{b}"].value.weight
    V.grad = None
    V.data.add_(0.1)
    fusion_penalty(model).backward()
    torch.testing.assert_close(V.grad, 0.02 * (V.data - torch.eye(16)))


def test_fusion_weights_sum_to_one_and_can_be_kept():
    for dynamic in (True, False):
        fusion = AdapterFusion(8, 3, AdapterFusionConfig(dynamic=dynamic))
        fusion.keep = True
        fusion(torch.randn(2, 5, 8), torch.randn(2, 5, 3, 8))
        assert fusion.weights.shape == (2, 5, 3)
        torch.testing.assert_close(fusion.weights.sum(-1), torch.ones(2, 5))
    assert sum(p.numel() for p in AdapterFusion(8, 3).parameters()) == 3 * 64 + 2 * 8


def test_query_and_key_start_with_adapterhubs_standard_deviation():
    """AdapterHub starts them as BERT's layers: normal with standard deviation 0.02, biases 0. Each bound is 5 standard errors."""
    fusion = AdapterFusion(128, 2, generator=torch.Generator().manual_seed(0))
    for layer in (fusion.query, fusion.key):
        count = layer.weight.numel()
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5)
        assert abs(float(layer.weight.mean())) < 5 * 0.02 / count**0.5
        assert not layer.bias.any()
    assert not torch.equal(fusion.query.weight, fusion.key.weight)
