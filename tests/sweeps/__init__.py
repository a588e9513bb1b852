"""Every method on every family of models, and all classes of transformers: programs and their tables."""
