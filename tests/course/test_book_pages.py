"""The book's pages before Sphinx sees them: links, docstrings, signatures, old pages, the course in Vietnamese.

Oracles: `inspect` for signatures that are read with `ast`, and CommonMark for docstrings on their way through Markdown.
"""

import ast
import importlib
import inspect
import re
import time
from html import unescape
from pathlib import Path

import pytest

from tutorials import lessons, vietnamese
from tutorials.book import front, library, stage

ALL = lessons.all_lessons()
ROOT = lessons.ROOT
VIETNAMESE_SIGN = re.compile(r"[ăâđêôơưàáảãạằắẳẵặầấẩẫậèéẻẽẹềếểễệìíỉĩịòóỏõọồốổỗộờớởỡợùúủũụừứửữựỳýỷỹỵ]", re.IGNORECASE)
MARK = re.compile(r"(?<![\w*])\*(\w+)\*(?![\w*])")


def test_every_part_of_the_course_is_shown_once():
    shown = [lesson.number for _, _, part in front.parts() for lesson in part]
    assert shown == [lesson.number for lesson in ALL]


def test_signatures_are_those_that_python_sees():
    visited = 0
    for path in (ROOT / "loralib").rglob("*.py"):
        if library.is_command(path) or path.name == "__init__.py":
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text()).body:
            value = getattr(module, getattr(node, "name", ""), None)
            if isinstance(node, ast.FunctionDef) and inspect.isfunction(inspect.unwrap(value)):
                records = ast.parse(f"def f{library.signature(node)}: ...").body[0].args
                wanted = [*records.posonlyargs, *records.args, records.vararg, *records.kwonlyargs, records.kwarg]
                assert [x.arg for x in wanted if x] == list(inspect.signature(inspect.unwrap(value)).parameters), node.name
                visited += 1
    assert visited > 80


def test_a_docstring_survives_markdown():
    """What CommonMark makes of `prose(docstring)` has the words and signs of the docstring, in order."""
    markdown, visited = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table"), 0
    for path in [file for space in library.ROOMS for file in (ROOT / space).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                back = unescape(re.sub(r"<[^>]+>", " ", markdown.render(library.prose(text))))
                plain, back = (MARK.sub(r"\1", x.replace("`", "")) for x in (text, back))  # an indented paragraph keeps them
                plain, back = (re.sub(r"^\s*(-|\d+\.)\s", "", x, flags=re.MULTILINE) for x in (plain, back))
                assert re.sub(r"\s", "", back) == re.sub(r"\s", "", plain), f"{path}: {text}"
                visited += 1
    assert visited > 1000


def test_links_are_turned_to_pages_and_code_is_left_alone():
    text = "[a](../loralib/layers/linear.py) `[b](../c.py)` [d](README.md#x) [e](https://a.b/c)\n```\n[f](g)\n```\n![h](rendered/07_nf4_1.png)"
    turned, linked = stage.follow("tutorials/x.md", text, known={"tutorials/README.md"})
    assert turned == text.replace("linear.py", "linear.py.md")
    assert linked == {
        "loralib/layers/linear.py.md": ROOT / "loralib/layers/linear.py",
        "tutorials/rendered/07_nf4_1.png": ROOT / "tutorials/rendered/07_nf4_1.png",
    }
    with pytest.raises(ValueError, match=r"links to ../nowhere.md"):
        stage.follow("tutorials/x.md", "[a](../nowhere.md)", known=set())


def test_an_old_page_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "is_fresh", lambda lesson: lesson.number != "03")
    assert [lesson.key for lesson in stage.write(tmp_path)] == ["03", "deep/03"]
    marked = [path.name[:2] for path in (tmp_path / "tutorials/rendered").rglob("*.md") if ":::{warning}" in path.read_text()]
    assert marked == ["03", "03"]


def test_writing_again_touches_only_what_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "is_fresh", lambda lesson: True)
    monkeypatch.setattr(stage, "collect", lambda stale: {"a.md": "one", "b/c.png": b"two"})
    stage.write(tmp_path)
    (tmp_path / "old.md").write_text("of a lesson that is gone")
    before = (tmp_path / "a.md").stat().st_mtime_ns
    time.sleep(0.01)
    monkeypatch.setattr(stage, "collect", lambda stale: {"a.md": "one", "b/c.png": b"three"})
    stage.write(tmp_path)
    assert (tmp_path / "a.md").stat().st_mtime_ns == before and (tmp_path / "b/c.png").read_bytes() == b"three"
    assert not (tmp_path / "old.md").exists()


def test_every_lesson_has_its_line_in_vietnamese():
    for lesson in ALL:
        assert len(VIETNAMESE_SIGN.findall(vietnamese.line(lesson))) >= 5, lesson.number
    assert len(set(vietnamese.LINES.values())) == len(vietnamese.LINES)
    start = vietnamese.START.read_text()
    assert vietnamese.with_table(start, ALL) == start, "python -m tutorials render"
    unknown = lessons.Lesson(Path("99_x.py"), "99", "a new claim", ALL[0].facts)
    with pytest.raises(ValueError, match="no line for lesson 99: a new claim"):
        vietnamese.line(unknown)
    with pytest.raises(RuntimeError, match="lacks the marks"):
        vietnamese.with_table("no marks", ALL)
