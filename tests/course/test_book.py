"""The HTML book: its pages, its links, its formulas, the library's names, the Vietnamese words; and opened in a browser.

Oracles: the files on disk (every link and picture), `import` (the library's page is made without it), the font's own
table of characters, and a headless Chromium where there is one.
"""

import importlib
import inspect
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tutorials import lessons, vietnamese
from tutorials.book import front, library

for needed in ("sphinx", "myst_parser", "furo", "math_core", "ziamath"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[book]'")

ALL = lessons.all_lessons()
ROOT = lessons.ROOT
VIETNAMESE_SIGN = re.compile(r"[ăâđêôơưàáảãạằắẳẵặầấẩẫậèéẻẽẹềếểễệìíỉĩịòóỏõọồốổỗộờớởỡợùúủũụừứửữựỳýỷỹỵ]", re.IGNORECASE)
PLAIN = {"entropy", "gradient", "che", "thanh ghi"}
"""Vietnamese words that are written without a sign"""


class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.links, self.loads, self.anchors, self.pictures = path, [], [], {""}, []
        self.text = path.read_text()
        self.feed(re.sub(r"<pre>.*?</pre>", "", self.text, flags=re.DOTALL))  # coloured code: most of a page, and no link in it

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.anchors |= {facts[key] for key in ("id", "name") if facts.get(key)}
        if tag == "a" and "href" in facts:
            self.links.append(facts["href"])
        elif tag == "link" and facts.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(facts["href"])
        if "src" in facts:
            self.loads.append(facts["src"])
        if tag == "img":
            self.pictures.append(facts)


@pytest.fixture(scope="session")
def pages(built) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(built.rglob("*.html"))}


def of(pages: dict[Path, Page], built: Path, name: str) -> Page:
    return pages[built / name]


def test_every_link_leads_to_a_page_and_a_place_on_it(built, pages):
    broken = []
    for page in pages.values():
        for link in (link for link in page.links if not urlsplit(link).scheme):
            parts = urlsplit(link)
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            if not target.is_file() or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                broken.append(f"{page.path.relative_to(built)} -> {link}")
    assert broken == []
    assert sum(len(page.links) for page in pages.values()) > 10_000  # the check saw the book


def test_nothing_is_loaded_from_elsewhere_and_all_that_is_loaded_exists(built, pages):
    for page in pages.values():
        for load in page.loads:
            parts = urlsplit(load)
            assert not parts.scheme and not parts.netloc, f"{page.path} loads {load}"
            assert (page.path.parent / unquote(parts.path)).is_file(), f"{page.path} loads {load}"
    for style in built.rglob("*.css"):
        for target in re.findall(r"url\([\"']?(.*?)[\"']?\)|@import\s+[\"'](.*?)[\"']", style.read_text()):
            target = "".join(target)
            assert target.startswith("data:") or (style.parent / target.split("#")[0]).is_file(), f"{style} loads {target}"
    assert (built / "_static" / "math.woff").stat().st_size < 600_000


def test_every_lesson_leads_in_with_its_picture(built, pages):
    english, start = of(pages, built, "index.html"), of(pages, built, "tutorials/vi.html")
    assert 'lang="vi"' in start.text and 'lang="en"' in english.text
    for lesson in ALL:
        page = of(pages, built, f"tutorials/rendered/{lesson.path.stem}.html")
        assert f"tutorials/rendered/{page.path.name}" in english.links and f"rendered/{page.path.name}" in start.links
        alt, name = front.first_picture(lesson)
        file = name.rpartition("/")[2]
        assert any(x["src"].endswith(file) and x["alt"] == alt for x in english.pictures)
        assert any(x["src"].endswith(file) for x in start.pictures)
        assert lesson.claim in unescape(english.text) and vietnamese.line(lesson) in unescape(start.text)
        assert len(page.pictures) == len(re.findall(r"!\[", lesson.page.read_text()))


def test_formulas_are_mathml_and_the_font_has_their_signs(built, pages):
    from fontTools.ttLib import TTFont

    text = "".join(page.text for page in pages.values())
    formulas = re.findall(r"<math.*?</math>", text, re.DOTALL)
    shown = [re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", formula, flags=re.DOTALL) for formula in formulas]
    assert len(formulas) > 200 and not [x for x in shown if "\\" in x]
    font = TTFont(built / "_static" / "math.woff")
    known = font.getBestCmap()
    assert [sign for sign in set(unescape("".join(shown))) if ord(sign) not in known and not sign.isspace()] == []
    assert all(code in known for code in (*range(0x1D434, 0x1D455), *range(0x1D456, 0x1D468), 0x210E))  # <mi> shows x as 𝑥; ℎ
    assert "MATH" in font and 0x221A in known  # without these a browser leaves the sign of a root out
    assert "\\frac" not in re.sub(r"<annotation.*?</annotation>|<pre.*?</pre>|<code.*?</code>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        (r"\sqrt{x}", ["<msqrt><mi>x</mi></msqrt>"]),
        (r"\frac{\alpha}{r}", ["<mfrac><mi>α</mi><mi>r</mi></mfrac>"]),
        ("a<b", ["&lt;"]),
    ],
)
def test_a_formula(latex, parts):
    from tutorials.book.mathml import to_mathml

    assert all(part in to_mathml(latex) for part in parts)
    assert 'display="block"' in to_mathml(latex, display=True) and 'display="block"' not in to_mathml(latex)


