"""Multitask training: sampling, balancing, the model, whole runs."""
