"""`python tutorials/with_titles.py PAGE [--no-questions]`: run a page; print the title of each section, ask its questions.

A title, or the first line of a question, is a comment of its own line. So a call can take its place, and no line changes its
number. Questions are asked only where somebody can answer: in a terminal.
"""

import re
import sys
from itertools import count
from pathlib import Path

TITLE = re.compile(r"^# (## (?:\d+\. .+|Find the bug.*|Quiz.*))$", re.MULTILINE)
QUESTION = re.compile(r"^# \?\?\? .+$", re.MULTILINE)


def with_titles(source: str) -> str:
    """The page's source, with a print in the place of each section's title and `__ask__(i)` for the i-th question."""
    number = count()
    source = TITLE.sub(lambda title: f"print({f'{chr(10)}{title[1]}'!r}, flush=True)", source)
    return QUESTION.sub(lambda question: f"__ask__({next(number)})", source)


def main(path: str, wanted: bool) -> None:
    from tutorials import questions
    from tutorials.lessons import cells

    source = Path(path).read_text(encoding="utf-8")
    of_page = questions.of_page(cells(source))
    there = wanted and sys.stdin.isatty() and sys.stdout.isatty()
    code = compile(with_titles(source), path, "exec")
    space = {"__name__": "__main__", "__file__": path, "__ask__": lambda i: questions.ask(of_page[i]) if there else None}
    exec(code, space)


if __name__ == "__main__":
    main(sys.argv[1], "--no-questions" not in sys.argv[2:])
