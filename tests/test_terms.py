"""Words that we do not use, in prose and in names, with what to write instead: the dictionary of the project.

Prose is every docstring, comment and text in the code, and the Markdown pages outside the lessons. Formulas, quoted code
(`between backticks`) and titles of lessons are exempt: the lessons follow with their second edition.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "loralib", "adapters", "training", "multitask", "distill", "tests")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if p != Path(__file__))
LESSONS = [path for path in (ROOT / "tutorials").glob("[0-9]*.py") if (path.parent / "deep" / path.name).is_file()]
LESSONS += [path for name in ("deep", "topics", "drawing") for path in (ROOT / "tutorials" / name).glob("*.py")]
LESSONS += [path for name in ("bugs", "capstone") for path in (ROOT / "tutorials" / name).glob("*.py")]
LESSONS += [*sorted((ROOT / "tutorials").glob("everything*.py")), ROOT / "tutorials" / "reference_pages.py"]
PAGES = [ROOT / name for name in ("README.md", "CLAIMS.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md")]
PAGES += sorted((ROOT / "tutorials" / "reference").glob("*.md")) + sorted((ROOT / "tutorials" / "capstone").rglob("*.md"))

PROSE = {  # regular expressions
    r"(?:trained|trainable) numbers|numbers (?:that )?train": "parameters",
    r"(?:training|train|test|evaluation|validation|held-out|labelled|unlabelled) rows": "examples",
    r"rows of (?:each task|all tasks|a task|one task|the task|training steps)": "examples of",
    r"(?:tasks?|examples|rows) (?:is|are) drawn": "sampled",
    r"losses on states|(?:student|teacher)(?:'s)? states|tokens' states|shared states": "hidden states",
    r"(?<!dot-)(?<!dot )(?<!inner )(?<!outer )products?": "matrix multiplication, matmul; for vectors inner product",
    r"(?<!learning )(?<!dropout )(?<!slot error )rates? of (?:learning|the optimizer)": "learning rate",
    r"likeness": "similarity",
    r"misplaced probability|moved probability": "total variation distance",
    r"kept for (?:the )?backward": "saved activations",
    r"share of the way": "normalized score",
    r"stranger": "the unrelated adapter",
    r"(?:colder )?pens?": "(a lower) sampling temperature",
    r"rooms?|the house": "package, folder; for memory space",
    r"told|tells": "says, reports, returns, is set: what really happens",
    r"heard|hears?|listens?|listening": "records, is recorded",
    r"sight": "view",
    r"the bill": "the cost",
    r"loss words?": "loss spec",
    r"lesson \d+": "(code does not mention lessons)",
}
NAMES = {
    "found": "what was found: `matches`, `names`, `layers`",
    "mine": "whose it is: `own_rows`, `student_states`",
    "its": "whose it is: `teacher_states`",
    "theirs": "whose it is: `peft_model`, `teacher_tensors`",
    "kept": "what is kept: `remaining`, `saved`, `columns`",
    "told": "what it holds: `records`, `messages`",
    "said": "what it holds: `messages`, `label`",
    "heard": "`recorded`, `attentions`",
    "sight": "`batch_view`",
    "look": "`forward_with_states`",
    "running": "`active_adapters`",
    "resting": "`without_gradient`",
    "seen": "what was seen: `visited`, `names_of`, `adapter_input`",
    "sees": "`visible`",
    "watched": "`observed`",
    "room": "`space`",
    "stranger": "`unrelated`",
}
EXEMPT = {
    "small_world.py": "room house",  # words of the small world's texts
    "test_tutorials_runner.py": "room",  # lessons that the tests write
}
CODE = re.compile(r"``?[^`]+``?|https?://\S+|\[[^\]]*\]\([^)]*rendered[^)]*\)")


def prose_of(path: Path) -> list[tuple[int, str]]:
    """(line, text) of every comment and string of a Python file, or of every line of a page outside code blocks."""
    text = path.read_text()
    if path.suffix == ".md":
        inside, lines = False, []
        for number, line in enumerate(text.splitlines(), 1):
            inside ^= line.startswith("```")
            lines += [] if inside or "tutorials/rendered/" in line else [(number, line)]
        return lines
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [(t.start[0], t.string) for t in tokens if t.type in (tokenize.COMMENT, tokenize.STRING)]


def wrong_prose(path: Path) -> list[str]:
    exempt = EXEMPT.get(path.name, "").split()
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: write {replacement}"
        for number, text in prose_of(path)
        for word, replacement in PROSE.items()
        for match in re.finditer(rf"(?<![\w/.])(?:{word})(?![\w/])", CODE.sub("", text), re.IGNORECASE)
        if match[0].lower() not in exempt
        and not (match[0].lower().startswith("lesson") and {"course", "tutorials"} & set(path.parts))
    ]


def wrong_names(path: Path) -> list[str]:
    """Names that are bound: variables, arguments, attributes, functions and classes."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        if name is not None and name.strip("_").lower() in NAMES:
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}: write {NAMES[name.strip('_').lower()]}")
    return wrong


@pytest.mark.parametrize("path", [*FILES, *LESSONS, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_uses_the_standard_terms(path):
    assert wrong_prose(path) == []


@pytest.mark.parametrize("path", [*FILES, *LESSONS], ids=lambda p: str(p.relative_to(ROOT)))
def test_names_say_what_a_thing_is(path):
    assert wrong_names(path) == []


def test_the_checker_finds_a_word_and_passes_code_and_formulas(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "some.py"
    file.write_text('"""The likeness of `likeness` and a dot-product."""\nfound = 1  # told\ndef f(mine): ...\n')
    assert [line.split(": ", 1)[1] for line in wrong_prose(file)] == [
        "'likeness': write similarity",
        "'told': write says, reports, returns, is set: what really happens",
    ]
    assert len(wrong_names(file)) == 2
