"""The label of what no loss may count: a token of the prompt, of the padding, or without an answer."""

IGNORE = -100
