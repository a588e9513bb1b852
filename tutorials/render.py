"""Execute pages and write them as Markdown with pictures, so that readers on the web see the results.

jupytext turns the file into a notebook, nbconvert runs it in a fresh kernel, and `pages.py` writes the page. Only pages
whose own file, or a project file that they import, has changed are rendered again: `rendered/hashes.json` has a hash for each.
`rendered/seconds.json` has the processor seconds that each page took; a test compares them with what the page says. A page whose
code and outputs are as before keeps the smaller time: other users of the machine can only make it slower (up to twice, measured).
"""

import ast
import json
import os
import re
import tempfile
from pathlib import Path

from tutorials import pages, questions, vietnamese
from tutorials.answers import RECORD
from tutorials.lessons import ENVIRONMENT, HERE, ROOT, Lesson, all_lessons, all_pages, cells, find
from tutorials.sources import fingerprint

TIMEOUT = 300
README = HERE / "README.md"
HASHES = HERE / "rendered" / "hashes.json"
SECONDS = HERE / "rendered" / "seconds.json"


def command(numbers: list[str], force: bool = False) -> int:
    """Render the given pages (none: all) that are not fresh, then bring the tables of README and `vi.md` up to date."""
    wanted = [find(number) for number in numbers] or all_pages()
    for lesson in wanted:
        if not force and is_fresh(lesson):
            print(f"{lesson.key}: fresh")
            continue
        print(f"{lesson.key}: rendering {lesson.path.name} ...", flush=True)
        for file in render(lesson):
            print(f"    {file.relative_to(ROOT)}  {file.stat().st_size / 1000:.1f} kB")
    README.write_text(pages.with_tracks(pages.with_table(README.read_text(), all_lessons()), all_lessons()))
    vietnamese.START.write_text(vietnamese.with_table(vietnamese.START.read_text(), all_lessons()))
    return 0


def is_fresh(lesson: Lesson) -> bool:
    """Whether the page was made from exactly the files that the lesson depends on now."""
    return lesson.page.is_file() and hashes().get(lesson.key) == fingerprint(lesson.path)


def hashes() -> dict[str, str]:
    """{key of a page: hash of its source and of every project file that it uses}."""
    return json.loads(HASHES.read_text()) if HASHES.is_file() else {}


def render(lesson: Lesson) -> list[Path]:
    """Execute one page and write it with its pictures (replacing older ones). Returns the files written."""
    before, start = fingerprint(lesson.path), processor_seconds()
    notebook, answers = execute(lesson.path)
    seconds = round(processor_seconds() - start, 1)
    check_answers(lesson, answers)
    text, pictures = pages.to_page(notebook, lesson)
    problems = pages.noise_in(text)
    if problems:
        raise RuntimeError(f"{lesson.path.name}: the page would show {problems[:3]}")
    as_before = lesson.page.is_file() and code_and_outputs(lesson.page.read_text()) == code_and_outputs(text)
    lesson.page.parent.mkdir(exist_ok=True, parents=True)
    for old in lesson.page.parent.glob(f"{lesson.path.stem}_*.png"):
        old.unlink()
    for name, content in pictures.items():
        pages.check_size(name, content)
        (lesson.page.parent / name).write_bytes(content)
    lesson.page.write_text(text)
    _remember(HASHES, lesson.key, before)
    _remember(SECONDS, lesson.key, min(seconds, known_seconds().get(lesson.key, seconds)) if as_before else seconds)
    return [lesson.page, *(lesson.page.parent / name for name in pictures)]


def _remember(file: Path, key: str, value: str | float) -> None:
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(dict(sorted({**known, key: value}.items())), indent=1) + "\n")


def code_and_outputs(page: str) -> list[str]:
    """The fenced blocks of a rendered page: its prose takes no time."""
    return re.findall(r"^```.*?^```", page, re.DOTALL | re.MULTILINE)


def known_seconds() -> dict[str, float]:
    return json.loads(SECONDS.read_text()) if SECONDS.is_file() else {}


def processor_seconds() -> float:
    """Of all kernels that have ended: on an idle machine, the time of a page that runs on one thread."""
    used = os.times()
    return used.children_user + used.children_system


def check_answers(lesson: Lesson, answers: str) -> None:
    """RuntimeError where the options that the cells found true are not those that are marked."""
    marked = "".join(marked_answers(lesson))
    if answers != marked:
        raise RuntimeError(f"{lesson.path.name}: marked as right {marked!r}, true as the cells say {answers!r}")


def marked_answers(lesson: Lesson) -> list[str]:
    """The letters that are marked in the questions that a cell below them decides. ValueError where their numbers differ."""
    marked: list[str] = []
    waiting: list[questions.Question] = []
    for cell in cells(lesson.path.read_text()):
        if cell.kind == "markdown":
            asked = [part for part in questions.parts_of(cell.source) if isinstance(part, questions.Question)]
            waiting = asked or waiting
            continue
        calls = _calls_of_true_option(cell.source)
        if calls and len(calls) != len(waiting):
            raise ValueError(f"{lesson.path.name}: {len(calls)} calls of true_option after {len(waiting)} questions")
        for options, question in zip(calls, waiting, strict=False):
            if options != len(question.options):
                raise ValueError(f"{lesson.path.name}: {question.text!r} has {len(question.options)} options, its call {options}")
            marked.append(question.answer)
        waiting = [] if calls else waiting
    return marked


def _calls_of_true_option(code: str) -> list[int]:
    """The number of statements in each call, in order."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    named = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "true_option"]
    return [len(node.args) for node in sorted(named, key=lambda node: (node.lineno, node.col_offset))]


def execute(path: Path):
    """(notebook with outputs, letters that `true_option` found). It runs in the project's root; the first failure is raised."""
    try:
        import jupytext
        from nbconvert.preprocessors import ExecutePreprocessor
    except ImportError as error:
        raise RuntimeError(f"rendering needs {error.name}: run `make tutorials`, or pip install -e '.[render]'") from error
    with tempfile.NamedTemporaryFile("r", suffix=".answers") as answers:
        os.environ.update(ENVIRONMENT, PYTHONPATH=str(ROOT), **{RECORD: answers.name})
        notebook = jupytext.read(path)
        runner = ExecutePreprocessor(timeout=TIMEOUT, kernel_name="python3")
        runner.preprocess(notebook, {"metadata": {"path": str(ROOT)}})
        return notebook, answers.read()
