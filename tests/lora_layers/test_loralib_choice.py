"""Which implementation a layer takes: by measurement, and never a guess."""

import pytest
import tiny
import torch
from command import run_code
from torch import nn
from triton_here import DEVICE, needs_triton

import loralib as lora
from kernels.formulas import nf4
from lora_layers.test_loralib_dispatch import CPU, GPU
from loralib.compute import dispatch
from loralib.compute.dispatch import choose, use_kernels

pytestmark = needs_triton()


@pytest.fixture
def some_gpu(monkeypatch):
    """A Hopper GPU that is measured for LoRA in bf16: a loss at one token, a win at many, nearly a draw on a wide layer."""
    rows = [[1, 4096, 4096, 1.4], [8192, 4096, 4096, 0.9], [8192, 14336, 4096, 0.99]]
    monkeypatch.setattr(dispatch, "MEASUREMENTS", {"Some GPU": {"bfloat16": {"lora both": rows}}})
    monkeypatch.setattr(dispatch, "INTERPRETING", False)
    monkeypatch.setattr(dispatch, "gpu", lambda device: ("Some GPU", (9, 0)))


def test_nothing_is_chosen_without_a_measurement(some_gpu):
    for operation, dtype, mode in (
        ("nf4", torch.bfloat16, "both"),
        ("lora", torch.float32, "both"),
        ("lora", torch.bfloat16, "forward"),
    ):
        result = choose(operation, GPU, dtype, (8192, 4096, 4096), 16, mode)
        assert result.path == "torch" and f"no measurement of {operation} {mode} in {dtype} on Some GPU" in result.reason
        assert "python -m kernels.bench all" in result.reason


def test_the_nearest_measured_shape_decides(some_gpu):
    find = lambda M, N, K: choose("lora", GPU, torch.bfloat16, (M, N, K), 16, "both")  # noqa: E731
    assert find(6000, 4096, 4096).path == find(91, 4096, 4096).path == "triton"  # the border: sqrt(1 · 8192) = 90.5
    assert find(90, 4096, 4096).path == find(0, 4096, 4096).path == "torch"
    assert find(8192, 12000, 4096).path == "torch"  # 1 % is not a win
    assert "M=8192 N=4096 K=4096" in find(6000, 4096, 4096).reason and "0.90" in find(6000, 4096, 4096).reason


def test_mode_both_needs_a_gradient():
    x = torch.ones(1)
    assert dispatch.mode_of(x, None) == "forward"
    assert dispatch.mode_of(x, x.clone().requires_grad_()) == "both"
    with torch.no_grad():
        assert dispatch.mode_of(x.clone().requires_grad_()) == "forward"


@pytest.mark.parametrize(
    ("device", "dtype", "r", "capability", "text"),
    [
        (CPU, torch.float32, 8, (9, 0), "no Triton on cpu"),
        (GPU, torch.float16, 8, (7, 5), "older than Ampere"),
        (GPU, torch.float64, 8, (9, 0), "no kernel for torch.float64"),
        (GPU, torch.bfloat16, 256, (9, 0), "rank 256"),
    ],
)
def test_where_no_kernel_can_run_even_when_asked_for(monkeypatch, device, dtype, r, capability, text):
    monkeypatch.setattr(dispatch, "INTERPRETING", False)
    monkeypatch.setattr(dispatch, "gpu", lambda device: ("Some GPU", capability))
    with use_kernels("triton"):
        result = choose("lora", device, dtype, (100, 64, 64), r)
    assert result.path == "torch" and text in result.reason


def test_without_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "TRITON_IS_HERE", False)
    with use_kernels("triton"):
        assert "not installed" in choose("lora", CPU, torch.float32, (1, 1, 1)).reason


def test_use_kernels_is_strict_and_restores():
    with pytest.raises(ValueError, match="'cuda': expected one of"), use_kernels("cuda"):
        pass
    with use_kernels("triton"):
        with use_kernels("torch"):
            assert choose("lora", CPU, torch.float32, (1, 1, 1)).path == "torch"
        assert choose("lora", torch.device(DEVICE), torch.float32, (1, 1, 1)).path == "triton"


