"""peft's settings: reading and writing adapter_config.json, with the types of its fields."""
