"""The commands of `python -m multitask`."""
