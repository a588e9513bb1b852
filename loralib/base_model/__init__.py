"""The model that LoRA is put into: its wrappers, its layers from other packages, and the layers that never run."""
