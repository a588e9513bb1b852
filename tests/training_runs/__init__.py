"""The training loop, whole runs, their folders and their commands."""
