"""Adapter files and model folders, in both directions between us and peft, transformers and bitsandbytes."""
