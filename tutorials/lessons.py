"""What lessons there are, read from the files themselves: number and claim from the title, the rest from the head table.

A lesson is a jupytext py:percent file: `# %%` starts a code cell, `# %% [markdown]` a text cell written as comments.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TITLE = re.compile(r"^# # (\d\d) · (.+)$", re.MULTILINE)
ROW = re.compile(r"^# \| \*\*(.+?)\*\* \| (.+?) \|$", re.MULTILINE)
LINK = re.compile(r"\[(.+?)\]\(.+?\)")
FIELDS = ("Needs", "Read and do", "Runs in", "Memory")
ENVIRONMENT = {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Cell:
    kind: str
    """code or markdown"""
    source: str

    @property
    def lines(self) -> list[str]:
        return self.source.splitlines()


@dataclass(frozen=True)
class Lesson:
    path: Path
    number: str
    claim: str
    facts: dict[str, str]
    """the head table: Needs, Read and do, Runs in, Memory"""

    @property
    def page(self) -> Path:
        return self.path.parent / "rendered" / f"{self.path.stem}.md"


def all_lessons(folder: Path = HERE) -> list[Lesson]:
    """Every lesson, by number."""
    return [read_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.py"))]


def read_lesson(path: Path) -> Lesson:
    """Read title and head table. ValueError where the file lacks one or its number differs from the file's name."""
    text = path.read_text()
    title, facts = TITLE.search(text), {name: LINK.sub(r"\1", value) for name, value in ROW.findall(text)}
    absent = [name for name in FIELDS if name not in facts]
    if title is None or absent:
        raise ValueError(f"{path.name}: expected '# # NN · claim' and a head table with {FIELDS}, absent: {absent or 'title'}")
    if title[1] != path.name[:2]:
        raise ValueError(f"{path.name}: the title says {title[1]}")
    return Lesson(path, title[1], title[2], facts)


def find(number: str, folder: Path = HERE) -> Lesson:
    """The lesson of a number; `1` and `01` are the same. ValueError for others, with those there are."""
    known = {lesson.number: lesson for lesson in all_lessons(folder)}
    if number.zfill(2) not in known:
        raise ValueError(f"no lesson {number!r}; there are {', '.join(known)}")
    return known[number.zfill(2)]


def cells(text: str) -> list[Cell]:
    """Split a py:percent file into its cells; text cells without their `# `."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            found.append(Cell("markdown", re.sub(r"^# ?", "", body.strip("\n"), flags=re.MULTILINE)))
        else:
            found.append(Cell("code", body.strip("\n")))
    return found


def listing() -> str:
    """The lessons as text for a terminal."""
    lines = []
    for lesson in all_lessons():
        facts = lesson.facts
        lines.append(f"{lesson.number}  {lesson.claim}")
        lines.append(f"    runs in {facts['Runs in']} · read and do: {facts['Read and do']} · needs: {facts['Needs']}")
    return "\n".join([*lines, "", "python -m tutorials run 01    runs one; the rendered pages are in tutorials/rendered"])


def run(lesson: Lesson) -> int:
    """Run a lesson in a fresh process from the project's root, with its section titles; returns its exit status."""
    command = [sys.executable, "tutorials/with_titles.py", str(lesson.path.relative_to(ROOT))]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


def environment() -> dict[str, str]:
    """The process environment that lessons run in: no window, no network."""
    return {**os.environ, **ENVIRONMENT}
