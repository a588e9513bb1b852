"""Adapter files in the formats of peft and of Microsoft's loralib: saving, loading, hot swapping."""
