"""The book's scripts in a headless browser: questions with the keyboard, and the widgets' values against Python."""

import json
import math
import os

import pytest
import torch
import transformers

from kernels.formulas import nf4
from multitask.balancing.gradients import cagrad, equal, mgda, nash_mtl, pcgrad
from tutorials import lessons, questions
from tutorials.book import widget_data
from tutorials.drawing import widgets

PAGE = "tutorials/rendered/01_lora_by_hand.html"
LORA = {"memory": "tutorials/rendered/04_lora_against_full.html", "rank": "tutorials/rendered/deep/01_lora_by_hand.html"}
LORA |= {"nf4": "tutorials/rendered/07_nf4.html", "tiles": "tutorials/rendered/topics/kernel_by_tiles.html"}
LORA |= {"prefix": "tutorials/rendered/13_prefix_and_prompt.html"}
LORA |= {"balancing": "tutorials/rendered/16_balancing_and_interference.html"}
LORA |= {"kl": "tutorials/rendered/19_distill_generation.html"}


def press(window, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        window.send(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=" " if key == " " else ""
        )


@pytest.fixture
def page(built, window):
    window.resize(1280, 900)
    window.open((built / PAGE).as_uri())
    return window


def test_every_question_is_a_group_of_radio_buttons(page):
    of_page = questions.of_page(lessons.cells(lessons.find("01").path.read_text()))
    counts = page.run("[...document.querySelectorAll('.question')].map(x => x.querySelectorAll('input[type=radio]').length)")
    assert counts == [len(question.options) for question in of_page] and len(counts) >= 10
    marked = page.run("[...document.querySelectorAll('.question')].map(x => x.dataset.answer)")
    assert marked == [question.answer for question in of_page]
    assert page.run("[...document.querySelectorAll('.question details, details.output')].filter(x => x.open).length") == 0


def test_a_question_works_with_the_keyboard(page):
    """A wrong answer says why and leaves the result closed; the right one opens it."""
    page.run("document.querySelector('.question input').focus()")
    press(page, "ArrowDown", 40)  # from the first option to the second: that chooses it
    first = "document.querySelector('.question')"
    assert page.run(f"{first}.querySelector('input:checked').value") == "b"
    assert page.run(f"{first}.querySelector('.feedback').className") == "feedback wrong"
    assert "rounding" in page.run(f"{first}.querySelector('.feedback').textContent")
    opened = "[...document.querySelectorAll('details.output')].map(x => x.open)"
    assert not any(page.run(opened))
    press(page, "ArrowUp", 38)
    assert page.run(f"{first}.querySelector('.feedback').className") == "feedback right"
    assert page.run(opened).index(True) == 0 and page.run(opened).count(True) == 1
    assert page.complaints == []


def formula(window, name: str, *arguments):
    return window.run(f"Widgets.formulas.{name}(...{json.dumps(arguments)})")


def test_the_temperature_is_that_of_torch(page):
    logits = [3, 2, 1.5, 0, -1]
    for temperature in (0.1, 1, 4):
        expected = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0)
        p = formula(page, "softmax", logits, temperature)
        assert p == pytest.approx(expected.tolist(), abs=1e-12)
        assert formula(page, "entropy", p) == pytest.approx(torch.special.entr(expected).sum().item(), abs=1e-12)


def test_the_rank_slider_is_the_singular_value_decomposition(page):
    update = torch.tensor(widgets.data("WIDGET_UPDATE"), dtype=torch.float64)
    U, S, V = torch.linalg.svd(update)
    assert page.run("Widgets.formulas.svd(WIDGET_UPDATE).S") == pytest.approx(S.tolist(), rel=1e-8, abs=1e-10)
    for rank in (1, 4, 64):
        best = (U[:, :rank] * S[:rank]) @ V[:rank]
        made = page.run(f"Widgets.formulas.truncate(Widgets.formulas.svd(WIDGET_UPDATE), {rank})")
        torch.testing.assert_close(torch.tensor(made, dtype=torch.float64), best, rtol=0, atol=1e-8)
        left = ((update - best).square().sum() / update.square().sum()).item()
        assert page.run(f"Widgets.formulas.errorShare(Widgets.formulas.svd(WIDGET_UPDATE).S, {rank})") == pytest.approx(
            left, abs=1e-9
        )


