"""The machinery of the lessons: what it reads from a file, which sources it finds, what a page may show."""

import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tutorials import lessons, pages, practice, render, sources
from tutorials.with_titles import with_titles

HEAD = """# %% [markdown]
# # 07 · Water is wet
#
# | | |
# |:--|:--|
# | **Needs** | [lesson 00](00_setup_and_small_world.py); soap |
# | **Read and do** | 5 minutes |
# | **Runs in** | 1 s |
# | **Memory** | 1 GB |

# %%
print("wet")
"""


class Cell(dict):
    """A cell as nbformat has it: a dictionary whose keys are attributes too."""

    __getattr__ = dict.__getitem__


def an_output(kind: str, **content) -> dict:
    return {"output_type": kind, **content}


@pytest.fixture
def lesson(tmp_path):
    path = tmp_path / "07_water.py"
    path.write_text(HEAD)
    return lessons.read_lesson(path)


def test_a_lesson_is_read_from_its_own_head(lesson):
    assert (lesson.number, lesson.claim) == ("07", "Water is wet")
    assert lesson.facts["Needs"] == "lesson 00; soap"
    assert lesson.page == lesson.path.parent / "rendered" / "07_water.md"


@pytest.mark.parametrize(
    ("old", "new", "records"),
    [("# # 07 ·", "# # 08 ·", "title says 08"), ("**Memory**", "**Room**", "Memory"), ("# # 07 · Water", "# Water", "title")],
)
def test_a_lesson_with_a_wrong_head_is_refused(tmp_path, old, new, records):
    path = tmp_path / "07_water.py"
    path.write_text(HEAD.replace(old, new))
    with pytest.raises(ValueError, match=records):
        lessons.read_lesson(path)


def test_cells_are_told_apart():
    result = lessons.cells(HEAD)
    assert [cell.kind for cell in result] == ["markdown", "code"]
    assert result[0].lines[0] == "# 07 · Water is wet" and result[1].source == 'print("wet")'


def test_find_takes_short_numbers_and_refuses_others():
    assert lessons.find("1").number == "01"
    with pytest.raises(ValueError, match="no lesson '99'; there are 00, 01"):
        lessons.find("99")


