"""Prefix tuning and prompt tuning: the virtual tokens, the hooks that use them, and their files."""
