"""TENSORS: each operation twice, in plain PyTorch (the definition) and in Triton (fast). Import its modules by name.

transformers imports any package called `kernels`, so this file holds a docstring and nothing else.
"""
