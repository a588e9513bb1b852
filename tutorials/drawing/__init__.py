"""The diagrams of the course: a small drawing library, and one file of diagrams for each lesson. See `gallery.py`."""
