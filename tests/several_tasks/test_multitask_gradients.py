"""Combining the gradients of several tasks: closed forms (reference 7.2), TorchJD's properties, and searches over a grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitask.balancing.balancing import BALANCING, Balancing, make_balancing
from multitask.balancing.gradients import (
    GRADIENT_METHODS,
    aligned_mtl,
    cagrad,
    equal,
    imtl_g,
    inverse_norm,
    mgda,
    nash_mtl,
    pcgrad,
)
from multitask.runs.settings import MultitaskSettings

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)


def direction(method, J, *more):
    return J.T @ method(J @ J.T, *more)


def gradients(seed: int, tasks: int, size: int = 12) -> torch.Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "more", "weights", "wanted"),
    [
        (equal, (), [1, 1], [2, 2, 2]),
        (pcgrad, (), None, [0.58480, 3.80117, 3.80117]),
        (mgda, (), [0.6, 0.4], [0, 1, 1]),
        (imtl_g, (), [0.59233, 0.40767], [0.07670, 1, 1]),
        (nash_mtl, (), [0.59146, 0.40707], [0.07658, 0.99853, 0.99853]),
        (inverse_norm, (), [1.18466, 0.81534], [0.15339, 2, 2]),
        (cagrad, (0.5,), None, [0.1835, 1.2041, 1.2041]),
        (cagrad, (0.0,), [0.5, 0.5], [1, 1, 1]),
        (cagrad, (1.0,), None, [0, 2, 2]),
        (aligned_mtl, (), [1.11814, 0.81652], [0.42656, 1.93467, 1.93467]),
    ],
)
def test_the_golden_table(method, more, weights, wanted):
    torch.testing.assert_close(direction(method, J2, *more), torch.tensor(wanted, dtype=torch.float64), atol=5e-5, rtol=0)
    if weights is not None:
        result = method(J2 @ J2.T, *more)
        torch.testing.assert_close(result, torch.tensor(weights, dtype=torch.float64), atol=5e-6, rtol=0)


@given(seed=st.integers(0, 10**6), tasks=st.integers(2, 6))
def test_the_order_of_the_tasks_does_not_matter(seed, tasks):
    J, order = gradients(seed, tasks), torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    for name, method in GRADIENT_METHODS.items():
        if name == "pcgrad" and tasks > 2:
            continue  # its order is drawn
        torch.testing.assert_close(direction(method, J[order]), direction(method, J), atol=1e-6, rtol=1e-5)


@given(seed=st.integers(0, 10**6), tasks=st.integers(2, 6))
def test_no_task_is_hurt_by_those_that_promise_it(seed, tasks):
    """MGDA and Nash-MTL (d·g_i ≥ 0), CAGrad with c ≥ 1; PCGrad for two tasks."""
    J = gradients(seed, tasks)
    promised = [mgda, nash_mtl, lambda G: cagrad(G, 1.0), *([pcgrad] if tasks == 2 else [])]
    for method in promised:
        products = J @ direction(method, J)
        assert products.min() > -1e-6 * J.norm() ** 2
    assert (J @ direction(nash_mtl, J)).min() > 0


@given(seed=st.integers(0, 10**6), factors=st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_what_scaling_a_loss_does(seed, factors):
    """Linear under scaling: the sum. Blind to it: IMTL-G, Nash-MTL and the inverse norm, up to the update's own length."""
    J, c = gradients(seed, 3), torch.tensor(factors, dtype=torch.float64)
    torch.testing.assert_close(direction(equal, c[:, None] * J), J.T @ c)
    for method in (nash_mtl, inverse_norm):
        one, other = direction(method, J), direction(method, c[:, None] * J)
        torch.testing.assert_close(one / one.norm(), other / other.norm(), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(direction(nash_mtl, J), direction(nash_mtl, c[:, None] * J), atol=1e-7, rtol=1e-6)


@given(seed=st.integers(0, 10**6))
def test_for_two_tasks_three_methods_are_one(seed):
    """IMTL-G, Nash-MTL and the inverse norm give the same direction."""
    J = gradients(seed, 2)
    ways = [direction(method, J) for method in (imtl_g, nash_mtl, inverse_norm)]
    for way in ways[1:]:
        torch.testing.assert_close(way / way.norm(), ways[0] / ways[0].norm(), atol=1e-9, rtol=1e-7)


@given(seed=st.integers(0, 10**6), tasks=st.integers(2, 5))
def test_each_does_what_its_paper_says(seed, tasks):
    J = gradients(seed, tasks)
    G = J @ J.T
    torch.testing.assert_close(G @ nash_mtl(G), 1 / nash_mtl(G), atol=1e-8, rtol=1e-8)
    unit = J / J.norm(dim=1, keepdim=True)
    shares = unit @ direction(imtl_g, J)
    torch.testing.assert_close(shares, shares[:1].expand(tasks), atol=1e-8, rtol=1e-8)
    B = torch.stack([J.T @ row for row in _aligned_rows(G)])
    torch.testing.assert_close(B @ B.T, torch.linalg.eigvalsh(G)[0] * torch.eye(tasks, dtype=torch.float64), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(aligned_mtl(G), _aligned_rows(G).sum(0))
    w = mgda(G)
    assert (w >= 0).all() and w.sum() == pytest.approx(1)
    assert ((G @ w) >= w @ G @ w - 1e-9).all(), "KKT: no task's gradient is closer to zero than the update"


def _aligned_rows(G):
    values, V = torch.linalg.eigh(G)
    return values.min().sqrt() * V @ torch.diag(values.rsqrt()) @ V.T


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_finds_what_a_grid_finds(c):
    J = gradients(5, 3, 4)
    J[1] -= 1.5 * J[0]
    G, n = J @ J.T, 200
    a, b = torch.meshgrid(torch.arange(n + 1), torch.arange(n + 1), indexing="ij")
    w = torch.stack([a, b, n - a - b], -1)[a + b <= n].double() / n
    mean = torch.full((3,), 1 / 3, dtype=torch.float64)
    radius = c * (mean @ G @ mean).sqrt()
    values = w @ G @ mean + radius * torch.einsum("ni,ij,nj->n", w, G, w).clamp(min=0).sqrt()
    result = cagrad(G, c) - mean
    result = result / result.sum()
    own = result @ G @ mean + radius * (result @ G @ result).sqrt()
    assert own <= values.min() + 1e-9 and values.min() - own < 0.02
    torch.testing.assert_close((direction(cagrad, J, c) - J.T @ mean).norm(), radius, atol=1e-9, rtol=1e-9)


def test_pcgrad_is_its_own_words():
    """The algorithm on the gradients themselves, with the same order."""
    J = gradients(3, 4)
    J[1:] -= J[0]
    projected, generator = J.clone(), torch.Generator().manual_seed(7)
    for i in range(4):
        for j in torch.randperm(4, generator=generator).tolist():
            if j != i and projected[i] @ J[j] < 0:
                projected[i] -= (projected[i] @ J[j]) / (J[j] @ J[j]) * J[j]
    result = J.T @ pcgrad(J @ J.T, torch.Generator().manual_seed(7))
    torch.testing.assert_close(result, projected.sum(0))
    friends = gradients(3, 3).abs()
    torch.testing.assert_close(direction(pcgrad, friends), friends.sum(0), msg="without conflict nothing is changed")


def test_one_task_is_its_gradient_and_a_dead_one_is_named():
    J = gradients(0, 1)
    for name, method in GRADIENT_METHODS.items():
        way = direction(method, J)
        torch.testing.assert_close(way / way.norm(), J[0] / J[0].norm(), msg=name)
    J = gradients(0, 3)
    J[1] = 0
    for method in (inverse_norm, imtl_g, nash_mtl):
        with pytest.raises(ValueError, match=r"tasks \[1\] are zero"):
            method(J @ J.T)


@pytest.mark.parametrize("size", [1e-12, 1e6, 1e12])
def test_mgda_does_not_depend_on_the_unit_of_all_losses(size):
    J = torch.tensor([[-4.0, 1, 1], [6, 1, 1], [0.5, 2, -1]], dtype=torch.float64)
    torch.testing.assert_close(mgda(size**2 * J @ J.T), mgda(J @ J.T), atol=1e-9, rtol=1e-9)
    steep = torch.tensor([[1.0, 1e-9], [2000.0, 4000.0]], dtype=torch.float64) * size
    w = mgda(steep @ steep.T)
    assert float(w.sum()) == pytest.approx(1) and (w >= 0).all()


def test_gradients_that_are_all_zero_are_told():
    for method in ("cagrad", "aligned_mtl"):
        with pytest.raises(ValueError, match="of all tasks are zero"):
            GRADIENT_METHODS[method](torch.zeros(2, 2, dtype=torch.float64))


def test_mgda_of_gradients_with_very_different_lengths():
    """Orthogonal gradients: w is proportional to 1 / ‖g‖². One that is a million times longer must not hide the other two."""
    lengths = torch.tensor([1.0, 1e6, 2.0], dtype=torch.float64)
    wanted = torch.tensor([0.8, 0.0, 0.2], dtype=torch.float64)
    torch.testing.assert_close(mgda(torch.diag(lengths**2)), wanted, atol=1e-3, rtol=0)


def test_cagrad_does_not_depend_on_the_unit_of_all_losses():
    G = J2 @ J2.T
    torch.testing.assert_close(cagrad(1e-12 * G), cagrad(G), atol=1e-9, rtol=0)


def test_nash_mtl_ends_with_newtons_full_steps():
    """They converge quadratically: G w = 1 / w up to the rounding of float64."""
    G = J2 @ J2.T
    w = nash_mtl(G)
    torch.testing.assert_close(w * (G @ w), torch.ones(2, dtype=torch.float64), atol=1e-14, rtol=0)


def test_a_new_method_is_one_function_and_one_line(monkeypatch):
    def longest(G):
        """Only the task with the longest gradient."""
        return torch.nn.functional.one_hot(G.diagonal().argmax(), len(G)).to(G.dtype)

    monkeypatch.setitem(GRADIENT_METHODS, "longest", longest)
    balancing = make_balancing("longest", ["classification"] * 3)
    G = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64))
    assert balancing.looks_at_gradients and balancing.solve(G, G, [0, 1, 2], {}, 1).tolist() == [0, 1, 0]


