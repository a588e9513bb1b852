"""An executed notebook as a Markdown page: text, code, printed results, pictures, and a footer of hashes.

Only what a reader should see is kept: standard output, values and pictures. Standard error (warnings, progress bars) is
left out, colour codes are taken away, and `noise_in` finds what would still tell of the machine.
"""

import base64
import re
from pathlib import Path

from tutorials.lessons import ROOT, Lesson

PICTURE_LIMIT = 60_000
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NOISE = re.compile(r"\x1b|\w+Warning\b|it/s\]|(?<![\w.])/(?:work|tmp|home|root|usr|var|opt|Users|private)/\S*|[A-Z]:\\\S+")
FOOTER = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
TABLE = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.DOTALL)


def to_page(notebook, lesson: Lesson, hashes: dict[str, str]) -> tuple[str, dict[str, bytes]]:
    """Returns (Markdown, {file name: PNG})."""
    pictures: dict[str, bytes] = {}
    blocks = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            blocks.append(LINK.sub(_moved, cell.source))
        elif cell.source.strip():
            blocks.append(f"```python\n{cell.source.strip(chr(10))}\n```")
            blocks += [block for output in _joined(cell.outputs) for block in _shown(output, lesson, pictures)]
    return "\n\n".join([*blocks, _footer(lesson, hashes)]) + "\n", pictures


def footer_hashes(page: str) -> dict[str, str]:
    """{path: SHA-256} as the page's footer says."""
    return {path: digest for digest, path in FOOTER.findall(page)}


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


def _moved(link: re.Match) -> str:
    """Links of a lesson start at tutorials/, those of its page at tutorials/rendered/; lessons link to pages."""
    target = link[1]
    if re.fullmatch(r"\d\d_\w+\.py", target):
        return f"]({target.removesuffix('.py')}.md)"
    return f"](../{target})"


def _footer(lesson: Lesson, hashes: dict[str, str]) -> str:
    lines = "\n".join(f"{digest}  {path}" for path, digest in hashes.items())
    return (
        f"---\n\n<details><summary>How this page was made</summary>\n\n`python -m tutorials render {lesson.number}` ran "
        f"[{lesson.path.name}](../{lesson.path.name}) and wrote what it printed. SHA-256 of the lesson and of every project "
        f"file it uses (a test compares them):\n\n```text\n{lines}\n```\n\n</details>"
    )
