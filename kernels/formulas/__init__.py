"""The operations in plain PyTorch: what a Triton kernel has to compute, and what a CPU runs."""
