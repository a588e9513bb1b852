"""The commands of `python -m distill`."""
