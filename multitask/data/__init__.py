"""Batches from several tasks: sampling and mixing."""
