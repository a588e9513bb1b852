"""The scale of the update B A, and rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732).

LoRA divides by r. The entries of B A grow with √r only, so at a high rank that scale makes the update, and its gradients,
vanish; α / √r keeps their size the same at every rank.
"""

import math


def lora_scaling(lora_alpha: float, r: int, rank_stabilised: bool = False) -> float:
    """α / r, or α / √r."""
    return lora_alpha / (math.sqrt(r) if rank_stabilised else r)


def lora_alpha_for(scaling: float, r: int, rank_stabilised: bool = False) -> float:
    """The α that gives this scale at rank r."""
    return scaling * (math.sqrt(r) if rank_stabilised else r)