def test_a_new_class_of_methods_is_one_class_and_one_line(monkeypatch):
    class Halves(Balancing):
        def weight(self, k):
            return 0.5**k

    monkeypatch.setitem(BALANCING, "halves", Halves)
    balancing = make_balancing("halves", ["classification"] * 2)
    assert float(balancing.term(1, torch.tensor(4.0), 1.0)) == 2.0 and not balancing.looks_at_gradients
    with pytest.raises(NotImplementedError, match="Halves does not look at gradients"):
        balancing.solve(torch.eye(2), torch.eye(2), [0, 1], {}, 1)


def test_mgda_refuses_to_enumerate_the_subsets_of_many_tasks():
    with pytest.raises(ValueError, match=r"8,191 subsets of 13 tasks: expected at most 12"):
        mgda(torch.eye(13, dtype=torch.float64))
    torch.testing.assert_close(mgda(torch.eye(12, dtype=torch.float64)), torch.full((12,), 1 / 12, dtype=torch.float64))


def test_options_reach_the_methods_and_unknown_ones_are_refused():
    G = torch.tensor([[1.0, -0.4], [-0.4, 4.0]], dtype=torch.float64)
    solved = make_balancing("cagrad", ["classification"] * 2, c=0.2).solve(G, G, [0, 1], {}, 1)
    assert torch.equal(solved, cagrad(G, c=0.2)) and not torch.equal(solved, cagrad(G))
    assert make_balancing("gradnorm", ["classification"] * 2, alpha=0.5).alpha == 0.5
    assert make_balancing("dwa", ["classification"] * 2, period=7).period == 7
    with pytest.raises(ValueError, match="'equal' has no option 'c'; it has none"):
        make_balancing("equal", ["classification"], c=0.2)
    settings = MultitaskSettings(loss_weighting="cagrad", weighting_options="c=0.3")
    assert settings.balancing_options() == {"c": 0.3}
    with pytest.raises(ValueError, match="'cagrad' has no option 'alpha'; it has c"):
        MultitaskSettings(loss_weighting="cagrad", weighting_options="alpha=0.3")
    with pytest.raises(ValueError, match="is 'equal' for the first 20 steps"):
        MultitaskSettings(loss_weighting="dwa", weighting_options="period=10", steps=20)
