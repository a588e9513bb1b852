"""Benchmarks: ratios within one run, against honest competitors, with the physical ceiling beside each."""
