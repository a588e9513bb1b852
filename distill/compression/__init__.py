"""Smaller students: pruning and int8."""
