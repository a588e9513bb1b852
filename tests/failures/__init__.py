"""Damaged files, full disks, kills, hostile input, unknown models: nothing fails silently."""
