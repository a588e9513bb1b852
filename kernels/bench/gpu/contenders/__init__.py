"""The cases of each operation and the contenders in them: ours, torch, installed libraries, and published forms."""
