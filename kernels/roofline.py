"""The roofline: how fast anything can be on a machine of two speeds (Williams et al. 2009)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at best."""

    bandwidth: float
    """bytes per second, read and written"""
    flops: float
    """operations per second"""

    def floor(self, flops: float, moved: float) -> float:
        """Seconds below which nothing with these operations and bytes can be done."""
        return max(flops / self.flops, moved / self.bandwidth)
