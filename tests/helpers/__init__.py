"""Tiny models, data and tools that the tests share."""
