"""The README's commands exist and its Python runs; its links lead somewhere."""

import re
from pathlib import Path

import pytest
from command import run_code, run_module

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
FENCED = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", TEXT)) - {"are"}
    assert {"demo", "test", "help", "setup"} <= named and named <= targets, named - targets
    wanted = "help setup demo test test-oldest lint tutorial tutorials bench book clean"
    assert set(wanted.split()) <= targets


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("words", sorted(set(re.findall(r"python -m ([\w.]+(?: [a-z]+)?)", TEXT))))
def test_commands_answer_to_help(words):
    done = run_module(*words.split(), "--help")
    assert "usage" in (done.stdout + done.stderr).lower(), done.stderr


PARTS = (
    (0, ("bert.encoder.layer.0", "trainable params")),
    (1, ("bert.encoder.layer.0", "2 modules, 4,256 adapter parameters", "prefix: 10 keys and values")),
    (2, ("'nli': 0.33", "'topic': {'eval_loss'")),
    (3, ("'kl_to_teacher': 0.", "'file_bytes': ")),
)


@pytest.mark.long
@pytest.mark.parametrize(("part", "words"), PARTS)
def test_the_python_of_the_readme_runs(part, words, tmp_path):
    code = [body for language, body in FENCED if language == "python"][part].replace("runs/", f"{tmp_path}/")
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words), done.stdout


ROWS = [
    line.strip("| ").split(" | ")
    for line in TEXT.partition("<!-- measured -->")[2].partition("<!-- /measured -->")[0].splitlines()[3:]
]
NUMBER = re.compile(r"\d[\d,]*\.?\d+")


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_every_figure_of_the_result_table_stands_in_the_report_beside_it(place):
    """`the same` means the report of the row above."""
    _, measured, source = ROWS[place]
    source = ROWS[place - 1][2] if source == "the same" else source
    assert re.match(r"`python -m \w+( [\w-]+)?", source), "a command"
    report = (ROOT / re.search(r"\(\[report\]\(([^)]+)\)\)", source)[1]).read_text()
    figures = NUMBER.findall(re.sub(r"r=\d+", "", measured))
    assert len(figures) >= 2
    missing = [figure for figure in figures if figure not in report]
    assert not missing, f"not in the report: {missing}"


def test_the_result_table_is_read():
    assert len(ROWS) >= 6 and all(len(row) == 3 for row in ROWS)
