"""The names of the ways to weight tasks. `balancing.py` and `gradients.py` define them; this file needs no torch."""

LOSS_METHODS = ("equal", "uncertainty", "dwa")
"""they look at the losses alone"""
GRADIENT_NAMES = ("pcgrad", "mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "inverse_norm")
"""the names of `gradients.GRADIENT_METHODS`: they look at each task's gradient"""
METHODS = (*LOSS_METHODS, "gradnorm", *GRADIENT_NAMES)
DWA_PERIOD = 50
"""steps over which dynamic weight averaging compares losses"""
OPTIONS = {
    "dwa": {"period": float(DWA_PERIOD), "temperature": 2.0},
    "gradnorm": {"alpha": 1.5, "step_size": 0.025},
    "cagrad": {"c": 0.5},
}
"""the options of methods that have some, with their defaults"""
LARGEST_MGDA = 12
"""tasks up to which MGDA enumerates all 2^K - 1 subsets"""