def test_a_formula_that_is_not_understood_is_named():
    from sphinx.errors import ExtensionError

    from tutorials.book.mathml import to_mathml

    with pytest.raises(ExtensionError, match=r"brokensign.*Unknown command"):
        to_mathml(r"\brokensign")


@pytest.mark.parametrize("space", ["loralib", "adapters", "training", "multitask", "distill"])
def test_the_library_page_has_every_name_that_import_gives(space, built, pages):
    package = importlib.import_module(space)
    objects = {name: getattr(package, name) for name in package.__all__}
    objects = {name: x for name, x in objects.items() if inspect.isclass(x) or inspect.isfunction(x)}
    assert len(objects) >= 3
    top = of(pages, built, f"{space}/index.html")
    for name, value in objects.items():
        anchor = f"{value.__module__}.{value.__qualname__}"
        page = of(pages, built, f"{value.__module__.replace('.', '/')}.py.html")
        assert anchor in page.anchors, f"{anchor} is not on {page.path}"
        assert any(link.endswith(f"#{anchor}") for link in top.links), f"{space} does not lead to {name}"


def test_kernels_are_told_without_being_imported(built, pages):
    page = of(pages, built, "kernels/triton_kernels/lora_matmul_triton.py.html")
    assert any(anchor.startswith("kernels.triton_kernels.lora_matmul_triton.") for anchor in page.anchors)
    source = inspect.getsource(library)
    assert not re.search(r"importlib|__import__|exec\(|eval\(", source)


def test_every_word_of_the_glossary_has_its_vietnamese_word(built, pages):
    text = (lessons.HERE / "GLOSSARY.md").read_text()
    entries = front.ENTRY.findall(text)
    assert len(entries) == len(re.findall(r"^\*\*", text, re.MULTILINE)) == text.count("\n\n**"), "one paragraph each"
    without = [word for word, translated, _ in entries if not VIETNAMESE_SIGN.search(translated) and translated not in PLAIN]
    assert without == []
    page = of(pages, built, "tutorials/GLOSSARY.html")
    assert sum(anchor.startswith("term-") for anchor in page.anchors) == len(entries)
    shown = unescape(page.text)
    words = [re.sub(r"<[^>]+>", "", result) for result in re.findall(r'<span class="vi">(.*?\.)</span>', shown)]
    assert words == [f"{translated}." for _, translated, _ in entries]


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_in_a_browser(width, built, window):
    """From file://, light and dark: no complaint, nothing asked of a network, all pictures, nothing wider than the screen."""
    names = [
        "index",
        "tutorials/vi",
        "tutorials/GLOSSARY",
        "library",
        "loralib/index",
        "loralib/layers/linear.py",
        "README",
        "CLAIMS",
    ]
    names += [lesson.page.relative_to(ROOT).with_suffix("").as_posix() for lesson in lessons.all_pages()]
    backgrounds = set()
    for number, name in enumerate(names):
        window.resize(width, 900, dark=number % 2 == 1)
        window.open((built / f"{name}.html").as_uri())
        missing = window.run("[...document.images].filter(x => !(x.complete && x.naturalWidth)).map(x => x.src)")
        wide = window.run("document.documentElement.scrollWidth - innerWidth")
        assert missing == [] and wide <= 0, f"{name}: pictures missing {missing}, {wide} px too wide"
        backgrounds.add((number % 2, window.run("getComputedStyle(document.body).backgroundColor")))
    assert len(backgrounds) == 2 and len({colour for _, colour in backgrounds}) == 2, backgrounds
    assert window.complaints == []


def test_a_root_is_drawn(built, window):
    """With the book's font the sign of the root takes space beside what stands under it; without a MATH table it takes none."""
    window.resize(1280, 900)
    window.open((built / "tutorials/rendered/00_setup_and_small_world.html").as_uri())
    assert window.run("document.fonts.load('16px \"Book Math\"').then(x => x[0].status)") == "loaded"
    space = """(() => { const root = document.querySelector('msqrt'), inner = document.createRange();
        inner.selectNodeContents(root);
        const left = root.firstElementChild.getBoundingClientRect().left;
        return left - root.getBoundingClientRect().left })()"""
    assert window.run(space) > 3


def test_the_search_finds_names_and_vietnamese_words_from_a_file(built, window):
    for words, wanted in (
        ("LoraConfig", "loralib.variants.config.LoraConfig"),
        ("chưng cất tri thức", "GLOSSARY.html"),
        ("rsLoRA", "05_lora"),
    ):
        window.open(f"{(built / 'search.html').as_uri()}?q={words}")
        window.wait_for("document.querySelector('#search-results p.search-summary')?.textContent.includes('found')")
        result = window.wait_for("[...document.querySelectorAll('ul.search a')].map(x => x.href)")
        assert any(wanted in link for link in result[:5]), result[:5]
    assert window.complaints == []


def test_the_reader_can_choose_dark(built, window):
    window.resize(1280, 900)
    window.open((built / "index.html").as_uri())
    modes = set()
    for _ in range(3):
        window.run("document.querySelector('button.theme-toggle').click()")
        modes.add(window.run("document.body.dataset.theme"))
    assert modes == {"auto", "light", "dark"}
    assert window.complaints == []
