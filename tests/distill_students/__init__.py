"""Students: how they are built, pruned, quantized and stored; whole runs and commands."""
