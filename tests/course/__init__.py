"""The lessons, the book, README and CLAIMS."""