@pytest.mark.parametrize("blocksize", [32, 64, 256])
def test_nf4_in_the_browser_is_that_of_the_library(page, blocksize):
    values = widgets.data("WIDGET_NORMAL")
    values[20] = 12.0
    expected = nf4.dequantize(nf4.quantize(torch.tensor(values), blocksize))
    decoded = formula(page, "nf4", values, widgets.data("WIDGET_NF4_LEVELS"), blocksize)
    assert decoded == pytest.approx(expected.tolist(), rel=1e-6)
    others = torch.arange(256) != 20
    error = (expected - torch.tensor(values))[others].abs().sum() / torch.tensor(values)[others].abs().sum()
    assert formula(page, "nf4Error", values, decoded, 20) == pytest.approx(error.item(), rel=1e-5)


@pytest.mark.parametrize("form", ["plain", "one", "two"])
def test_the_stepper_loads_what_the_kernels_load(page, form):
    """In float32, with the sizes of the page; the interpreter counts what the library's kernels ask for."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("this session compiles kernels, and the count needs the interpreter")
    from kernels.triton_kernels import lora_matmul_triton
    from kernels.triton_kernels.configs import Tiles
    from tutorials.interpreted import traffic

    M, N, K, r = 64, 128, 96, 16
    x, W, A, B = (torch.randn(shape) for shape in ((M, K), (N, K), (r, K), (N, r)))
    tiles = Tiles(32, 32, 32)
    with traffic() as counted:
        if form == "one":
            lora_matmul_triton.one_launch(x, W, None, A, B, 0.5, tiles=tiles)
        if form == "two":
            S = lora_matmul_triton.shrink(x, A, 0.5, tiles=Tiles(32, 0, 32))
            lora_matmul_triton.expand(x, W, None, S, B, tiles, persistent=False)
    expected = counted.loaded if form != "plain" else N // 32 * x.nbytes + M // 32 * W.nbytes
    settings = {"M": M, "N": N, "K": K, "rank": r, "block": 32, "form": form}
    assert formula(page, "loadedBytes", settings) == expected


@pytest.mark.parametrize("method", ["prefix", "prompt"])
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_who_reads_whom_is_what_gradients_say(page, kind, method):
    """In a model of one layer: which token's output depends on which virtual token or word."""
    from adapters import PrefixTuningConfig, PromptTuningConfig, attach
    from adapters.virtual.virtual_tokens import virtual_encoder

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    if kind == "encoder":
        model = transformers.BertForTokenClassification(transformers.BertConfig(**sizes, intermediate_size=32)).eval()
        layer, words = model.bert.encoder.layer[0], model.bert.embeddings
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
        layer, words = model.transformer.h[0], model.transformer.wte
    config = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[method](num_virtual_tokens=2, modules_to_save=[])
    attach(model, config, seed=0)
    table, states = virtual_encoder(model, "default").embedding.weight, {}
    words.requires_grad_()  # so that gradients of its output are recorded
    words.register_forward_hook(lambda module, args, output: states.update(words=output))
    layer.register_forward_hook(
        lambda module, args, output: states.update(layer=output if torch.is_tensor(output) else output[0])
    )
    model(torch.arange(4)[None])
    depends = []
    for state in states["layer"][0]:
        of_table, of_words = torch.autograd.grad(state.square().sum(), [table, states["words"]], retain_graph=True)
        of_words = of_words[0, -4:]  # behind the virtual tokens of an encoder's prompt
        depends.append([bool(gradient.abs().max() > 0) for gradient in [*of_table, *of_words]])
    settings = {"words": 4, "virtual": 2, "model": kind, "method": method}
    assert [row["reads"] for row in formula(page, "whoReads", settings)["rows"]] == depends


METHODS = {"equal": equal, "PCGrad": pcgrad, "MGDA": mgda, "Nash-MTL": nash_mtl, "CAGrad": cagrad}


