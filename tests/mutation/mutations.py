"""All single mutations of a Python file: an operator, a comparison, a constant or a flag, each with its position in the source.

The rest of the file keeps its bytes. Not mutated: types, texts of errors (everything inside `raise`), expressions inside
f-strings (Python 3.11 has no positions for them), flags of `@dataclass`, and `zip(strict=)`, which only asserts equal lengths.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
    ast.BitAnd: ("&", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitXor: ("^", "|"),
}
COMPARISONS = {
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
SWAPPED_NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any"}
TEXTS = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)
"""operands whose `+` or `*` joins or repeats: another operator would only raise TypeError"""


@dataclass(frozen=True)
class Mutation:
    """`old` at bytes `start` to `end` of a source becomes `new`."""

    line: int
    column: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, source: str) -> str:
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()


def mutations(source: str) -> list[list[Mutation]]:
    """For each place that can be mutated, in the order of the source, its mutations."""
    places: dict[tuple[int, int], list[Mutation]] = {}
    finder = _Finder(source)
    for node in _mutable(ast.parse(source)):
        for start, end, new in finder.changes(node):
            places.setdefault((start, end), []).append(finder.mutation(start, end, new))
    return [places[key] for key in sorted(places)]


def is_another_program(mutated: str, source: str) -> bool:
    """Whether the mutated source compiles, and differs from the original in more than its text."""
    try:
        return ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree without those that are never mutated."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or (field == "keywords" and _callee(node) == "dataclass"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.JoinedStr)) or _is_type_alias(node, child):
                continue
            if not (isinstance(child, ast.keyword) and child.arg == "strict" and _callee(node) == "zip"):
                yield from _mutable(child)


def _is_type_alias(parent: ast.AST, node: ast.AST) -> bool:
    """`Name = A | B` in the body of a module."""
    value = node.value if isinstance(parent, ast.Module) and isinstance(node, ast.Assign) else None
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)


def _callee(node: ast.AST) -> str | None:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


class _Finder:
    """Finds the bytes of nodes and operators in one source."""

    def __init__(self, source: str):
        self.data = source.encode()
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutation(self, start: int, end: int, new: str) -> Mutation:
        line = sum(begin <= start for begin in self.starts)
        return Mutation(line, start - self.starts[line - 1], start, end, self.data[start:end].decode(), new)

    def span(self, node: ast.AST) -> tuple[int, int]:
        begin, end = self.starts[node.lineno - 1], self.starts[node.end_lineno - 1]
        return begin + node.col_offset, end + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def changes(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        """(start, end, new text) of every mutation of one node itself, not of its children."""
        if isinstance(node, ast.BinOp):
            yield from self._operation(node)
        elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            yield from self._between(node.target, node.value, ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for i, operator in enumerate(node.ops):
                yield from self._between(operands[i], operands[i + 1], COMPARISONS[type(operator)])
        elif isinstance(node, ast.BoolOp):
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self._between(left, right, words)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            yield (*self.span(node), f"({self.text(node.operand)})")
        elif isinstance(node, ast.Constant):
            yield from ((*self.span(node), new) for new in _other_constants(node.value))
        elif isinstance(node, ast.Call):
            yield from self._other_name(node.func)

    def _operation(self, node: ast.BinOp) -> Iterator[tuple[int, int, str]]:
        if isinstance(node.op, ast.BitOr):  # mostly sets and dictionaries, where another operator would only raise TypeError
            yield (*self.span(node), f"({self.text(node.left)})")
            return
        sides = (node.left, node.right)
        joins = any(isinstance(s, TEXTS) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides)
        if not joins:
            yield from self._between(node.left, node.right, ARITHMETIC[type(node.op)])

    def _between(self, left: ast.AST, right: ast.AST, words: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
        begin, end = self.span(left)[1], self.span(right)[0]
        at = self.data[begin:end].decode().rfind(words[0])
        if at >= 0:
            yield from ((begin + at, begin + at + len(words[0]), new) for new in words[1:])

    def _other_name(self, function: ast.AST) -> Iterator[tuple[int, int, str]]:
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", None)
        if name in SWAPPED_NAMES:
            end = self.span(function)[1]
            yield end - len(name), end, SWAPPED_NAMES[name]


def _other_constants(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return [str(value + 1), *([str(value - 1)] if value > 0 else []), *([str(value // 2)] if value > 3 else [])]
    if isinstance(value, float):
        return [repr(value + 1)] if value == 0 else [repr(value / 2), repr(value + 1)]
    return []
