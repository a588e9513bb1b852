"""What the five documents of the source material write runs here, or raises an error that shows the way."""