def project(root, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


SMALL_PROJECT = {
    "tutorials/07_water.py": "import torch\nfrom training import world\n",
    "training/__init__.py": "",
    "training/world.py": "def late():\n    from .deep.inner import thing\n",
    "training/deep/__init__.py": "",
    "training/deep/inner.py": "import kernels.fast\nthing = 1\n",
    "training/world/weights.json": "{}",
    "kernels/__init__.py": "",
    "kernels/fast.py": "import loralib_of_another\n",
    "kernels/unused.py": "",
}


def test_imports_are_followed_through_the_project(tmp_path):
    project(tmp_path, SMALL_PROJECT)
    result = [p.relative_to(tmp_path).as_posix() for p in sources.project_files(tmp_path / "tutorials/07_water.py", tmp_path)]
    assert result[0] == "tutorials/07_water.py"
    assert result[1:-1] == [
        "kernels/__init__.py",
        "kernels/fast.py",
        "training/__init__.py",
        "training/deep/__init__.py",
        "training/deep/inner.py",
        "training/world.py",
    ]
    assert result[-1] == "training/world/weights.json"  # data beside a module count as part of it


def test_a_fingerprint_is_the_files_sha256(tmp_path):
    project(tmp_path, {"tutorials/07_water.py": "x = 1\n"})
    result = sources.fingerprints(tmp_path / "tutorials/07_water.py", tmp_path)
    assert result == {"tutorials/07_water.py": hashlib.sha256(b"x = 1\n").hexdigest()}


def test_a_page_keeps_results_and_drops_noise(lesson):
    outputs = [
        an_output("stream", name="stdout", text="one\n"),
        an_output("stream", name="stderr", text="UserWarning: noise\n"),
        an_output("stream", name="stdout", text=f"\x1b[1mtwo\x1b[0m   \n  0%|\r100%\n{lessons.ROOT}/x\n"),
        an_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%| | 1/3"}),
        an_output("display_data", data={"image/png": "UE5H", "text/plain": "water is wet"}),
    ]
    cells = [
        Cell(cell_type="markdown", source="see [00](00_setup.py), [words](GLOSSARY.md#x), [far](https://a.b/c)"),
        Cell(cell_type="code", source="pass", outputs=outputs),
    ]
    text, pictures = pages.to_page(SimpleNamespace(cells=cells), lesson)
    assert "[00](00_setup.md), [words](../GLOSSARY.md#x), [far](https://a.b/c)" in text
    assert "```text\none\ntwo\n100%\nx\n```\n\n![water is wet](07_water_1.png)" in text
    assert pictures == {"07_water_1.png": b"PNG"}
    assert pages.noise_in(text) == []
    assert text.endswith("Made by `python -m tutorials render 07` from [07_water.py](../07_water.py).\n")


@pytest.mark.parametrize("noise", ["\x1b[31m", "FutureWarning: x", "12.5it/s]", "in /tmp/tmpab1/x", "C:\\Users\\me"])
def test_noise_is_found(noise):
    assert pages.noise_in(f"some text {noise} and more")


@pytest.mark.parametrize("text", ["a/b", "s / step", "α/r", "https://arxiv.org/abs/1", "python tutorials/home/x"])
def test_ordinary_text_is_not_noise(text):
    assert pages.noise_in(text) == []


def test_large_pictures_are_refused():
    pages.check_size("a.png", b"x" * 60_000)
    with pytest.raises(RuntimeError, match=r"a\.png has 60,001 bytes"):
        pages.check_size("a.png", b"x" * 60_001)


def test_the_readme_needs_its_marks(lesson):
    with pytest.raises(RuntimeError, match="lacks the marks"):
        pages.with_table("no marks", [lesson])
    table = pages.with_table("<!-- lessons -->\nold\n<!-- /lessons -->\n", [lesson])
    assert "[Water is wet](rendered/07_water.md)" in table and "old" not in table


def test_freshness_is_a_comparison_of_hashes(lesson, monkeypatch):
    monkeypatch.setattr(render, "fingerprint", lambda path: "1")
    monkeypatch.setattr(render, "HASHES", lesson.page.parent / "hashes.json")
    assert not render.is_fresh(lesson)  # no page yet
    lesson.page.parent.mkdir()
    lesson.page.write_text("a page")
    for digest, fresh in (("1", True), ("2", False)):
        render.HASHES.write_text(json.dumps({"07": digest}))
        assert render.is_fresh(lesson) is fresh


def test_links_of_a_page_in_a_folder_lead_to_pages(tmp_path):
    deep = tmp_path / "deep" / "07_water.py"
    deep.parent.mkdir()
    deep.write_text(HEAD)
    lesson = lessons.read_lesson(deep)
    assert (lesson.key, lesson.page) == ("deep/07", tmp_path / "rendered" / "deep" / "07_water.md")
    for target, wanted in (
        ("../08_fire.py", "../08_fire.md"),
        ("08_fire.py#x", "08_fire.md#x"),
        ("../topics/salt.py", "../topics/salt.md"),
        ("../diagrams/a.svg", "../../diagrams/a.svg"),
        ("../../README.md", "../../../README.md"),
    ):
        assert pages.moved_link(target, lesson.path, lesson.page) == wanted


@pytest.mark.parametrize(
    ("body", "verdict"),
    [("return 1", "right"), ("return 2", "not right: one was wanted"), ("raise NotImplementedError", "not written yet")],
)
def test_an_exercise_is_judged(body, verdict):
    answers = SimpleNamespace()
    exec(f"def one():\n    {body}", answers.__dict__)

    def check(module):
        assert module.one() == 1, "one was wanted"

    assert practice.try_one(answers, check).splitlines()[0] == verdict


def test_the_command_lists_and_refuses():
    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "tutorials", *arguments], cwd=lessons.ROOT, capture_output=True, text=True)

    listed = run()
    assert listed.returncode == 0 and listed.stderr == ""
    assert all(f"{lesson.number}  {lesson.claim}" in listed.stdout for lesson in lessons.all_lessons())
    refused = run("run", "99")
    assert refused.returncode == 1 and refused.stderr.startswith("error: no lesson '99'")


def test_a_lesson_is_run_with_its_titles_and_keeps_its_lines(tmp_path):
    source = "# %% [markdown]\n# # Title\n#\n# ## 1. It's \"one\"\n#\n# text\n\n# %%\nprint('result')\nassert False, 'why'\n"
    (tmp_path / "x.py").write_text(source)
    command = [sys.executable, "tutorials/with_titles.py", str(tmp_path / "x.py")]
    done = subprocess.run(command, cwd=lessons.ROOT, capture_output=True, text=True)
    assert done.stdout == '\n## 1. It\'s "one"\nresult\n'
    assert 'x.py", line 10' in done.stderr and "why" in done.stderr
    for lesson in lessons.all_lessons():
        text = lesson.path.read_text()
        assert len(with_titles(text).splitlines()) == len(text.splitlines()) and with_titles(text) != text


def test_a_python_without_torch_is_told_what_to_do():
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tutorials", "run", "00"], cwd=lessons.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "no torch" in done.stderr and "source .venv/bin/activate" in done.stderr
