"""Execute lessons and write them as Markdown pages with pictures, so that readers on the web see the results.

jupytext turns the file into a notebook, nbconvert runs it in a fresh kernel, and `pages.py` writes the page. Only lessons
whose own file, or a project file that they import, has changed are rendered again.
"""

import os
from pathlib import Path

from tutorials import pages, vietnamese
from tutorials.lessons import ENVIRONMENT, HERE, ROOT, Lesson, all_lessons, find
from tutorials.sources import fingerprints

TIMEOUT = 300
README = HERE / "README.md"


def command(numbers: list[str], force: bool = False) -> int:
    """Render the given lessons (none: all) that are not fresh, then bring the tables of README and `vi.md` up to date."""
    wanted = [find(number) for number in numbers] or all_lessons()
    for lesson in wanted:
        if not force and is_fresh(lesson):
            print(f"{lesson.number}: fresh")
            continue
        print(f"{lesson.number}: rendering {lesson.path.name} ...", flush=True)
        for file in render(lesson):
            print(f"    {file.relative_to(ROOT)}  {file.stat().st_size / 1000:.1f} kB")
    README.write_text(pages.with_table(README.read_text(), all_lessons()))
    vietnamese.START.write_text(vietnamese.with_table(vietnamese.START.read_text(), all_lessons()))
    return 0


def is_fresh(lesson: Lesson) -> bool:
    """Whether the page's footer names exactly the files, with the hashes, that the lesson depends on now."""
    if not lesson.page.is_file():
        return False
    return pages.footer_hashes(lesson.page.read_text()) == fingerprints(lesson.path)


def render(lesson: Lesson) -> list[Path]:
    """Execute one lesson and write its page and pictures (replacing older ones). Returns the files written."""
    before = fingerprints(lesson.path)
    notebook = execute(lesson.path)
    text, pictures = pages.to_page(notebook, lesson, before)
    problems = pages.noise_in(text)
    if problems:
        raise RuntimeError(f"{lesson.path.name}: the page would show {problems[:3]}")
    lesson.page.parent.mkdir(exist_ok=True)
    for old in lesson.page.parent.glob(f"{lesson.path.stem}_*.png"):
        old.unlink()
    for name, content in pictures.items():
        pages.check_size(name, content)
        (lesson.page.parent / name).write_bytes(content)
    lesson.page.write_text(text)
    return [lesson.page, *(lesson.page.parent / name for name in pictures)]


def execute(path: Path):
    """The lesson as a notebook with outputs, run from the project's root. Raises at the first failing cell."""
    try:
        import jupytext
        from nbconvert.preprocessors import ExecutePreprocessor
    except ImportError as error:
        raise RuntimeError(f"rendering needs {error.name}: run `make tutorials`, or pip install -e '.[render]'") from error
    os.environ.update(ENVIRONMENT, PYTHONPATH=str(ROOT))
    notebook = jupytext.read(path)
    runner = ExecutePreprocessor(timeout=TIMEOUT, kernel_name="python3")
    runner.preprocess(notebook, {"metadata": {"path": str(ROOT)}})
    return notebook
