"""`python -m PACKAGE [COMMAND] [options]`: find the command, read its options, run it.

Help and mistakes in the options are answered before torch and transformers are imported, which takes seconds. Settings, and the
modules of the commands, therefore import nothing heavy at their top; a command imports what it needs when it runs.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from training.loop.interrupt import plain_errors
from training.runs.option_groups import groups_of, used_by


@dataclass(frozen=True)
class Command:
    """The settings of a command and what to do with them."""

    settings: type
    run: Callable[[Any], Any]
    methods: tuple[str, ...] = ()
    """the methods whose options the help shows where `--method` is not given"""
    check: Callable[[Any], Any] = lambda settings: None
    """raises ValueError for settings that cannot work, before torch is imported"""
    try_out: Callable[[Any], Any] | None = None
    """what `--check` does in the place of `run`; None: the command has no such option"""


def run_command(package: str, doc: str, commands: dict[str, Command], default: Command | None = None) -> None:
    """Read `sys.argv` and run. `doc` describes the package, one example per line; `default` is meant where no command is named.

    An error that a person can put right is one line, without a traceback.
    """
    words = sys.argv[1:]
    name = words[0] if words and not words[0].startswith("-") else ""
    command = commands.get(name, default if not name else None)
    program = f"python -m {package} {name}".strip()
    if not name and (default is None or "--help" in words or "-h" in words):
        print(doc.strip())
        if default is None:
            sys.exit(0 if words else f"\nerror: expected a command, one of {', '.join(commands)}")
        print()
    if command is None:
        known = ", ".join(commands) + (", or options without a command" if default else "")
        sys.exit(f"error: no command {name!r}; there are {known}. See python -m {package} --help")
    words, only_check = words[bool(name) :], "--check" in words and command.try_out is not None
    if only_check:
        words.remove("--check")
    try:
        settings = parse(command, program, words)
        command.check(settings)
    except ValueError as error:  # the exit status of a wrong use, as for options that tyro refuses
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    with plain_errors():
        _quiet_libraries()
        (command.try_out if only_check and command.try_out is not None else command.run)(settings)


def parse(command: Command, program: str, words: Sequence[str]) -> Any:
    """The settings that these words describe. Prints help, or a mistake, and exits where they ask for it or make one."""
    shown = None
    if "--help" in words or "-h" in words:
        shown = _method_in(words) or command.methods
    kind, text = _grouped(command.settings, shown), inspect.getdoc(command.settings)
    return tyro.cli(kind, prog=program, args=words, config=(tyro.conf.OmitArgPrefixes,), description=text)


def _method_in(words: Sequence[str]) -> tuple[str, ...]:
    """The method that is named beside `--help`."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word == "--method":
            return (following,)
        if word.startswith("--method="):
            return (word.partition("=")[2],)
    return ()


def _grouped(settings: type, shown: tuple[str, ...] | None) -> Callable[..., Any]:
    """What tyro calls to make the settings: the class itself, or a function with one argument for each group of options.

    Settings of a comparison have options of their own, and a field `run` with the settings of a single run. shown: leave out the
    groups that are for other methods than these; None keeps all.
    """
    inner = get_type_hints(settings).get("run", settings)
    groups = {_title(group): _documented(group) for group in groups_of(inner) if group is not inner and _is_shown(group, shown)}
    if not groups:
        return settings
    own = {} if inner is settings else _options(settings)

    def build(**given: Any) -> Any:
        options = {each.name: getattr(given[title], each.name) for title in groups for each in fields(given[title])}
        run = inner(**options)
        return run if inner is settings else settings(run=run, **{name: given[name] for name in own})

    kinds = own | groups
    defaults = {name: getattr(settings, name) for name in own} | {title: group() for title, group in groups.items()}
    arguments = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=defaults[n], annotation=kinds[n]) for n in kinds]
    build.__signature__ = inspect.Signature(arguments)  # pyright: ignore[reportFunctionMemberAccess]
    build.__annotations__ = kinds
    return build


def _is_shown(group: type, shown: tuple[str, ...] | None) -> bool:
    return shown is None or not used_by(group) or bool(set(shown) & set(used_by(group)))


def _title(group: type) -> str:
    """`OptimizerOptions` as `optimizer`: tyro writes "optimizer options" above the group."""
    words = re.findall(r"[A-Z]+[a-z0-9]*", group.__name__.removesuffix("Options"))
    return "_".join(words).lower()


def _documented(group: type) -> type:
    """The group with the help of each option as one paragraph; tyro would keep the line breaks of the source."""
    options = [(name, kind, field(default=getattr(group, name))) for name, kind in _options(group).items()]
    made = make_dataclass(group.__name__, options, frozen=True)
    made.__doc__ = group.__doc__
    return made


def _options(kind: type) -> dict[str, Any]:
    """The annotations of the fields that a class defines, without `run`, each with the text below it as its help."""
    hints = get_type_hints(kind, include_extras=True)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
    texts = {
        ast.unparse(line.target): " ".join(ast.literal_eval(text.value).split())
        for line, text in pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    return {name: Annotated[hints[name], tyro.conf.arg(help=texts[name])] for name in texts}


def _quiet_libraries() -> None:
    """Our own tables say what their notices and bars would say."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
