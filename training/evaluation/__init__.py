"""Losses, metrics, generated texts."""
