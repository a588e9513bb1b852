"""The Triton kernels, with their tile sizes and the operators through which PyTorch calls them."""
