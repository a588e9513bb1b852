"""Thirteen puzzles that teach to write Triton kernels, each with one new difficulty: `python -m tutorials ladder 01`."""
