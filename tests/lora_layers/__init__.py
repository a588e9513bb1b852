"""The LoRA layers and their variants, the choice of a kernel, merging, 4-bit layers."""
