"""The names of the ways to weight tasks. `balancing.py` and `gradients.py` define them; this file needs no torch."""

LOSS_METHODS = ("equal", "uncertainty", "dwa")
"""they look at the losses alone"""
GRADIENT_NAMES = ("pcgrad", "mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "inverse_norm")
"""the names of `gradients.GRADIENT_METHODS`: they look at each task's gradient"""
METHODS = (*LOSS_METHODS, "gradnorm", *GRADIENT_NAMES)
DWA_PERIOD = 50
"""steps over which dynamic weight averaging compares losses"""
