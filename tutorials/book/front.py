"""What leads in: the lessons as cards with a picture each, the sidebar, and the glossary as terms that the search finds."""

import re
from collections.abc import Callable
from pathlib import Path
from posixpath import normpath

from tutorials import vietnamese
from tutorials.lessons import HERE, ROOT, Lesson, all_lessons, all_pages
from tutorials.pages import TABLE, track_table

PARTS = (
    ("06", "The small world, and LoRA", "Thế giới nhỏ, và LoRA"),
    ("08", "Four bits", "Bốn bit"),
    ("11", "Kernels", "Hàm nhân GPU"),
    ("14", "Adapters, prefixes, fusion", "Bộ chuyển đổi, tiền tố, kết hợp"),
    ("16", "Several tasks", "Nhiều tác vụ"),
    ("20", "Students", "Mô hình học trò"),
    ("99", "All together", "Tất cả trên một biểu đồ"),
)
"""(last lesson, title, Vietnamese title) of each part of the course"""

SHORT = {"lora": "LoRA", "qlora": "QLoRA", "nf4": "NF4", "lora's": "LoRA's"}
"""words of file names that are written in another way"""

PICTURE = re.compile(r"!\[(.+?)\]\((\S+?\.(?:png|svg))\)")
ENTRY = re.compile(r"^\*\*(.+?)\*\* \((.+?)\)\. (.+)$", re.MULTILINE)
KEPT = "giữ nguyên"
"""said of a word that Vietnamese engineers use as it is"""

START = (
    ("Tiếng Việt: bắt đầu ở đây", "tutorials/vi"),
    ("How to work with a lesson", "tutorials/README"),
    ("Glossary", "tutorials/GLOSSARY"),
)
REFERENCE = (
    ("Symptoms: a table to search", "tutorials/reference/symptoms"),
    ("Cheat sheet", "tutorials/reference/cheat_sheet"),
    ("Thirty interview questions", "tutorials/reference/interview_questions"),
    ("Read a paper's table", "tutorials/reference/read_a_table"),
    ("Bug museum", "tutorials/reference/bugs"),
    ("Capstone: a study of your own", "tutorials/capstone/README"),
    ("Its model solution", "tutorials/capstone/solution/report"),
)
BEHIND = (("The library", "library"), ("The project", "README"), ("Claims and what we found", "CLAIMS"))


def index() -> str:
    """The start page: its text, the cards, and the sidebar's contents."""
    text = (HERE / "book" / "index.md").read_text()
    contents = [_contents("Start", START)]
    contents += [_contents(title, [(_short(x), _document(x)) for x in lessons]) for title, _, lessons in parts()]
    others = [page for page in all_pages() if page.folder]
    topics, dives = ([(_short(x), _document(x)) for x in others if x.folder == folder] for folder in ("topics", "deep"))
    contents += [_contents("Topics", topics), _contents("Deep dives", dives)]
    contents.append(_contents("Practice and reference", REFERENCE))
    contents.append(_contents("Behind the lessons", BEHIND))
    text = text.replace("<!-- tracks -->", track_table(all_lessons(), "tutorials/rendered"))
    return text.replace("<!-- cards -->", cards("##", ROOT)) + "\n" + "\n\n".join(contents) + "\n"


def vietnamese_start() -> str:
    """`vi.md` with cards in the place of its table."""
    shown = cards("###", HERE, title=lambda part: part[1], line=vietnamese.line, minutes=vietnamese.minutes)
    return TABLE.sub(lambda found: shown, vietnamese.START.read_text())


def parts() -> list[tuple[str, str, list[Lesson]]]:
    """(title, Vietnamese title, lessons) of each part that has lessons."""
    lessons, found = all_lessons(), []
    for last, english, translated in PARTS:
        found.append((english, translated, [x for x in lessons if x.number <= last]))
        lessons = [x for x in lessons if x.number > last]
    return [part for part in found if part[2]]


def cards(
    heading: str,
    start: Path,
    title: Callable[[tuple], str] = lambda part: part[0],
    line: Callable[[Lesson], str] = lambda lesson: lesson.claim,
    minutes: Callable[[Lesson], str] = lambda lesson: lesson.facts["Read and do"],
) -> str:
    """Each part's lessons as a list of links: first picture, number, claim, minutes. Paths are told from the folder `start`."""
    blocks = []
    for part in parts():
        rows = [f"{heading} {title(part)}\n\n:::{{container}} cards\n"]
        for lesson in part[2]:
            page = lesson.page.relative_to(start).as_posix()
            alt, name = first_picture(lesson)
            picture = Path(normpath(lesson.page.parent / name)).relative_to(start).as_posix()
            rows.append(f"- [![{alt}]({picture}) **{lesson.number}** {line(lesson)} *{minutes(lesson)}*]({page})")
        blocks.append("\n".join(rows) + "\n:::")
    return "\n\n".join(blocks)


def first_picture(lesson: Lesson) -> tuple[str, str]:
    """(title, file name) of the first picture on a lesson's page."""
    found = PICTURE.search(lesson.page.read_text())
    if found is None:
        raise ValueError(f"{lesson.page.name} has no picture to lead in with: python -m tutorials render {lesson.number}")
    return found[1], found[2]


def glossary(text: str) -> str:
    """GLOSSARY.md with each `**Term** (thuật ngữ). ...` as a term of Sphinx's glossary; the search knows both words."""
    blocks = []
    for block in text.split("\n\n"):
        entries = ENTRY.findall(block)
        blocks += [_term(*entry) for entry in entries] or [block]
    return "\n\n".join(blocks)


def _term(english: str, translated: str, meaning: str) -> str:
    known_as = re.split(r"[;,]", translated)[0]
    if known_as != KEPT:
        translated = translated.replace(known_as, f"{{index}}`{known_as} <single: {known_as}>`", 1)
    return f":::{{glossary}}\n{english}\n  [{translated}.]{{.vi}} {meaning}\n:::"


def _contents(caption: str, pages) -> str:
    lines = "\n".join(f"{title} <{document}>" for title, document in pages)
    return f":::{{toctree}}\n:caption: {caption}\n:hidden:\n\n{lines}\n:::"


def _document(lesson: Lesson) -> str:
    return lesson.page.with_suffix("").relative_to(ROOT).as_posix()


def _short(lesson: Lesson) -> str:
    """`01 LoRA by hand`, from the file's name."""
    words = [SHORT.get(word, word) for word in lesson.path.stem.removeprefix(f"{lesson.number}_").split("_")]
    return f"{lesson.number} {words[0][0].upper()}{words[0][1:]} {' '.join(words[1:])}".strip()
