"""Notebooks made from the sources of the pages, without outputs: `python -m tutorials notebooks`.

The first two cells say what to install, and go to the project's root. Folded cells are folded in Jupyter too.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from posixpath import normpath

from tutorials import questions
from tutorials.lessons import HERE, Cell, Lesson, all_pages, cells
from tutorials.pages import LINK, moved_link

FOLDER = HERE / "notebooks"
INSTALL = """*A notebook made from [{name}]({link}). Do not edit it: its source is that file.*

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
    source = Path(os.path.relpath(lesson.path, path_of(lesson).parent)).as_posix()
    first = Cell("markdown", INSTALL.format(name=lesson.path.name, link=source))
    of_page = cells(lesson.path.read_text())
    of_page = [replace(cell, source=_text(cell.source, lesson)) if cell.kind == "markdown" else cell for cell in of_page]
    made = [_cell(i, cell) for i, cell in enumerate([first, Cell("code", ROOT_CELL, ("fold",)), *of_page])]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
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


def _cell(number: int, cell: Cell) -> dict:
    metadata: dict = {"tags": list(cell.tags)} if cell.tags else {}
    if cell.kind == "markdown":
        return {
            "cell_type": "markdown",
            "id": f"cell-{number}",
            "metadata": metadata,
            "source": _lines(cell.source),
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
    """A link of the source as the notebook needs it. `notebooks` mirrors `rendered`: a link to a page leads to its notebook."""
    link = moved_link(target, lesson.path, lesson.page)
    page, _, anchor = link.partition("#")
    is_page = HERE / "rendered" in Path(normpath(lesson.page.parent / page)).parents
    return (page.removesuffix(".md") + ".ipynb" if is_page else page) + (f"#{anchor}" if anchor else "")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
