"""Several adapters made into one, on their updates Δᵢ = sᵢ Bᵢ Aᵢ and not on their factors.

    cat               Σ wᵢ Δᵢ, exact: A = [A₁; A₂; ...], B = [w₁s₁B₁, w₂s₂B₂, ...], rank r₁ + r₂ + ...
    svd               the same sum as its best rank-k part (Eckart and Young 1936): exact where k reaches the sum's rank
    ties              trim, elect signs, average those that agree (Yadav et al. 2023)
    dare_linear       drop entries at random and rescale the rest (Yu et al. 2024); dare_ties: then elect signs
    magnitude_prune   keep the largest entries, then sum
    linear            factors summed one by one: (Σ Aᵢ)(Σ Bᵢ) has cross terms BᵢAⱼ that nobody trained. Here to be seen wrong

One adapter with weight 1 gives itself, or the method raises. The new adapter has scale 1, so nothing depends on how the old
ones were scaled (rsLoRA, patterns, different alphas). Biases are combined as differences to the base's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralib.combining import merging
from loralib.injection.injection import adapter_configs, add_adapter, delete_adapter
from loralib.injection.merge_weights import merged_adapters
from loralib.layers.biases import model_biases
from loralib.layers.conv2d import Conv2d
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import LoraLayer, lora_layers
from loralib.variants.config import AdapterConfig, LoraConfig
from loralib.variants.variant import in_float32

PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class CombineReport:
    """What a combination did."""

    rank: int
    """the largest rank of the new adapter"""
    error: float
    """distance of the new adapter's update from what the method aims at, relative to that, over all layers"""

    def __str__(self) -> str:
        return f"combined to rank {self.rank}, relative error {self.error:.2e}"


@torch.no_grad()
def combine_adapters(
    model: nn.Module,
    names: list[str],
    weights: list[float],
    adapter_name: str,
    method: str = "cat",
    *,
    rank: int | None = None,
    density: float | None = None,
    seed: int | None = None,
    head_from: str | None = None,
) -> CombineReport:
    """Add an adapter made of others (frozen and inactive, as by `add_adapter`). Weights may be negative.

    rank: of the result, for all but `cat` and `linear`; None keeps all of the sum, or for the pruning methods the sum of ranks.
    density: share of entries to keep, in (0, 1], for the pruning methods. seed: of DARE's drops.
    head_from: whose head the new adapter gets, where several bring one.

    Raises ValueError for (IA)³ and DoRA, whose updates are no s · B A, and for whatever would be ignored.
    """
    configs = _checked(model, names, weights, method, density, seed, rank)
    layers = {p: layer for p, layer in lora_layers(model).items() if any(n in layer.variants for n in names)}
    combined = {
        path: _combined(layer, names, weights, method, rank, density, seed, i) for i, (path, layer) in enumerate(layers.items())
    }
    ranks = {path: len(A) for path, (A, B, *_) in combined.items()}
    top = max(ranks.values())
    exact_names = {f"^{re.escape(path)}": r for path, r in ranks.items() if r != top}
    head_owner = _head_owner(model, names, head_from)
    biases = {getattr(c, "bias", "none") for c in configs.values()}
    config = LoraConfig(
        r=top,
        lora_alpha=top,
        target_modules="|".join(re.escape(path) for path in layers),  # whole paths, so that no other module is meant
        modules_to_save=sorted(p for p, head in saved_modules(model).items() if head_owner in head.copies),
        rank_pattern=exact_names,
        alpha_pattern={key: float(r) for key, r in exact_names.items()},
        bias="all" if "all" in biases else "lora_only" if biases - {"none"} else "none",
        task_type=configs[names[0]].task_type,
        base_model_name_or_path=configs[names[0]].base_model_name_or_path,
    )
    add_adapter(model, config, adapter_name)
    try:
        for path, (A, B, *_) in combined.items():
            layers[path].lora_A[adapter_name].copy_(A)
            layers[path].lora_B[adapter_name].copy_(B)
        _combine_biases(model, names, weights, adapter_name, method, density, seed)
        for head in saved_modules(model).values():
            if head_owner in head.copies:
                head.copies[adapter_name].load_state_dict(head.copies[head_owner].state_dict())
    except BaseException:
        delete_adapter(model, adapter_name)
        raise
    missed, total = (sum(float(part[i]) for part in combined.values()) for i in (2, 3))
    return CombineReport(top, (missed / total) ** 0.5 if total else 0.0)


def _checked(model, names, weights, method, density, seed, rank) -> dict[str, AdapterConfig]:
    """Everything that can be wrong, before anything changes."""
    configs = adapter_configs(model)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged: unmerge(model) first")
    if not names or len(set(names)) < len(names) or not set(names) <= set(configs) or len(weights) != len(names):
        raise ValueError(f"names {names}, weights {weights}: expected a weight for each, each name once, of {sorted(configs)}")
    if not all(torch.isfinite(torch.tensor(float(w))) for w in weights):
        raise ValueError(f"weights {weights}: expected finite numbers")
    variants = [v for layer in lora_layers(model).values() for n, v in layer.variants.items() if n in names]
    others = sorted({variant.title for variant in variants if not variant.is_low_rank})
    if others:
        raise ValueError(f"{names}: a weighted sum is defined for updates s · B A; {others} has others. Merge it instead")
    if method not in ("cat", "svd", "linear", *PRUNING):
        raise ValueError(f"method {method!r} is unknown; there are cat, svd, linear, {', '.join(PRUNING)}")
    _check_options(model, names, method, density, seed, rank)
    return {n: c for n, c in configs.items() if n in names}


