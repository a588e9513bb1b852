"""The measured figures of the pages: a wrong digit in a marker is found, and so is a decimal that no report and no list holds."""

import re
from pathlib import Path

import pytest

from training.reports import figures
from training.reports.figures import FIGURE, PAGES, TABLE, FigureError, figure, table, updated

ROOT = Path(__file__).parents[2]
DECIMAL = re.compile(r"(?<![\w.–])[+−-]?\d[\d,]*\.\d+(?: ± \d+\.\d+)?")
EXEMPT = re.compile(r'"[^"]*"|“[^”]*”|`[^`]*`|<!--.*?-->|\]\([^)]*\)|https?://\S+')
STATED = {  # decimals that no report holds, with what they are
    "README.md": {
        "3.11": "Python",
        "2.7": "size of the environment in GB, as pip installs it",
        "1.3": "size of a folder in GB",
        "5.3": "ahead_of_time.csv, asserted in test_kernels_builds.py",
        "7.4": "ahead_of_time.csv, asserted in test_kernels_builds.py",
        "8.7": "ahead_of_time.csv, asserted in test_kernels_builds.py",
    },
    "CLAIMS.md": dict.fromkeys(
        [
            "99.76",
            "99.29",
            "98.5",
            "1.2",
            "3.5",
            "4.7",
            "124.4",
            "99.8",
            "99.3",
            "23.75",
            "24.9",
            "2.4",
            "1.9",
            "1.5",
            "2.1",
            "1.1",
            "2.9",
            "2.0",
            "109.5",
            "+2.67",
            "81.67",
            "84.33",
        ],
        "arithmetic, asserted in test_claims.py",
    )
    | dict.fromkeys(["95.1", "94.8", "70.4", "68.2", "86.6", "87.2", "86.4", "0.37", "0.4", "3.6", "0.1"], "a paper's figure")
    | {
        "0.3730": "counted, asserted in test_kernels_nf4.py",
        "4.127": "4 + 8/64 + 32/(64 × 256)",
        "−0.010 ± 0.002": "paired difference, from distill/results/chain/results.json",
        "1.9": "standard errors; also arithmetic",
        "10.0": "a loss with ten classes, asserted in test_distill_losses.py",
        "2106.09685": "arXiv",
        "1.3": "version of AdapterHub",
        "0.5": "guessing between two labels",
        "0.00015": "a learning rate",
        "0.0005": "a learning rate",
        "0.0015": "a learning rate",
        "0.03": "a learning rate",
    },
    "tutorials/README.md": {},
    "training/results/README.md": {"4.8": "a difference of losses, asserted in test_training_processes.py"},
    "multitask/results/README.md": {"0.06": "the start of SQuAD, rounded, in fusion/results.json"},
    "distill/results/README.md": {},
    "kernels/results/README.md": {
        "2.11": "version of torch",
        "3.6": "version of Triton",
        "0.5": "size of a folder in MB",
        "0.50": "version of bitsandbytes",
    },
}


def outside_of_markers(text: str) -> list[str]:
    """The decimals of a page that stand in no marker, no code and no quotation."""
    text = TABLE.sub("", FIGURE.sub("", text))
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return DECIMAL.findall(EXEMPT.sub("", text))


def unmarked(name: str, text: str) -> list[str]:
    return [decimal for decimal in outside_of_markers(text) if decimal not in STATED[name]]


def wrong(name: str, text: str) -> bool:
    return updated(text) != text or bool(unmarked(name, text))


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_the_reports(name):
    """`make figures` writes them."""
    text = (ROOT / name).read_text()
    assert updated(text) == text
    assert unmarked(name, text) == []


SHOWING = [path for path in sorted((ROOT / "tutorials/rendered").rglob("*.md")) if "<!--table" in path.read_text()]


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_tables_that_lessons_show_are_the_reports(path):
    assert updated(path.read_text()) == path.read_text(), "the report has changed: render the lesson again"


@pytest.mark.parametrize("name", PAGES)
def test_what_is_stated_stands_on_the_page(name):
    text = (ROOT / name).read_text()
    assert [decimal for decimal in STATED[name] if decimal not in outside_of_markers(text)] == []


