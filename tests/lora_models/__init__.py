"""LoRA in whole models: injection, several adapters, what never runs or never learns."""
