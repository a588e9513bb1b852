"""TASKS: heads, sampling, loss balancing and the multitask trainer (not built yet)."""
