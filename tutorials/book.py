"""The HTML book: Sphinx with MyST and furo over the rendered pages; nothing is executed here."""

from tutorials.lessons import HERE, ROOT

OUTPUT = ROOT / "build" / "book"


def command() -> int:
    """Build the book into build/book; returns Sphinx's status."""
    try:
        import furo
        import myst_parser
        from sphinx.cmd.build import build_main
    except ImportError as error:
        raise RuntimeError(f"the book needs {error.name}: run `make book`, or pip install -e '.[book]'") from error
    del furo, myst_parser  # only looked for: Sphinx loads them by name
    status = build_main(["-q", "-b", "html", "-d", str(OUTPUT.parent / "book-doctrees"), str(HERE), str(OUTPUT)])
    if status == 0:
        print(f"{(OUTPUT / 'index.html').relative_to(ROOT)}")
    return status
