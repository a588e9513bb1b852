"""The fault table in tests/README.md names exactly the tests that carry the marker `fault`."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parents[1]
ROW = re.compile(r"`(test_\w+)::(test_\w+)`")


def is_fault(node: ast.AST) -> bool:
    return ast.unparse(node) == "pytest.mark.fault"


def marked() -> set[tuple[str, str]]:
    """(file, test) of every test that carries the marker, by itself or by its file's `pytestmark`."""
    result = set()
    for path in HERE.rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        whole = any(
            isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark" and is_fault(n.value) for n in tree.body
        )
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                result |= {(path.stem, node.name)} if whole or any(map(is_fault, node.decorator_list)) else set()
    return result


def test_the_table_names_every_fault_test_and_no_other():
    rows = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("|") and ROW.search(line)]
    named = [name for line in rows for name in ROW.findall(line)]
    assert len(named) > 60 and len(set(named)) == len(named), "a test stands in one row"
    assert set(named) - marked() == set(), "no such test, or without the marker"
    assert marked() - set(named) == set(), "not in the table"
    cells = [line.strip("|").split("|") for line in rows]
    assert all(len(c) == 5 and c[4].strip() in ("yes", "not detected: see below") for c in cells), "a column is missing"
