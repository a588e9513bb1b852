"""Questions with options, written once in the source of a page and shown in four forms.

    # ??? Is `first_try` equal to `wanted`?
    # - [ ] Yes. || Look at what each `mse_loss` divides by.
    # - [x] No, it is 4 times as large. || Each loss is a mean over 4 examples.

A page and the book fold the answer and the output below it (the book's script makes radio buttons of the list). A notebook shows
the question before the cell, and `python -m tutorials run` asks and waits. A code cell after the question may compute which
option is true (`tutorials.answers.true_option`); rendering a page compares that with the option that is marked.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

START = re.compile(r"^\?\?\? ")
OPTION = re.compile(r"^- \[([ x])\] ")
PROGRAM = re.compile(r"^```python\n(.*?)^```\s*\Z", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Option:
    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Question:
    text: str
    options: tuple[Option, ...]
    program: str = ""
    """the block of code right above it, which a terminal has to show as well"""

    @property
    def answer(self) -> str:
        """The letter of the right option."""
        return next(letter for letter, option in self.lettered() if option.right)

    def lettered(self) -> list[tuple[str, Option]]:
        return [(chr(ord("a") + i), option) for i, option in enumerate(self.options)]


def parts_of(markdown: str) -> list[str | Question]:
    """The text of a cell in its order, with each question read. ValueError for one without exactly one right option."""
    parts: list[str | Question] = []
    text: list[str] = []
    lines = markdown.splitlines()
    while lines:
        if not START.match(lines[0]):
            text.append(lines.pop(0))
            continue
        parts += ["\n".join(text).strip("\n")] if any(text) else []
        text = []
        block: list[str] = []
        while lines and lines[0].strip():
            block.append(lines.pop(0))
        above = parts[-1] if parts and isinstance(parts[-1], str) else ""
        program = PROGRAM.search(above)
        parts.append(read(block, program[1] if program else ""))
    return parts + (["\n".join(text).strip("\n")] if any(text) else [])


def read(lines: list[str], program: str = "") -> Question:
    """A question from its lines; a line that starts neither a question nor an option continues the one before."""
    joined: list[str] = []
    for line in lines:
        if START.match(line) or OPTION.match(line):
            joined.append(line)
        else:
            joined[-1] += f" {line.strip()}"
    text, options = START.sub("", joined[0]), [_option(line) for line in joined[1:]]
    if len(options) < 2 or sum(option.right for option in options) != 1:
        raise ValueError(f"{text!r}: expected two or more options and one [x], found {[o.right for o in options]}")
    return Question(text, tuple(options), program)


def _option(line: str) -> Option:
    mark = OPTION.match(line)
    text, separator, why = OPTION.sub("", line).partition(" || ")
    if mark is None or not separator or not why.strip():
        raise ValueError(f"{line!r}: expected `- [ ] option || why it is right or wrong`")
    return Option(text.strip(), mark[1] == "x", why.strip())


def of_page(cells) -> list[Question]:
    """All questions of a page, in order."""
    return [part for cell in cells if cell.kind == "markdown" for part in parts_of(cell.source) if isinstance(part, Question)]


def to_markdown(question: Question) -> str:
    """The question, its options, and the answer in a fold. The book's script looks for these classes."""
    options = "\n".join(f"- **{letter})** {option.text}" for letter, option in question.lettered())
    verdicts = "\n".join(
        f"- **{letter})** {'Right.' if option.right else 'No.'} {option.why}" for letter, option in question.lettered()
    )
    return (
        f'<div class="question" data-answer="{question.answer}">\n\n**Question.** {question.text}\n\n{options}\n\n'
        f'<details class="answer"><summary>Answer</summary>\n\n{verdicts}\n\n</details>\n</div>'
    )


def ask(question: Question, read_line: Callable[[str], str] = input, say: Callable[[str], None] = print) -> bool | None:
    """Ask in a terminal; returns whether the answer was right, None for an empty one."""
    options = dict(question.lettered())
    say(f"\n{question.program}" if question.program else "")
    say(f"??? {question.text}")
    for letter, option in options.items():
        say(f"  {letter}) {option.text}")
    given = read_line(f"Your answer ({', '.join(options)}; Enter shows the result): ").strip().lower()
    chosen = options.get(given)
    if chosen is not None:
        say(f"{'Right.' if chosen.right else 'No.'} {chosen.why}")
    if chosen is None or not chosen.right:
        say(f"The answer is {question.answer}). {options[question.answer].why}")
    return None if chosen is None else chosen.right