def test_explain_says_every_layer():
    model = lora.get_peft_model(tiny.bert(), lora.LoraConfig(r=4, target_modules=["query", "value"]))
    result = lora.explain(model, tokens=64)
    assert len(result.layers) == 2 * model.config.num_hidden_layers and all(item.r == 4 for item in result.layers)
    assert "layers, 64 tokens" in str(result) and "r=4" in str(result) and len(str(result).splitlines()) == 2
    with use_kernels("triton"):
        assert "triton" in str(lora.explain(model.to(DEVICE)))
    with pytest.raises(ValueError, match="no LoRA and no 4-bit layer"):
        lora.explain(nn.Linear(2, 2))
    layer = nn.Sequential(lora.Linear4bit(nf4.quantize(torch.randn(8, 64))))
    assert lora.explain(layer).layers[0].shape == (8, 64)
    lora.set_active(model, [])
    assert "no adapter is active" in str(lora.explain(model))


COMPILE = """
import sys; sys.path.insert(0, "tests")
import torch, loralib as lora
from torch import nn
from kernels.formulas import nf4
from loralib.compute.dispatch import use_kernels
device = "cuda" if torch.cuda.is_available() else "cpu"
dense = lora.Linear(64, 48, r=2, lora_dropout=0.2)
packed = nn.Sequential(lora.Linear4bit(nf4.quantize(torch.randn(48, 64), double_quant=True)))
lora.inject(packed, lora.LoraConfig(r=2, lora_dropout=0.2, target_modules=["0"], init_lora_weights=False))
dense.lora_B["default"].data.normal_()
graphs = []
def backend(graph, inputs):
    return torch._dynamo.backends.common.aot_autograd(fw_compiler=keep, bw_compiler=keep)(graph, inputs)
def keep(graph, inputs):
    graphs.append(str(graph.graph))
    return graph
for layer, op in ((dense, "lora_forward"), (packed, "nf4_matmul")):
    layer = layer.to(device).train()
    x = torch.randn(1 if op == "nf4_matmul" else 40, 64, device=device, requires_grad=True)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    with use_kernels("triton"):
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        results = []
        for f in (compiled, layer):
            torch.manual_seed(0)
            y = f(x)
            results.append([y, *torch.autograd.grad(y.sum(), leaves)])
    assert len(leaves) == 3 and all(map(torch.equal, *results)), op
    assert any("peft_kernels." + op in text for text in graphs), graphs
    assert any("peft_kernels.lora_backward" in text for text in graphs), graphs
    graphs.clear()
"""


def test_torch_compile_keeps_the_kernels_whole():
    """fullgraph=True: dense and 4-bit, dropout on, forward and backward, the same bits as without compiling."""
    done = run_code(COMPILE)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_operations_pass_torchs_own_check():
    """`torch.library.opcheck`: schema, fake shapes and strides, aliasing."""
    from kernels.triton_kernels import ops

    g = torch.Generator().manual_seed(0)
    x, W, A, B, dy = (torch.randn(s, generator=g).to(DEVICE) for s in ((40, 64), (24, 64), (3, 64), (24, 3), (40, 24)))
    seed = torch.tensor([5], device=DEVICE)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.lora_forward, (x, W, None, A, B, 0.5, seed, 0.1), test_utils=checks)
    S = ops.lora_forward(x, W, None, A, B, 0.5, seed, 0.1)[1]
    for need_x in (True, False):
        torch.library.opcheck(ops.lora_backward, (dy, x, W, A, B, S, 0.5, seed, 0.1, need_x), test_utils=checks)
    torch.library.opcheck(ops.shrink, (x, A, 0.5, None, 0.0), test_utils=checks)
    packed = nf4.quantize(W, double_quant=True)
    parts = (packed.packed, packed.absmax, packed.nested.absmax, packed.nested.offset, list(packed.shape), 64, "nf4")
    torch.library.opcheck(ops._nf4_matmul, (x, *parts, None, S, B), test_utils=checks)
    torch.library.opcheck(ops._nf4_decode, (*parts, torch.float16), test_utils=checks)


def test_the_nearest_measured_layer_is_near_in_both_sizes(monkeypatch):
    """Nearest is the least |log N'/N| + |log K'/K|: a layer with the right N and another K is farther than one beside both."""
    rows = [[1, 1100, 100, 0.5], [1, 1000, 4000, 1.4], [1, 9000, 3600, 0.5]]
    monkeypatch.setattr(dispatch, "MEASUREMENTS", {"Some GPU": {"float16": {"lora both": rows}}})
    [(_, path, why)] = dispatch.nearest_rows("lora both", "Some GPU", "float16", 1100, 3600)
    assert path == "torch" and "N=1000 K=4000" in why
