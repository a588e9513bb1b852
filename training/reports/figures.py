"""Measured figures in Markdown pages: each comes from a committed report, by a marker beside it.

    <!--= PATH; ROW; COLUMN-->0.854 ± 0.006<!--/-->    the cell of a table in the report
    <!--= PATH; /REGEX/-->0.87<!--/-->                 what the group of a regular expression captures in it
    <!--table PATH; COLUMN; COLUMN ...-->              a copy of the table with these columns; of all columns if none is named
    <!--/table-->

PATH is relative to the project's root; `PATH#Heading` is the section under that heading alone. ROW is the first cell of the row,
COLUMN the title of the column. A part of a cell is `COLUMN: mean` (without ±), `COLUMN: 2` (its second number), `COLUMN: .2f`
(its first number, rounded) or `COLUMN: ±.1f` (mean and deviation, rounded). `make figures` writes the figures into the pages;
`tests/course/test_figures.py` compares them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CLAIMS.md",
    "tutorials/README.md",
    "training/results/README.md",
    "multitask/results/README.md",
    "distill/results/README.md",
    "kernels/results/README.md",
)
FIGURE = re.compile(r"<!--= (?P<key>.*?)-->(?P<value>.*?)<!--/-->")
TABLE = re.compile(r"<!--table (?P<key>.*?)-->\n(?P<value>.*?)<!--/table-->", re.DOTALL)
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?")
Rows = list[list[str]]


class FigureError(ValueError):
    """A marker whose report does not hold what it names."""


def updated(text: str, root: Path = ROOT) -> str:
    """The page with every figure and table as its report has it. FigureError for a marker that finds nothing, or several."""
    text = TABLE.sub(lambda match: f"<!--table {match['key']}-->\n{table(match['key'], root)}\n<!--/table-->", text)
    return FIGURE.sub(lambda match: f"<!--= {match['key']}-->{figure(match['key'], root)}<!--/-->", text)


def figure(key: str, root: Path = ROOT) -> str:
    """What the report says for `PATH; ROW; COLUMN` or `PATH; /REGEX/`."""
    path, *place = (part.strip() for part in key.split(";", 2))
    report = _report(path, root)
    if len(place) == 2:
        return _cell(report, place[0], place[1], key)
    pattern = place[0].strip("/") if place else ""
    if pattern and not re.compile(pattern).groups:
        raise FigureError(f"{key}: the pattern has no group that captures the figure")
    captured = {match.group(1) for match in re.finditer(pattern, report)} if pattern else set()
    if len(captured) != 1:
        raise FigureError(f"{key}: the pattern captures {sorted(captured) or 'nothing'}, expected one text")
    return captured.pop()


def table(key: str, root: Path = ROOT) -> str:
    """The table of `PATH; COLUMN; COLUMN`, as Markdown."""
    path, *columns = (part.strip() for part in key.split(";"))
    fitting = [rows for rows in tables(_report(path, root)) if set(columns) <= set(rows[0])]
    if not fitting:
        raise FigureError(f"{key}: no table there has these columns")
    title, *rows = fitting[0]
    chosen = [0, *(title.index(column) for column in columns)] if columns else list(range(len(title)))
    lines = [[row[i] for i in chosen] for row in (title, *rows)]
    rows_of_text = [f"| {' | '.join(line)} |" for line in lines]
    rows_of_text.insert(1, f"|:--|{'--:|' * (len(chosen) - 1)}")
    return "\n".join(rows_of_text)


def tables(text: str) -> list[Rows]:
    """All tables of a Markdown page; cells without bold type, ▲ and ▼. Each begins with its titles."""
    result: list[Rows] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [re.sub(r"\*\*| [▲▼]", "", cell.strip()) for cell in line.strip().strip("|").split("|")]
        if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            continue
        if not inside:
            result.append([])
        inside = True
        result[-1].append(cells)
    return result


def _report(path: str, root: Path) -> str:
    """The report's text, or that of one section of it."""
    path, _, heading = path.partition("#")
    if not (root / path).is_file():
        raise FigureError(f"{path}: there is no such report")
    text = (root / path).read_text()
    if not heading:
        return text
    parts = re.split(rf"^(#+) {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)
    if len(parts) != 3:
        raise FigureError(f"{path}: there is no heading {heading!r}")
    return re.split(rf"^#{{1,{len(parts[1])}}} ", parts[2], maxsplit=1, flags=re.MULTILINE)[0]


def _cell(report: str, row: str, column: str, key: str) -> str:
    column, _, part = (text.strip() for text in column.partition(":"))
    cells = {
        line[titles.index(column)]
        for titles, *lines in tables(report)
        if column in titles
        for line in lines
        if line[0] == row and len(line) == len(titles)
    }
    if len(cells) != 1:
        raise FigureError(f"{key}: the tables have {sorted(cells) or 'no such cell'}, expected one")
    return _part(cells.pop(), part, key)


def _part(cell: str, part: str, key: str) -> str:
    """The whole cell, its mean, its n-th number, its first number rounded, or mean and deviation rounded."""
    if not part:
        return cell
    if part == "mean":
        return cell.partition(" ±")[0]
    numbers = NUMBER.findall(cell)
    if part.isdigit() and 0 < int(part) <= len(numbers):
        return numbers[int(part) - 1]
    if re.fullmatch(r"\.\df", part) and numbers:
        return format(float(numbers[0].replace(",", "").replace("−", "-")), part)
    if re.fullmatch(r"±\.\df", part) and len(numbers) == 2:
        return " ± ".join(format(float(number), part[1:]) for number in numbers)
    raise FigureError(f"{key}: {cell!r} has no part {part!r}; parts are mean, 1, 2 ..., .2f, ±.2f")


def main() -> None:
    """Write the figures into all pages."""
    for name in PAGES:
        page = ROOT / name
        if page.exists():
            text = page.read_text()
            new = updated(text)
            page.write_text(new)
            sys.stdout.write(f"{name}: {len(FIGURE.findall(text))} figures, {'changed' if new != text else 'as before'}\n")


if __name__ == "__main__":
    main()
