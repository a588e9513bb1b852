"""BLOCKS: bottleneck adapters, prefix and prompt tuning, AdapterFusion (not built yet)."""
