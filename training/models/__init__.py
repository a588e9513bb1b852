"""Base models, the methods that are applied to them, and trained models in folders."""
