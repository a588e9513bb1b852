"""The training loop: one step, the optimizer, the schedule, checkpoints, processes."""
