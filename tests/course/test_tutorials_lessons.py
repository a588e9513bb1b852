"""The lessons themselves: they run, their pages are fresh and clean, they keep to the rules, their exercises work."""

import ast
import contextlib
import inspect
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
from commit_choice import chosen_within, current_commit

from tutorials import lessons, pages, practice, render

ALL = lessons.all_lessons()
PAGES = lessons.all_pages()
FIRST = [lesson for lesson in ALL if not lesson.is_core]
each_page = pytest.mark.parametrize("lesson", PAGES, ids=lambda lesson: lesson.key)
each_lesson = pytest.mark.parametrize("lesson", ALL, ids=lambda lesson: lesson.key)
first_edition = pytest.mark.parametrize("lesson", FIRST, ids=lambda lesson: lesson.key)
SECONDS = {lesson.key: float(re.search(r"about (\d+) s", lesson.facts["Runs in"])[1]) for lesson in PAGES}
LIMIT = 130
"""seconds of the three pages together, as their heads state them, so that no commit has the three longest ones"""
CHOSEN = chosen_within(SECONDS, 3, LIMIT, current_commit())
some_lessons = pytest.mark.parametrize(
    "lesson", [pytest.param(one, id=one.key, marks=[] if one.key in CHOSEN else [pytest.mark.slow]) for one in PAGES]
)
with_exercises = pytest.mark.parametrize("number", [lesson.number for lesson in ALL])


@cache
def options_of(module: str, *words: str) -> set[str]:
    """The options in the help of a command, which runs in this process. Without `--method`, the help has no method's options."""
    text, arguments = io.StringIO(), sys.argv
    try:
        default = ["--method", "lora"] if module == "training" and words[0] == "--task" and "--method" not in words else []
        sys.argv = [module, *words, *default, "--help"]
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = arguments
    return {option.replace("_", "-") for option in re.findall(r"--[\w-]+", text.getvalue())}


@pytest.mark.tutorial
@pytest.mark.timeout(240)
@some_lessons
def test_it_runs_in_a_fresh_process_within_its_memory(lesson, tmp_path):
    output = tmp_path / "output.txt"
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(lesson.path.relative_to(lessons.ROOT))]
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=lessons.ROOT, env=lessons.environment(), stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, output.read_text()[-3000:]
    stated = float(lesson.facts["Memory"].split()[0])
    peak = used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)  # bytes there, kilobytes on Linux
    assert peak < stated, f"it used {peak:.2f} GB and its head says {lesson.facts['Memory']}"


@each_page
def test_its_page_is_fresh(lesson):
    assert render.is_fresh(lesson), f"a source changed since the page was made: python -m tutorials render {lesson.key}"


@each_page
def test_its_page_is_clean(lesson):
    page = lesson.page.read_text()
    assert pages.noise_in(page) == []
    shown = re.findall(r"!\[(.+?)\]\((\S+?\.png)\)", page)
    assert lesson.folder == "deep" or re.search(r"!\[.+?\]\(\S+?\.(png|svg)\)", page), "a page has at least one picture"
    assert {name for _, name in shown} == {p.name for p in lesson.page.parent.glob(f"{lesson.path.stem}_*.png")}
    for title, name in shown:
        assert " " in title and "Figure(" not in title  # the title states a finding
        assert (lesson.page.parent / name).stat().st_size <= pages.PICTURE_LIMIT


@each_page
def test_links_lead_somewhere(lesson):
    text = re.sub(r"```.*?```", "", lesson.page.read_text(), flags=re.DOTALL)  # `kernel[(2, 2)](x, y)` is no link
    for target in re.findall(r"\]\((?!https?://|#)([^)\s#]+)", text):
        assert (lesson.page.parent / target).exists(), f"{lesson.page.name} links to {target}"


@each_page
def test_each_line_of_a_shell_block_is_one_command_with_options_that_exist(lesson):
    text = re.sub(r"(?m)^# ?", "", lesson.path.read_text())
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"]:
                assert {word.replace("_", "-") for word in words if word.startswith("--")} <= options_of(*words[2:]), line
            else:
                assert not words or words[0] in ("make", "pip", "cd", "ncu", "python"), f"not a command: {line}"
            assert words.count("python") < 2, f"two commands: {line}"