def _check_options(model, names, method, density, seed, rank) -> None:
    """Density, seed and rank: those that a method needs, and no others."""
    if (method in PRUNING) != (density is not None) or (density is not None and not 0 < density <= 1):
        raise ValueError(f"density={density}: {', '.join(PRUNING)} need one in (0, 1], the other methods take none")
    if method.startswith("dare") != (seed is not None):
        raise ValueError(f"seed={seed}: DARE drops at random and needs one, the other methods take none")
    if method in ("cat", "linear") and rank is not None:
        raise ValueError(f"rank={rank}: {method} has the rank that follows from its adapters; take svd to choose one")
    if rank is not None and rank < 1:
        raise ValueError(f"rank={rank}: expected at least 1, or None for all of the sum")
    own = max(len(_factors(layer, names[0])[0]) for layer in lora_layers(model).values() if names[0] in layer.variants)
    if len(names) == 1 and rank is not None and rank < own:
        raise ValueError(f"rank={rank} of one adapter of rank {own} would only damage it: give at least two, or rank=None")
    if len(names) == 1 and density not in (None, 1.0):
        raise ValueError(f"{method} with density {density} of one adapter would only damage it: give at least two, or density=1")


def _combined(layer: LoraLayer, names, weights, method, rank, density, seed, index) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B, squared error, squared norm of the aim) of one layer; the new scale is 1."""
    here = [(w, *_factors(layer, n)) for n, w in zip(names, weights, strict=True) if n in layer.variants]
    A, B = torch.cat([a for _, a, _ in here]), torch.cat([w * b for w, _, b in here], 1)
    if method == "linear":
        # peft's form: the root of each weight on both sides, its sign on A
        roots = [abs(w) ** 0.5 for w, *_ in here]
        if len({len(a) for _, a, _ in here}) > 1:
            raise ValueError(f"linear adds factors, so all adapters need one rank; found {[len(a) for _, a, _ in here]}")
        A_sum = sum((root if w >= 0 else -root) * a for root, (w, a, _) in zip(roots, here, strict=True))
        B_sum = sum(root * b for root, (_, _, b) in zip(roots, here, strict=True))
        assert isinstance(A_sum, Tensor) and isinstance(B_sum, Tensor)
        return _shaped(layer, A_sum, B_sum, A, B)
    if method == "cat":
        return _shaped(layer, A, B, A, B)
    if method == "svd":
        return _shaped(layer, *_best_of_factors(A, B, rank or len(A)), A, B)
    deltas = [b @ a for _, a, b in here]
    mixed = _mix(method, density, None if seed is None else seed * 100_003 + index)(deltas, [w for w, *_ in here])
    U, S, Vh = torch.linalg.svd(mixed, full_matrices=False)
    k = min(rank or len(A), len(S))
    root = S[:k].sqrt()
    return _shaped(layer, root[:, None] * Vh[:k], U[:, :k] * root, None, mixed)


def _mix(method: str, density: float | None, seed: int | None) -> Callable[[list[Tensor], list[float]], Tensor]:
    """The function of `merging.py` for a method, on tensors of any shape."""
    if density is None:
        return merging.weighted_sum
    if seed is None:
        chosen = {"ties": merging.ties, "magnitude_prune": merging.magnitude_prune}[method]
        return lambda tensors, weights: chosen(tensors, weights, density)
    dare = {"dare_linear": merging.dare_linear, "dare_ties": merging.dare_ties}[method]
    return lambda tensors, weights: dare(tensors, weights, density, torch.Generator().manual_seed(seed))


def _factors(layer: LoraLayer, name: str) -> Factors:
    """(A, s · B) as matrices, wide: a convolution's kernel counts as columns of A."""
    variant = layer.variants[name]
    A, B = variant.factors(layer, name)
    return in_float32(A).flatten(1), in_float32(B).flatten(1) * variant.scaling


def _best_of_factors(A: Tensor, B: Tensor, k: int) -> Factors:
    """The best rank-k form of B A, by way of two thin QRs: no matrix of the weight's size."""
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)
    k = min(k, len(S))
    root = S[:k].sqrt()
    return (root[:, None] * Vh[:k]) @ Q_A.T, (Q_B @ U[:, :k]) * root


def _shaped(layer: LoraLayer, A: Tensor, B: Tensor, exact_A: Tensor | None, exact_B: Tensor):
    """The factors in the layer's shapes, with the squared error and norm of what they stand for."""
    aim = exact_B if exact_A is None else exact_B @ exact_A
    error, norm = (B @ A - aim).square().sum(), aim.square().sum()
    if isinstance(layer, Conv2d):
        A, B = A.view(len(A), layer.in_channels, *layer.kernel_size), B[:, :, None, None]
    return A, B, error, norm


def _head_owner(model: nn.Module, names: list[str], head_from: str | None) -> str:
    """Whose head the new adapter gets; "" when none brings one."""
    owners = sorted({n for head in saved_modules(model).values() for n in names if n in head.copies})
    if head_from is not None and head_from not in owners:
        raise ValueError(f"head_from={head_from!r} brings no head; there are heads of {owners}")
    if len(owners) > 1 and head_from is None:
        raise ValueError(f"adapters {owners} each have a head, and heads of different tasks do not add up: choose head_from")
    return head_from or (owners[0] if owners else "")


def _combine_biases(model: nn.Module, names, weights, adapter_name, method, density, seed) -> None:
    record = model_biases(model)
    mix = _mix(method, density, seed)
    for name, new in record.copies.get(adapter_name, {}).items():
        base = in_float32(record.originals[name])
        here = [
            (w, in_float32(record.copies[n][name]) - base)
            for n, w in zip(names, weights, strict=True)
            if name in record.copies.get(n, {})
        ]
        if here:
            new.data.copy_(base + mix([delta for _, delta in here], [w for w, _ in here]))
