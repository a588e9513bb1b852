"""`python -m tutorials`: list the lessons. `run 01`, `check 01`, `ladder 01`, `render 01`, `book`, `everything`: see `--help`."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from tutorials import lessons


def main(arguments: list[str]) -> int:
    wanted = _parser().parse_args(arguments)
    try:
        return _do(wanted)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tutorials", description="The lessons of PEFT from scratch.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="the lessons: number, claim, time, needs (also without any command)")
    run = commands.add_parser("run", help="run one lesson in a process of its own")
    run.add_argument("number", help="01, or deep/01 for its deep dive")
    run.add_argument("--no-questions", action="store_true", help="do not stop at questions (nor does it where nobody can answer)")
    render = commands.add_parser("render", help="execute the lessons that changed and write tutorials/rendered")
    render.add_argument("numbers", nargs="*")
    render.add_argument("--force", action="store_true", help="render pages that are up to date, too")
    check = commands.add_parser("check", help="check your exercises of one lesson")
    check.add_argument("number")
    check.add_argument("--solutions", action="store_true", help="check ours instead of yours")
    ladder = commands.add_parser("ladder", help="list the kernel puzzles, or check the kernel that you wrote for one")
    ladder.add_argument("number", nargs="?")
    ladder.add_argument("--solutions", action="store_true", help="check ours instead of yours")
    ladder.add_argument("--write", action="store_true", help="write the page of the puzzles from their files")
    capstone = commands.add_parser("capstone", help="check the runs and the report of your capstone")
    capstone.add_argument("folder", type=Path)
    capstone.add_argument("--minutes", type=float, default=30.0, help="the budget of training time")
    capstone.add_argument("--collect", action="store_true", help="also write runs.json, which replaces the run folders")
    commands.add_parser("book", help="build the HTML book from the rendered pages into build/book")
    commands.add_parser("diagrams", help="write tutorials/diagrams from tutorials/drawing")
    commands.add_parser("notebooks", help="write tutorials/notebooks from the pages' sources")
    commands.add_parser("reference", help="write the pages in tutorials/reference that are made from other files")
    commands.add_parser("widget-data", help="measure what the book's widgets show (half a minute)")
    every = commands.add_parser("everything", help="every method of the course side by side, on tasks of the small world")
    every.add_argument("--tasks", nargs="+", default=["sentiment", "qa"])
    every.add_argument("--seeds", type=int, default=3)
    every.add_argument("--out", type=Path, default=Path("runs/everything"))
    return parser


def _do(wanted: argparse.Namespace) -> int:
    if wanted.command not in (None, "list") and find_spec("torch") is None:
        told = "run `make setup` once, then `source .venv/bin/activate` in every new terminal"
        raise RuntimeError(f"this Python ({sys.executable}) has no torch: {told}")
    if wanted.command == "run":
        return lessons.run(lessons.find(wanted.number), not wanted.no_questions)
    if wanted.command in (None, "list"):
        print(lessons.listing())
        return 0
    return _with_torch(wanted)


def _with_torch(wanted: argparse.Namespace) -> int:
    """Commands whose modules are imported when they are needed."""
    if wanted.command == "render":
        from tutorials import render

        return render.command(wanted.numbers, wanted.force)
    if wanted.command == "check":
        from tutorials import practice

        return practice.command(wanted.number, wanted.solutions)
    if wanted.command == "ladder":
        from tutorials.kernels_ladder import command

        return command.command(wanted.number, wanted.solutions, wanted.write)
    if wanted.command == "capstone":
        from tutorials.capstone import command

        return command.command(wanted.folder, wanted.minutes, wanted.collect)
    if wanted.command == "everything":
        from tutorials import everything_command

        return everything_command.everything(wanted.tasks, wanted.seeds, wanted.out)
    return _written_files(wanted.command)


def _written_files(command: str) -> int:
    """Commands that write files of the course from its sources."""
    if command == "book":
        from tutorials import book

        return book.command()
    if command == "diagrams":
        from tutorials.drawing import gallery

        return gallery.command()
    if command == "notebooks":
        from tutorials import notebook_files

        return notebook_files.command()
    if command == "reference":
        from tutorials import reference_pages

        return reference_pages.command()
    from tutorials.book import widget_data

    return widget_data.command()


sys.exit(main(sys.argv[1:]))
