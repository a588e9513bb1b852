"""Models with 4-bit weights (QLoRA): quantizing, saving, loading, merging."""
