"""Bottleneck adapters, fusion, prefixes and prompts."""
