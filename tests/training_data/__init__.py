"""What goes into a run and what comes out: data, labels, encoding, metrics, texts."""
