"""What pages there are, read from the files themselves: number and claim from the title, the rest from the lines below it.

A page is a jupytext py:percent file: `# %%` starts a code cell, `# %% [markdown]` a text cell written as comments. There are core
pages (`NN_name.py`), a deep dive for some of them (`deep/NN_name.py`), and topics that several lessons need (`topics/name.py`).
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TITLE = re.compile(r"^# # (?:(\d\d) · )?(.+)$", re.MULTILINE)
LINK = re.compile(r"\[(.+?)\]\(.+?\)")
FIELDS = ("Needs", "Read and do", "Runs in", "Memory")
FACT = re.compile(rf"\*\*({'|'.join(FIELDS)})\*\*(?: \|)? (.+?)(?= · \*\*| \||$)", re.MULTILINE)
TAGS = re.compile(r"tags=\[(.*?)\]")
FOLDERS = ("deep", "topics")
ENVIRONMENT = {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Cell:
    kind: str
    """code or markdown"""
    source: str
    tags: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        return self.source.splitlines()


@dataclass(frozen=True)
class Lesson:
    path: Path
    number: str
    """of the lesson; empty for a topic"""
    claim: str
    facts: dict[str, str]
    """Needs, Read and do, Runs in, Memory"""

    @property
    def folder(self) -> str:
        """`deep`, `topics`, or empty for a core page."""
        return self.path.parent.name if self.path.parent.name in FOLDERS else ""

    @property
    def key(self) -> str:
        """What a command calls it: `01`, `deep/01`, `topics/compare_two_runs`."""
        return "/".join(filter(None, (self.folder, self.number or self.path.stem)))

    @property
    def page(self) -> Path:
        start = self.path.parent.parent if self.folder else self.path.parent
        return start / "rendered" / self.folder / f"{self.path.stem}.md"

    @property
    def is_core(self) -> bool:
        """Whether it is a core page of the second edition: short, and with a quiz."""
        return self.folder != "deep" and "\n# ## Quiz\n" in self.path.read_text()

    @property
    def deep_dive(self) -> Path | None:
        """The source of its deep dive; None for a lesson without one, and for other pages."""
        path = self.path.parent / "deep" / self.path.name
        return path if not self.folder and path.is_file() else None


def all_lessons(folder: Path = HERE) -> list[Lesson]:
    """Every core page, by number."""
    return [read_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.py"))]


def all_pages(folder: Path = HERE) -> list[Lesson]:
    """Core pages, deep dives and topics."""
    return [*all_lessons(folder), *(read_lesson(path) for name in FOLDERS for path in sorted((folder / name).glob("*.py")))]


def read_lesson(path: Path) -> Lesson:
    """Read title and facts. ValueError where the file lacks one or its number differs from the file's name."""
    text = path.read_text()
    title, facts = TITLE.search(text), {name: LINK.sub(r"\1", value) for name, value in FACT.findall(_head(text))}
    absent = [name for name in FIELDS if name not in facts]
    if title is None or absent:
        raise ValueError(f"{path.name}: expected '# # NN · claim' and below it {FIELDS}, absent: {absent or 'title'}")
    number = title[1] or ""
    if number != (path.name[:2] if path.name[:2].isdigit() else ""):
        raise ValueError(f"{path.name}: the title says {number or 'no number'}")
    return Lesson(path, number, title[2], facts)


def _head(text: str) -> str:
    """The first text cell, up to its first section; lines of a paragraph joined."""
    first = text.partition("# %% [markdown]")[2].partition("\n# %%")[0].partition("\n# ## ")[0]
    return re.sub(r"(?<=\S)\n# (?=\S)", " ", first) if " · **" in first else first


def find(key: str, folder: Path = HERE) -> Lesson:
    """The page of a key; `1` and `01` are the same. ValueError for others, with those there are."""
    known = {lesson.key: lesson for lesson in all_pages(folder)}
    kind, _, name = key.rpartition("/")
    wanted = "/".join(filter(None, (kind, name.zfill(2) if name.isdigit() else name)))
    if wanted not in known:
        raise ValueError(f"no lesson {key!r}; there are {', '.join(known)}")
    return known[wanted]


def cells(text: str) -> list[Cell]:
    """Split a py:percent file into its cells; text cells without their `# `."""
    result = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        tags = tuple(re.findall(r'"([^"]+)"', tagged[1])) if (tagged := TAGS.search(head)) else ()
        if "[markdown]" in head:
            result.append(Cell("markdown", re.sub(r"^# ?", "", body.strip("\n"), flags=re.MULTILINE), tags))
        else:
            result.append(Cell("code", body.strip("\n"), tags))
    return result


def listing() -> str:
    """The lessons as text for a terminal."""
    lines = []
    for lesson in all_lessons():
        facts = lesson.facts
        lines.append(f"{lesson.number}  {lesson.claim}")
        lines.append(f"    runs in {facts['Runs in']} · read and do: {facts['Read and do']} · needs: {facts['Needs']}")
    others = [page.key for page in all_pages() if page.folder]
    lines += ["", f"deep dives and topics: {', '.join(others)}"] if others else []
    return "\n".join([*lines, "", "python -m tutorials run 01    runs one; the rendered pages are in tutorials/rendered"])


def run(lesson: Lesson, questions: bool = True) -> int:
    """Run a lesson in a fresh process from the project's root, with its titles and questions; returns its exit status."""
    command = [sys.executable, "tutorials/with_titles.py", str(lesson.path.relative_to(ROOT))]
    command += [] if questions else ["--no-questions"]
    return subprocess.run(command, cwd=ROOT, env={**environment(), "PYTHONPATH": str(ROOT)}, check=False).returncode


def environment() -> dict[str, str]:
    """The process environment that lessons run in: no window, no network."""
    return {**os.environ, **ENVIRONMENT}
