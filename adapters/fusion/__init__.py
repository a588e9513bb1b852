"""AdapterFusion: learned attention over several adapters, and its files."""
