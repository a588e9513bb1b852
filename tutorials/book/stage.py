"""Write the book's pages into a folder that mirrors the repository, so that links in them mean the same as on the web.

It starts from the pages that everybody reads and follows their links: a report or a picture comes along as it is, any other
file as a page that shows its text (`loralib/layers/linear.py` as `loralib/layers/linear.py.md`). A link to nothing is an error.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from tutorials.book import front, library
from tutorials.lessons import HERE, ROOT, Lesson, all_pages
from tutorials.render import is_fresh

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s#]+)")
CODE = re.compile(r"(^```.*?^```$|^~~~.*?^~~~+$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
PICTURES = (".png", ".svg", ".jpg")
ORPHAN = "---\norphan: true\n---\n\n"


def write(target: Path) -> list[Lesson]:
    """Bring a folder up to date with the pages. Returns the pages whose committed pages are older than their sources.

    Files that did not change are not touched, so that Sphinx skips them.
    """
    stale = [lesson for lesson in all_pages() if not is_fresh(lesson)]
    wanted = {target / path: content for path, content in collect(stale).items()}
    for old in [file for file in target.rglob("*") if file.is_file() and file not in wanted]:
        old.unlink()
    for file, content in wanted.items():
        content = content if isinstance(content, bytes) else content.encode()
        if not file.is_file() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return stale


def collect(stale: list[Lesson]) -> dict[str, str | bytes]:
    """{path: content} of every page and picture."""
    waiting: dict[str, str | bytes] = {**first_pages(stale), **library.pages()}
    known, book = set(waiting), {}
    while waiting:
        path, content = waiting.popitem()
        if isinstance(content, str) and not content.startswith("---\norphan: true\nnosearch"):
            content, linked = follow(path, content, known)
            waiting |= {name: load(file) for name, file in linked.items() if name not in known}
            known |= linked.keys()
        book[path] = content
    return book


def first_pages(stale: list[Lesson]) -> dict[str, str | bytes]:
    """The pages that the sidebar names, but for the library."""
    names = ["README.md", "CLAIMS.md", "tutorials/README.md", *(f"{page}.md" for _, page in front.REFERENCE)]
    pages: dict[str, str | bytes] = {name: (ROOT / name).read_text() for name in names}
    pages["index.md"] = front.index()
    pages["tutorials/vi.md"] = front.vietnamese_start()
    pages["tutorials/GLOSSARY.md"] = front.glossary((HERE / "GLOSSARY.md").read_text())
    return {
        **pages,
        **{lesson.page.relative_to(ROOT).as_posix(): lesson_page(lesson, lesson in stale) for lesson in all_pages()},
    }


def lesson_page(lesson: Lesson, stale: bool = False) -> str:
    """A rendered page; where it is older than its sources, it says so."""
    text = lesson.page.read_text()
    if not stale:
        return text
    title, _, rest = text.partition("\n")
    return f"{title}\n\n:::{{warning}}\nA source of this lesson changed after its results were made.\n:::\n{rest}"


def follow(path: str, text: str, known: set[str]) -> tuple[str, dict[str, Path]]:
    """The text with its links turned to pages of the book, and {page: file of the repository} for each. Code is left alone."""
    linked: dict[str, Path] = {}

    def turned(link: re.Match) -> str:
        goal = normpath(PurePosixPath(path).parent / link[2])
        if goal in known:
            return link[0]
        if not (ROOT / goal).is_file():
            raise ValueError(f"{path} links to {link[2]}, and there is no file {goal}")
        whole = goal.endswith((".md", *PICTURES))
        linked[goal if whole else f"{goal}.md"] = ROOT / goal
        return link[0] if whole else f"{link[0]}.md"

    pieces = CODE.split(text)
    return "".join(p if i % 2 else LINK.sub(turned, p) for i, p in enumerate(pieces)), linked


def load(file: Path) -> str | bytes:
    """A file of the repository that a page links to, as it stands in the book."""
    if file.suffix in PICTURES:
        return file.read_bytes()
    return ORPHAN + file.read_text() if file.suffix == ".md" else library.source_page(file)
