"""`python -m tutorials diagrams`: write every diagram as an SVG into tutorials/diagrams, and a page that shows all of them."""

from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent / "diagrams"
FILES = [import_module(f"tutorials.drawing.{file.stem}") for file in sorted(HERE.glob("[!_]*.py")) if file != Path(__file__)]
DIAGRAMS = {name: make for file in FILES for name, make in getattr(file, "DIAGRAMS", {}).items()}
HEAD = """# All diagrams

Grey is frozen, blue is trained, hatched is quantized, orange is a gradient, green is data, red is wrong. The files are made by
`python -m tutorials diagrams` from [tutorials/drawing](../drawing/svg.py).
"""


def files() -> dict[str, str]:
    """{file name: content} of every diagram and of the gallery."""
    drawings = {name: make() for name, make in DIAGRAMS.items()}
    pictures = [f"## {name}\n\n![{drawing.title}]({name}.svg)\n" for name, drawing in drawings.items()]
    return {f"{name}.svg": drawing.svg() for name, drawing in drawings.items()} | {"README.md": "\n".join([HEAD, *pictures])}


def command() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content)
        print(FOLDER.name, name)
    return 0
