"""The book, built once for all tests and all workers, and a browser."""

import os
from pathlib import Path

import browser
import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The whole book. Skips where Sphinx or one of its helpers is not installed."""
    for needed in ("sphinx", "myst_parser", "furo", "math_core", "ziamath"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[book]'")
    from tutorials import book

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(folder / "book.lock"):
        if not (folder / "book" / "index.html").is_file():
            assert book.command(folder / "book") == 0, "Sphinx warned or failed"
    return folder / "book"


@pytest.fixture(scope="module")
def window():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium here: install one, or name it in $BROWSER_FOR_TESTS")
    with browser.Browser(program) as opened:
        yield opened
