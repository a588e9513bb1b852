"""Distillation losses: on logits, on hidden states, on relations; and how a run combines them."""
