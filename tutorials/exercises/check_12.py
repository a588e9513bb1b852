"""The checks of lesson 12's exercises, for your answers and for ours."""

import torch


def check_adapter_parameters(answers) -> None:
    assert answers.adapter_parameters(768, 48, 12, "pfeiffer") == 894_528, "2dm + m + d in each of 12 layers"
    assert answers.adapter_parameters(768, 48, 12, "houlsby") == 1_789_056, "two insertion points per layer"
    assert answers.adapter_parameters(768, 384, 12, "parallel") == 7_091_712, "one insertion point per layer, beside the FFN"
    assert answers.adapter_parameters(768, 48, 12, "houlsby", left_out=6) == 894_528, "half the layers, half the parameters"


def check_pfeiffer_sublayer(answers) -> None:
    g = torch.Generator().manual_seed(0)
    h, residual = torch.randn(2, 2, 3, 8, generator=g)
    norm = torch.nn.LayerNorm(8, elementwise_affine=False)
    found = answers.pfeiffer_sublayer(h, residual, norm, torch.zeros_like)
    assert torch.allclose(found, norm(h + residual), atol=1e-6), "an adapter of zeros leaves the layer as it was"
    found = answers.pfeiffer_sublayer(h, residual, norm, torch.square)
    z = h + residual
    assert torch.allclose(found, norm(z + norm(z) ** 2), atol=1e-6), "A looks at norm(z), is added to z, and then BERT's norm"


def check_output_by_example(answers) -> None:
    h, calls = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)), []
    before = h.clone()
    double = lambda x: (calls.append(("a", len(x))), 2 * x)[1]  # noqa: E731
    negative = lambda x: (calls.append(("b", len(x))), -x)[1]  # noqa: E731
    unused = lambda x: (calls.append(("c", len(x))), x)[1]  # noqa: E731
    found = answers.output_by_example(h, ["a", None, "b", "a"], {"a": double, "b": negative, "c": unused})
    assert torch.equal(h, before), "h itself stays as it is: this is what is added to it"
    assert torch.equal(found, torch.stack([2 * h[0], 0 * h[1], -h[2], 2 * h[3]])), "example i with the adapter names[i]"
    assert sorted(calls) == [("a", 2), ("b", 1)], "each named adapter once, on its examples together"
