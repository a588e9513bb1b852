"""Teachers: their logits, the cache of these, and the texts that they write."""