PLACES = [
    ("README.md", FIGURE, 0),
    ("README.md", FIGURE, -1),
    ("CLAIMS.md", FIGURE, 20),
    ("CLAIMS.md", FIGURE, -1),
    ("training/results/README.md", TABLE, 0),
    ("training/results/README.md", FIGURE, 3),
    ("multitask/results/README.md", TABLE, 0),
    ("distill/results/README.md", TABLE, -1),
    ("kernels/results/README.md", TABLE, 0),
    ("kernels/results/README.md", TABLE, -1),
]


@pytest.mark.parametrize(("name", "marker", "number"), PLACES)
def test_a_wrong_digit_is_found(name, marker, number):
    text = (ROOT / name).read_text()
    start, end = list(marker.finditer(text))[number].span("value")
    digit = next(i for i in range(end - 1, start, -1) if text[i].isdigit())
    planted = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    assert not wrong(name, text) and wrong(name, planted)


@pytest.mark.parametrize("name", [name for name in PAGES if STATED[name]])
def test_a_wrong_or_new_figure_outside_the_markers_is_found(name):
    text = (ROOT / name).read_text()
    assert wrong(name, text + "\nIt is 1.2345 times as fast.\n")
    stated = next(iter(STATED[name]))
    assert wrong(name, text.replace(stated, stated + "7"))


REPORT = """# Report

| way | score | time |
|:--|--:|--:|
| **one** | 0.512 ± 0.034 ▲ | 1,234.5 (1.0 to 2.0) |
| two | **0.5** |  |

## Second

| way | score |
|:--|--:|
| one | 0.9 |

seed 3: loss 2.5
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "r.md").write_text(REPORT)
    return tmp_path


def test_cells_parts_sections_and_patterns(root):
    assert figure("r.md; two; score", root) == "0.5"
    assert figure("r.md#Second; one; score", root) == "0.9"
    assert figure("r.md#Report; one; time: 2", root) == "1.0"
    with pytest.raises(FigureError, match=r"\['0.512 ± 0.034', '0.9'\], expected one"):
        figure("r.md; one; score", root)
    (root / "s.md").write_text(REPORT.partition("## Second")[0])
    assert figure("s.md; one; score: mean", root) == "0.512"
    assert figure("s.md; one; score: ±.1f", root) == "0.5 ± 0.0"
    assert figure("s.md; one; time: .1f", root) == "1234.5"
    assert figure(r"r.md; /seed 3: loss ([\d.]+)/", root) == "2.5"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("n.md; one; score", "there is no such report"),
        ("r.md#Third; one; score", "no heading 'Third'"),
        ("r.md; three; score", "no such cell"),
        ("r.md; one; colour", "no such cell"),
        ("r.md; two; score: 3", "no part '3'"),
        ("r.md; /never ([0-9])/", "captures nothing"),
        (r"r.md; /\| (one|two) \|/", "expected one text"),
        ("r.md", "captures nothing"),
        ("r.md; /seed 3/", "no group that captures"),
    ],
)
def test_a_marker_that_finds_nothing_or_several_is_an_error(key, message, root):
    with pytest.raises(FigureError, match=re.escape(message)):
        figure(key, root)


def test_tables_are_copied_with_the_columns_that_are_named(root):
    assert table("r.md; score", root) == "| way | score |\n|:--|--:|\n| one | 0.512 ± 0.034 |\n| two | 0.5 |"
    with pytest.raises(FigureError, match="no table there has these columns"):
        table("r.md; colour", root)
    page = "<!--table r.md#Second-->\nold\n<!--/table--> and <!--= r.md; two; score-->0.4<!--/-->."
    new_table = "<!--table r.md#Second-->\n| way | score |\n|:--|--:|\n| one | 0.9 |\n<!--/table-->"
    assert updated(page, root) == f"{new_table} and <!--= r.md; two; score-->0.5<!--/-->."


def test_the_command_writes_the_pages(root, monkeypatch, capsys):
    (root / "README.md").write_text("<!--= r.md; two; score-->0.4<!--/-->\n")
    monkeypatch.setattr(figures, "ROOT", root)
    monkeypatch.setattr(figures.updated, "__defaults__", (root,))
    figures.main()
    assert (root / "README.md").read_text() == "<!--= r.md; two; score-->0.5<!--/-->\n"
    assert "README.md: 1 figures, changed" in capsys.readouterr().out
