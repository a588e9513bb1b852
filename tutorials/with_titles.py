"""`python tutorials/with_titles.py LESSON`: run a lesson, and print the title of each section before its results.

A title is a comment of its own line, so a `print` can take its place and every line keeps its number.
"""

import re
import sys
from pathlib import Path

TITLE = re.compile(r"^# (## \d+\. .+)$", re.MULTILINE)


def with_titles(source: str) -> str:
    """The lesson's source, with a print in the place of each section's title."""
    return TITLE.sub(lambda found: f"print({f'{chr(10)}{found[1]}'!r}, flush=True)", source)


if __name__ == "__main__":
    path = sys.argv[1]
    code = compile(with_titles(Path(path).read_text(encoding="utf-8")), path, "exec")
    exec(code, {"__name__": "__main__", "__file__": path})
