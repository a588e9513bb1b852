"""Reference pages that are made from other files: `python -m tutorials reference`.

`reference/symptoms.md` merges the tables "What could go wrong" of all lessons. `reference/bugs.md` shows the programs of `bugs/`.
"""

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from tutorials.lessons import HERE, Lesson, all_lessons

FOLDER = HERE / "reference"
LINK = re.compile(r"\]\(([^):#]+\.py)\)")
"""a link from a lesson to the source of another page"""
HEADER = "| symptom | likely cause | check |"
SYMPTOMS = """# Symptoms: what you see, and where to look

Find your symptom, read the likely cause, and follow the link to the lesson that shows it. This table has the symptoms of all
lessons; "section" means a section of the lesson in the last column. In the book, write a word into the box above the table.

<div class="table-search" data-label="search a symptom, a cause or a method"></div>

| symptom | likely cause | check | lesson |
|:--|:--|:--|:--|
"""
BUGS = """# Bug museum: twelve silent bugs

Each program runs without an error, and its result is wrong. Read the symptom and the program, and find the bug before you open
the answer. To try your repair, copy its file from `tutorials/bugs/`.
"""


@dataclass(frozen=True)
class Bug:
    """A program with a silent bug, read from its module."""

    number: int
    module: ModuleType
    title: str
    facts: dict[str, str]
    """Symptom, Question, Cause, Lesson"""


def pages() -> dict[str, str]:
    """{file name: text} of all pages that this module makes."""
    return {"symptoms.md": symptoms(all_lessons()), "bugs.md": bugs()}


def command() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        print(f"reference {name}")
    return 0


def symptoms(lessons: list[Lesson]) -> str:
    """One table of all symptoms, in the order of the lessons."""
    lines = []
    for lesson in lessons:
        table = re.sub(r"(?m)^# ?", "", lesson.path.read_text()).partition(HEADER)[2]
        for line in table.splitlines()[2:]:
            if not line.startswith("|"):
                break
            linked = LINK.sub(lambda link: f"](../rendered/{link[1].removesuffix('.py')}.md)", line)
            name = lesson.path.stem.replace("_", " ")  # so that a search for a method finds its lesson
            lines.append(f"{linked} [{name}](../rendered/{lesson.page.name}) |")
    return SYMPTOMS + "\n".join(lines) + "\n"


def all_bugs() -> list[Bug]:
    names = sorted(path.stem for path in (HERE / "bugs").glob("bug_*.py"))
    return [_read(import_module(f"tutorials.bugs.{name}"), int(name.split("_")[1])) for name in names]


def bugs() -> str:
    lessons = {lesson.number: lesson for lesson in all_lessons()}
    return BUGS + "".join(_bug_section(bug, lessons[bug.facts["Lesson"]]) for bug in all_bugs())


def _read(module: ModuleType, number: int) -> Bug:
    title, *parts = (module.__doc__ or "").strip().split("\n\n")
    return Bug(number, module, title, dict(" ".join(part.split()).split(": ", 1) for part in parts))


def _bug_section(bug: Bug, lesson: Lesson) -> str:
    wrong, fixed = (inspect.getsource(getattr(bug.module, name)) for name in ("wrong", "fixed"))
    return f"""
## {bug.number}. {bug.title}

{bug.facts["Symptom"]} **{bug.facts["Question"]}**

```python
{wrong}```

<details><summary>Answer</summary>

{bug.facts["Cause"]} (Lesson [{lesson.number}](../rendered/{lesson.page.name}).)

```python
{fixed}```

</details>
"""
