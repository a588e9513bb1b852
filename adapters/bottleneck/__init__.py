"""Bottleneck adapters: the module, where it goes, how several act together, and their files."""
