"""The forward and backward passes as autograd functions, and the choice between PyTorch and a Triton kernel."""
