"""Reference pages: generated pages equal their sources, each silent bug is one, and figures agree with the code."""

import re
import warnings

import pytest

from training.models.methods import LEARNING_RATE
from tutorials import lessons, reference_pages
from tutorials.reference_pages import FOLDER, all_bugs

BUGS = all_bugs()
HAND_WRITTEN = ("cheat_sheet.md", "interview_questions.md", "read_a_table.md")


def test_made_pages_are_those_of_their_sources():
    for name, text in reference_pages.pages().items():
        assert (FOLDER / name).read_text() == text, "python -m tutorials reference"
    assert {path.name for path in FOLDER.glob("*.md")} == {*reference_pages.pages(), *HAND_WRITTEN}


def test_every_symptom_of_every_lesson_is_in_the_table():
    table = (FOLDER / "symptoms.md").read_text()
    for lesson in lessons.all_lessons():
        count = len(re.findall(rf"\[{lesson.number} [\w ]+\]\(", table))
        assert count >= 3, f"lesson {lesson.number} has {count} symptoms"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.module.__name__.rpartition(".")[2])
def test_a_silent_bug_gives_a_wrong_result_without_an_error_and_its_repair_a_right_one(bug):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong, fixed = bug.module.wrong(), bug.module.fixed()
    assert not bug.module.is_right(wrong) and bug.module.is_right(fixed), (wrong, fixed)
    assert set(bug.facts) == {"Symptom", "Question", "Cause", "Lesson"}


def test_there_are_twelve_short_bugs():
    assert [bug.number for bug in BUGS] == list(range(1, 13))
    sections = (FOLDER / "bugs.md").read_text().split("\n## ")[1:]
    assert len(sections) == 12
    for section in sections:
        program = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
        assert len(program.splitlines()) <= 18 and section.count("<details>") == 1


def test_there_are_thirty_questions_with_folded_answers_and_links():
    text = (FOLDER / "interview_questions.md").read_text()
    questions = re.findall(r"<details><summary>(\d+)\. .+?\?</summary>\n\n.+?\(\[lesson \d\d\]\(.+?\)\)\n</details>", text)
    assert [int(number) for number in questions] == list(range(1, 31))


def test_links_lead_somewhere():
    for page in FOLDER.glob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?://|#)([^)\s#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_cheat_sheet_has_the_learning_rates_of_the_code():
    text = (FOLDER / "cheat_sheet.md").read_text()
    rows = {
        "full fine-tuning": ("full",),
        "head alone, (IA)³": ("head", "ia3"),
        "LoRA, QLoRA": ("lora", "qlora"),
        "bottleneck adapter": ("bottleneck",),
        "prefix tuning": ("prefix",),
        "prompt tuning": ("prompt",),
        "AdapterFusion": ("fusion",),
    }
    for name, methods in rows.items():
        small, large = re.search(rf"^\| {re.escape(name)} \| (\S+) \| (\S+) \|$", text, re.MULTILINE).groups()
        for method in methods:
            assert (float(small), float(large)) == (LEARNING_RATE["small"][method], LEARNING_RATE["large"][method])
