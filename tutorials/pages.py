"""An executed notebook as a Markdown page: text, questions, code, printed results, pictures.

A code cell with the tag "fold" is folded; its first comment says what it does. After a question, results are folded up to the
next text, so that nobody reads the answer by accident. Only what a reader should see is kept: standard output, values and
pictures. Standard error (warnings, progress bars) is left out, colour codes are taken away, and `noise_in` finds what would
still show the machine.
"""

import base64
import os
import re
from pathlib import Path
from posixpath import normpath

from tutorials import questions
from tutorials.lessons import FOLDERS, ROOT, Lesson

PICTURE_LIMIT = 60_000
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NOISE = re.compile(r"\x1b|\w+Warning\b|it/s\]|(?<![\w.])/(?:work|tmp|home|root|usr|var|opt|Users|private)/\S*|[A-Z]:\\\S+")
LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
TRACKS = (
    ("use the methods", "You fine-tune models, and want to know which method to take.", "00 01 02 03 04 06 07 08 12 17 21"),
    ("understand and compare", "You read papers and check their claims.", "00 01 02 03 04 05 12 13 14 15 16 17 18 19 20 21"),
    ("write kernels", "You want to know what a GPU does with LoRA and with 4 bits.", "00 01 06 07 08 09 10 11"),
)
"""(name, for whom, lessons) of each learning track"""
TRACK_TABLE = re.compile(r"(<!-- tracks -->\n).*?(<!-- /tracks -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.DOTALL)


def to_page(notebook, lesson: Lesson) -> tuple[str, dict[str, bytes]]:
    """Returns (Markdown, {file name: PNG})."""
    pictures: dict[str, bytes] = {}
    blocks: list[str] = []
    asked = False
    for cell in notebook.cells:
        tags = cell.get("metadata", {}).get("tags", [])
        if cell.cell_type == "markdown":
            text, asked = _text(cell.source, lesson)
            blocks.append(text)
        elif cell.source.strip():
            blocks.append(_code(cell.source.strip("\n"), "fold" in tags))
            shown = [block for output in _joined(cell.outputs) for block in _shown(output, lesson, pictures)]
            blocks += [_folded("Result", "\n\n".join(shown), "output")] if shown and asked else shown
    return "\n\n".join([*blocks, _footer(lesson)]) + "\n", pictures


def _text(source: str, lesson: Lesson) -> tuple[str, bool]:
    """A text cell with its links moved, and whether it asks a question."""
    parts = questions.parts_of(source)
    texts = [part if isinstance(part, str) else questions.to_markdown(part) for part in parts]
    moved = LINK.sub(lambda link: f"]({moved_link(link[1], lesson.path, lesson.page)})", "\n\n".join(texts))
    return moved, any(not isinstance(part, str) for part in parts)


def _code(source: str, folded: bool) -> str:
    block = f"```python\n{source}\n```"
    comment = re.match(r"# (.+)", source)
    return _folded(comment[1][0].upper() + comment[1][1:] if comment else "Code", block) if folded else block


def _folded(title: str, text: str, kind: str = "code") -> str:
    return f'<details class="{kind}"><summary>{title.lstrip("# ")}</summary>\n\n{text}\n\n</details>'


def noise_in(page: str) -> list[str]:
    """Warnings, progress bars, colour codes and absolute paths in a page; empty for a clean one."""
    return NOISE.findall(page)


def check_size(name: str, content: bytes) -> None:
    if len(content) > PICTURE_LIMIT:
        raise RuntimeError(f"{name} has {len(content):,} bytes, more than {PICTURE_LIMIT:,}: make the figure simpler or smaller")


def with_table(readme: str, lessons: list[Lesson]) -> str:
    """The README with the table of lessons between its two marks brought up to date."""
    if not TABLE.search(readme):
        raise RuntimeError("tutorials/README.md lacks the marks <!-- lessons --> and <!-- /lessons -->")
    lines = ["| | lesson | read and do | runs in | needs |", "|:--|:--|:--|:--|:--|"]
    for lesson in lessons:
        facts, page = lesson.facts, f"rendered/{lesson.page.name}"
        lines.append(
            f"| {lesson.number} | [{lesson.claim}]({page})<br>[source]({lesson.path.name}) "
            f"| {facts['Read and do']} | {facts['Runs in']} | {facts['Needs']} |"
        )
    return TABLE.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], readme)


def with_tracks(readme: str, lessons: list[Lesson]) -> str:
    """The README with the table of learning tracks between its marks."""
    if not TRACK_TABLE.search(readme):
        raise RuntimeError("tutorials/README.md lacks the marks <!-- tracks --> and <!-- /tracks -->")
    return TRACK_TABLE.sub(lambda match: f"{match[1]}{track_table(lessons, 'rendered')}\n{match[2]}", readme)


def track_table(lessons: list[Lesson], folder: str) -> str:
    """The learning tracks; the hours are those of their lessons together."""
    minutes = {lesson.number: int(lesson.facts["Read and do"].split()[0]) for lesson in lessons}
    lines = ["| track | for whom | lessons | time |", "|:--|:--|:--|--:|"]
    for name, reader, numbers in TRACKS:
        links = " ".join(f"[{x.number}]({folder}/{x.page.name})" for x in lessons if x.number in numbers.split())
        hours = sum(minutes.get(number, 0) for number in numbers.split()) / 60
        lines.append(f"| **{name}** | {reader} | {links} | about {hours:.0f} hours |")
    return "\n".join(lines)


def _joined(outputs: list) -> list:
    """Without standard error; what is printed in a row becomes one output."""
    kept: list = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.get("name") == kept[-1].get("name") == "stdout":
            kept[-1] = {**kept[-1], "text": kept[-1]["text"] + output["text"]}
        else:
            kept.append(dict(output))
    return kept


def _shown(output: dict, lesson: Lesson, pictures: dict[str, bytes]) -> list[str]:
    if output["output_type"] == "stream":
        return [_fenced(output["text"])]
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:  # a progress bar
        return []
    if "image/png" in data:
        name = f"{lesson.path.stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return [f"![{_clean(data.get('text/plain', name))}]({name})"]
    if "text/markdown" in data:
        return [_clean(data["text/markdown"])]
    return [_fenced(data["text/plain"])] if "text/plain" in data else []


def _fenced(text: str) -> str:
    return f"```text\n{_clean(text)}\n```"


def _clean(text: str) -> str:
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in ANSI.sub("", text).rstrip().split("\n")]
    return "\n".join(lines).replace(f"{ROOT}/", "").replace(str(Path.home()), "~")


def moved_link(target: str, source: Path, page: Path) -> str:
    """A link of a source as it must be on its page, which lies in another folder. Sources of pages become their pages."""
    goal, _, anchor = target.partition("#")
    place = Path(normpath(source.parent / goal))
    tutorials = next(folder for folder in page.parents if folder.name == "rendered").parent
    if (place.suffix == ".py" and place.parent.name in FOLDERS) or (
        re.fullmatch(r"\d\d_\w+\.py", place.name) and place.parent == tutorials
    ):
        place = tutorials / "rendered" / place.relative_to(tutorials).with_suffix(".md")
    return Path(os.path.relpath(place, page.parent)).as_posix() + (f"#{anchor}" if anchor else "")


def _footer(lesson: Lesson) -> str:
    path = Path(os.path.relpath(lesson.path, lesson.page.parent)).as_posix()
    return f"---\n\nMade by `python -m tutorials render {lesson.key}` from [{lesson.path.name}]({path})."
