"""The HTML book: pages written by `stage.py` into build/book-pages, made into HTML by Sphinx with MyST and furo.

Nothing is executed and nothing is fetched: the lessons' pages are committed with their results, maths becomes MathML, and the
library's page is read from its source with `ast`. A warning of Sphinx (a link that leads nowhere, say) is an error.
"""

from pathlib import Path

from tutorials.lessons import ROOT

OUTPUT = ROOT / "build" / "book"


def command(output: Path = OUTPUT) -> int:
    """Build the book into a folder; returns Sphinx's status. Says which pages are older than their lessons."""
    try:
        import furo
        import math_core
        import myst_parser
        import ziamath
        from sphinx.cmd.build import build_main
    except ImportError as error:
        raise RuntimeError(f"the book needs {error.name}: run `make book`, or pip install -e '.[book]'") from error
    del furo, math_core, myst_parser, ziamath  # only looked for
    from tutorials.book import stage

    pages = output.with_name(f"{output.name}-pages")
    for lesson in stage.write(pages):
        print(f"{lesson.number}: its page is older than its sources; `make tutorials` renders it again")
    settings = Path(__file__).parent
    doctrees = str(output.with_name(f"{output.name}-doctrees"))
    options = ["-q", "-W", "--keep-going", "-a", "-c", str(settings), "-d", doctrees]  # -a: the sidebar is on every page
    status = build_main([*options, "-b", "html", str(pages), str(output)])
    if status == 0:
        print(f"open {output / 'index.html'}")
    return status
