"""The layers that hold adapters: Linear, Conv1D, Embedding, Conv2d, 4-bit linear; and saved heads and biases."""
