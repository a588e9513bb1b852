"""Distillation losses, teachers, and the trainer of students."""
