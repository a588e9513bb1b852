"""Tasks and their data: reading, checking, encoding, batches."""
