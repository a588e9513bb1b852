"""The kernels and their benchmarks: each against the formula in float64."""
