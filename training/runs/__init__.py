"""One run: its settings, its folder, its result."""