@each_page
def test_cells_and_functions_are_small(lesson):
    for cell in lessons.cells(lesson.path.read_text()):
        limit = 45 if "fold" in cell.tags else 25
        assert cell.kind == "markdown" or len(cell.lines) <= limit, f"{len(cell.lines)} lines: {cell.lines[0]}"
    for node in ast.walk(ast.parse(lesson.path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 15, f"{node.name} is too long for a lesson"


@first_edition
def test_every_section_asks_and_checks(lesson):
    sections = re.split(r"^# ## ", lesson.path.read_text(), flags=re.MULTILINE)[1:]
    for section in (s for s in sections if re.match(r"\d+\. ", s)):
        title = section.splitlines()[0]
        assert "# **Predict:**" in section, f"{title!r} asks for no prediction"
        assert re.search(r"^ *assert .+", section, re.MULTILINE), f"{title!r} has no assert"
    for node in ast.walk(ast.parse(lesson.path.read_text())):
        assert not isinstance(node, ast.Assert) or node.msg, f"line {node.lineno}: an assert without a message"


@first_edition
def test_it_ends_as_lessons_end(lesson):
    text = lesson.path.read_text()
    heads = ["## What could go wrong", "## Exercises", "## Summary", "## On the real thing"]
    places = [text.find(f"# {head}\n") for head in heads]
    assert -1 not in places and places == sorted(places)
    assert "| symptom | likely cause | check |" in text and "Break it on purpose" in text and "**Next:**" in text
    assert "python -m training --task" in text[places[-1] :]
    assert re.search(r"seed", text), "draws need a seed"


def test_every_commit_chooses_three_lessons_and_in_time_all_of_them():
    choices = [chosen_within(SECONDS, 3, LIMIT, f"{commit:040x}") for commit in range(200)]
    assert all(len(choice) == 3 and sum(SECONDS[key] for key in choice) <= LIMIT for choice in choices)
    assert set().union(*choices) == {lesson.key for lesson in PAGES}
    assert chosen_within(SECONDS, 3, LIMIT, "a" * 40) == chosen_within(SECONDS, 3, LIMIT, "a" * 40)


def test_an_answer_that_stops_is_a_verdict_and_the_next_exercise_is_checked():
    def check(module):
        return 1 / module.nothing

    verdict = practice.try_one(SimpleNamespace(nothing=0), check)
    assert re.fullmatch(r"stopped: ZeroDivisionError: division by zero \(test_tutorials_lessons.py, line \d+\)", verdict)


@with_exercises
def test_solutions_pass_and_stubs_are_unwritten(number):
    stub, solution = (practice.load(practice.exercise_file(number, kind)) for kind in (False, True))
    checks = practice.checks(number)
    assert 2 <= len(checks) <= 4
    for name, check in checks.items():
        assert practice.try_one(solution, check) == "right", name
        assert practice.try_one(stub, check) == "not written yet", name
        functions = [getattr(module, name) for module in (stub, solution)]
        one, other = (getattr(f, "fn", f) for f in functions)  # inside a Triton kernel
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__.startswith("★"), f"{name}: how hard is it?"


@each_lesson
def test_exercises_are_those_that_the_lesson_names(lesson):
    named = re.findall(r"^# \d\. ★+ `(\w+)`", lesson.path.read_text(), re.MULTILINE)
    assert named == list(practice.checks(lesson.number))


def test_lessons_never_import_solutions():
    for lesson in PAGES:
        assert not re.search(r"^\s*(from|import) .*(solutions|exercises)", lesson.path.read_text(), re.MULTILINE)


def test_the_glossary_is_about_words_in_use():
    glossary = (lessons.HERE / "GLOSSARY.md").read_text()
    text = " ".join(lesson.path.read_text().lower() for lesson in PAGES)
    terms = re.findall(r"^\*\*(.+?)\*\* \((.+?)\)\. ", glossary, re.MULTILINE)
    assert len(terms) == glossary.count("\n**") and len({term for term, _ in terms}) == len(terms)
    assert [term for term, _ in terms if term.lower() not in text] == []


def test_the_readme_is_up_to_date():
    readme = (lessons.HERE / "README.md").read_text()
    assert pages.with_tracks(pages.with_table(readme, ALL), ALL) == readme, "python -m tutorials render"
