"""One model with a head for each task, task adapters and task embeddings."""
