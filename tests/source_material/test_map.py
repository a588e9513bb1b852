"""The map from the source documents: every item is done or deliberately different, and every link leads somewhere."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "tutorials" / "FROM_THE_SOURCE.md"
ROWS = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
DOCUMENTS = (
    "lora_tutorial.md",
    "peft_qlora.md",
    "adapter_fusion_multitask_checklist.md",
    "distillation_checklist.md",
    "multitask_from_scratch.md",
)


def test_the_map_has_all_documents_and_numbers_its_items():
    assert all(f"## `{name}`" in PAGE.read_text() for name in DOCUMENTS)
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1)) and len(ROWS) >= 247


def test_every_item_is_done_or_deliberately_different():
    assert [row for row in ROWS if len(row) != 4 or not re.fullmatch(r"done|different: .{10,}", row[3])] == []


def test_every_link_leads_somewhere():
    links = {link for row in ROWS for link in re.findall(r"\]\(([^)#]+)[^)]*\)", row[2])}
    assert len(links) > 50
    assert [link for link in links if not link.startswith("http") and not (PAGE.parent / link).exists()] == []
