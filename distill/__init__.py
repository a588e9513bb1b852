"""PAIRS: distillation losses, students and the distillation trainer (not built yet)."""
