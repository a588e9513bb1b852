"""Notebooks made from the sources of the pages, without outputs: `python -m tutorials notebooks`.

The first two cells say what to install, and go to the project's root. Folded cells are folded in Jupyter too.
"""

import json
import re

from tutorials import questions
from tutorials.lessons import HERE, Cell, Lesson, all_pages, cells
from tutorials.pages import LINK, moved_link

FOLDER = HERE / "notebooks"
INSTALL = """*A notebook made from [{name}]({name_link}). Do not edit it: its source is that file.*

Before the first run, in a terminal, in the project's folder: `make setup`, then `pip install -e '.[render]'` (it brings Jupyter).
Choose the Python of `.venv` as the kernel."""
ROOT_CELL = """import os
import sys
from pathlib import Path

os.chdir(next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir()))
sys.path.insert(0, os.getcwd())  # the project's folders are found from here"""


def path_of(lesson: Lesson):
    return FOLDER / lesson.folder / f"{lesson.path.stem}.ipynb"


def notebook(lesson: Lesson) -> str:
    """The file's text. The same source gives the same text."""
    here = path_of(lesson).with_suffix(".md")
    first = INSTALL.format(name=lesson.path.name, name_link=_link(f"{lesson.path.name}#", lesson).rstrip("#"))
    made = [_cell(0, Cell("markdown", first), lesson), _cell(1, Cell("code", ROOT_CELL, ("fold",)), lesson)]
    made += [_cell(i, cell, lesson) for i, cell in enumerate(cells(lesson.path.read_text()), start=2)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    del here
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def command() -> int:
    """Write all notebooks, and remove those of pages that are gone."""
    wanted = {path_of(lesson): notebook(lesson) for lesson in all_pages()}
    for old in set(FOLDER.rglob("*.ipynb")) - set(wanted):
        old.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"{len(wanted)} notebooks in {FOLDER.name}")
    return 0


def _cell(number: int, cell: Cell, lesson: Lesson) -> dict:
    metadata: dict = {"tags": list(cell.tags)} if cell.tags else {}
    if cell.kind == "markdown":
        return {
            "cell_type": "markdown",
            "id": f"cell-{number}",
            "metadata": metadata,
            "source": _lines(_text(cell.source, lesson)),
        }
    metadata |= {"jupyter": {"source_hidden": True}} if "fold" in cell.tags else {}
    source = _lines(cell.source)
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"cell-{number}",
        "metadata": metadata,
        "outputs": [],
        "source": source,
    }


def _text(source: str, lesson: Lesson) -> str:
    parts = [part if isinstance(part, str) else questions.to_markdown(part) for part in questions.parts_of(source)]
    return LINK.sub(lambda link: f"]({_link(link[1], lesson)})", "\n\n".join(parts))


def _link(target: str, lesson: Lesson) -> str:
    """A link of the source as it must be in the notebook, which lies one folder deeper, as pages do."""
    if re.match(r"\w+:", target):
        return target
    return moved_link(target, lesson.path, lesson.page)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
