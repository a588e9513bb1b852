"""Mutation testing's own parts: every core file has tests, and a mutation changes one place and nothing else."""

import json

import pytest
from mutation_table import PACKAGES, ROOT, TESTS, core_files, files_that_test
from mutations import is_another_program, mutations

EQUIVALENT = json.loads((ROOT / "tests" / "mutation" / "equivalent_mutants.json").read_text())


def test_every_core_file_has_test_files_that_exist():
    modules = core_files()
    named = {f"{package}.{stem}" for package in PACKAGES for stem in TESTS[package]}
    assert named == set(modules), "mutation_table.py: core files without tests, or names of files that are gone"
    files = {module: files_that_test(module) for module in modules}
    assert all(files.values())
    assert [(m, f) for m in files for f in files[m] if not (ROOT / f).exists()] == []


@pytest.mark.parametrize(
    ("source", "mutated"),
    [
        ("x = a + b", ["x = a - b"]),
        ("x = (a) * (b + c)", ["x = (a) / (b + c)", "x = (a) * (b - c)"]),
        ("x = 'é' + b if a @ b else c", ["x = 'é' + b if a * b else c"]),  # é has two bytes; a text is joined, not added
        ("x = a < b", ["x = a <= b", "x = a >= b"]),
        ("x = a not in b", ["x = a in b"]),
        ("x = a and b and c", ["x = a or b and c", "x = a and b or c"]),
        ("x = not a", ["x = (a)"]),
        ("x = -a", ["x = (a)"]),
        ("x = f(a, flag=True)", ["x = f(a, flag=False)"]),
        ("x += 8", ["x -= 8", "x += 9", "x += 7", "x += 4"]),
        ("x = 0.0", ["x = 1.0"]),
        ("x = min(a, b.any())", ["x = max(a, b.any())", "x = min(a, b.all())"]),
        ("x = f(f(a) | b)", ["x = f((f(a)))"]),
        ("def f(a: int | None = None) -> 'A' | B: return a", []),
        ("raise ValueError('at least', 1)", []),
        ("x = f'{a + 1}'", []),
        ("x = zip(a, b, strict=True)", []),
        ("A = B | C", []),
    ],
)
def test_mutations_of_a_line(source, mutated):
    result = [mutation.apply(source) for place in mutations(source) for mutation in place]
    assert sorted(result) == sorted(mutated)


def test_a_mutation_is_where_it_says_and_nothing_else_changes():
    for path in list(core_files().values())[::20]:
        source = path.read_text()
        for place in mutations(source)[::7]:
            for mutation in place:
                changed = mutation.apply(source)
                assert len(changed) - len(source) == len(mutation.new) - len(mutation.old)
                line = source.splitlines()[mutation.line - 1].encode()
                assert line[mutation.column :].decode().startswith(mutation.old.splitlines()[0])
                assert is_another_program(changed, source), (path, mutation)


@pytest.mark.parametrize("entry", EQUIVALENT, ids=lambda entry: entry["mutated"][:40])
def test_an_equivalent_mutant_is_one_of_the_mutations_and_has_a_reason(entry):
    """A line that has changed since has to be judged again."""
    source = core_files()[entry["module"]].read_text()
    lines = {mutation.apply(source).splitlines()[mutation.line - 1].strip() for place in mutations(source) for mutation in place}
    assert entry["mutated"] in lines and len(entry["reason"].split()) > 3