@pytest.mark.parametrize("name", METHODS)
def test_a_walk_in_the_browser_is_that_of_the_library(page, name):
    """Directions for random gradients; then a whole walk. The library solves CAGrad to about 1e-6."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        J = torch.randn(2, 3, generator=g, dtype=torch.float64)
        G = J @ J.T
        inner = {"a": float(G[0, 0]), "b": float(G[0, 1]), "c": float(G[1, 1])}
        weights = page.run(f"Widgets.formulas.balancing[{json.dumps(name)}]({json.dumps(inner)})")
        assert weights == pytest.approx(METHODS[name](G).tolist(), rel=1e-4, abs=1e-5)
    for start, scale in (((-1.5, 2.0), 20.0), ((1.2, -1.2), 2000.0)):
        positions = formula(page, "walk", name, start, scale)
        expected = widgets.walk(METHODS[name], start, scale)
        assert positions[-1] == pytest.approx(expected[-1].tolist(), abs=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_fitted_bump_in_the_browser_is_that_of_torch(page, direction):
    for bumps, share, start in (((15, 42), 0.6, 22), ((15, 42), 0.6, 35), ((10, 50), 0.3, 5)):
        p = share * widgets.bump(bumps[0], 3) + (1 - share) * widgets.bump(bumps[1], 3)
        assert formula(page, "twoBumps", bumps, share, 3) == pytest.approx(p.tolist(), abs=1e-12)
        expected = widgets.fit_bump(p, direction, start)
        assert formula(page, "fitBump", p.tolist(), direction, start) == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_symptom_table_is_searched(built, window):
    window.resize(390, 900)
    window.open((built / "tutorials/reference/symptoms.html").as_uri())
    shown = "[...document.querySelectorAll('tbody tr')].filter(x => !x.hidden).length"
    everything = window.run(shown)
    window.run("document.querySelector('.table-search input').focus()")
    for letter in "prefix":
        window.send("Input.insertText", text=letter)
    assert 0 < window.run(shown) < everything / 4
    assert "prefix" in window.run("document.querySelector('tbody tr:not([hidden])').textContent").lower()
    assert window.run("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_memory_calculator_agrees_with_measured_bytes(page, method):
    """One step of AdamW on the small encoder: parameters, gradients, optimizer state; activations of another batch size."""
    import loralib

    name, make = next(iter(widget_data.models().items()))
    model, facts = make(), widgets.data("WIDGET_MODELS")[name]
    is_full, rank, examples = method == "full", 8, 8
    if not is_full:
        layers = widget_data.linear_layers(model)
        loralib.inject(model, loralib.LoraConfig(r=rank, target_modules=layers, modules_to_save=[]))
    activations = widget_data.activation_bytes(model, examples)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.ones(examples, widget_data.TOKENS, dtype=torch.long)
    model(input_ids=ids, labels=torch.zeros(examples, dtype=torch.long)).loss.backward()
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    measured = [sum(t.numel() * t.element_size() for t in ts) for ts in (model.parameters(), [p.grad for p in trained], states)]
    count = facts["base"] if is_full else formula(page, "loraParameters", rank, facts["layers"], facts["shapes"])
    assert count == sum(p.numel() for p in trained)
    settings = {"base": facts["base"], "trained": count, "isFull": is_full, "bytesPerBaseParameter": 4}
    settings |= {"activationsPerToken": facts[f"activations_{method}"], "tokens": examples * facts["tokens"]}
    parts = formula(page, "memory", settings)
    assert [parts[key] for key in ("weights", "gradients", "optimizer")] == measured
    assert math.isclose(parts["activations"], activations, rel_tol=0.05), "activations grow with the batch"


@pytest.mark.parametrize("name", LORA)
@pytest.mark.parametrize("width", [390, 1280])
def test_widgets_replace_their_figure_and_follow_the_slider(name, width, built, window):
    window.resize(width, 900)
    window.open((built / LORA[name]).as_uri())
    widget = f"document.querySelector('.widget[data-widget={name}]')"
    assert window.run(f"{widget}.querySelectorAll('img').length") == 0, "the static figure is for pages without scripts"
    summary = f"{widget}.querySelector('.widget-summary').textContent"
    before = window.run(summary)
    window.run(f"{widget}.querySelector('input[type=range]').focus()")
    press(window, "ArrowRight", 39)
    assert window.run(summary) != before, "the keyboard moves the slider"
    assert window.run("document.documentElement.scrollWidth - innerWidth") <= 0
    assert window.complaints == []
