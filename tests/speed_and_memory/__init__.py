"""Speed and memory: dropout, decoding into a buffer, many adapters, losses over large vocabularies, precision, cost of a run."""
