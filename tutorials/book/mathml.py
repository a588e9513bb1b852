r"""Maths as MathML, made when the book is built: no script, no network, and a formula can be selected and read aloud.

A browser draws roots and large brackets from a font with a MATH table. Where the reader's machine has none, `\sqrt{n}` would
show as n. So the book brings one: STIX Two Math (SIL Open Font License), cut to the characters that formulas use.
"""

import logging
from functools import cache
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

FONT = "math.woff"
LETTERS = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3F6)]
ACCENTS = [*range(0x2C6, 0x2DE), *range(0x300, 0x370)]
SIGNS = [*range(0x2010, 0x2065), *range(0x20D0, 0x20F0), *range(0x2100, 0x2150), *range(0x2190, 0x2400), 0x27E8, 0x27E9]
STYLED = [
    *range(0x1D400, 0x1D468),
    *range(0x1D49C, 0x1D4D0),
    *range(0x1D538, 0x1D56C),
    *range(0x1D6A8, 0x1D71C),
]  # bold, italic, ...


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("build-finished", _write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


@cache
def to_mathml(latex: str, display: bool = False) -> str:
    """One formula as a `<math>` element, the LaTeX kept inside as its annotation. ExtensionError says what is not understood."""
    from math_core import LatexError, LatexToMathML

    try:
        return LatexToMathML(annotation=True, fancy_error=False).convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise ExtensionError(f"the formula {latex!r} cannot become MathML: {error}") from error


def font() -> Path:
    """The whole font, as the package `ziamath` ships it."""
    return Path(str(files("ziamath"))) / "fonts" / "STIXTwoMath-Regular.ttf"


def cut_font(source: Path, target: Path) -> None:
    """Write the characters of formulas, with all sizes that the MATH table has of them, as WOFF."""
    from fontTools import subset

    logging.getLogger("fontTools").setLevel(logging.WARNING)
    options = subset.Options(flavor="woff", layout_features=["ssty", "dtls", "flac"], name_IDs=["*"])
    whole = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[*LETTERS, *SIGNS, *ACCENTS, *STYLED])
    cutter.subset(whole)
    subset.save_font(whole, str(target), options)


def _inline(translator, node):
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


def _write_font(app, exception):
    target = Path(app.outdir) / "_static" / FONT
    if exception is None and not target.is_file():
        cut_font(font(), target)
