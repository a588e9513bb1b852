"""A folder that is replaced whole: complete or as it was, also when the process ends between the renames."""

import os

import pytest

from training.models.sealed import whole_folder


def write(folder, text):
    with whole_folder(folder) as partial:
        (partial / "a").write_text(text)


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    for text in ("one", "two"):
        write(tmp_path / "x", text)
        assert (tmp_path / "x" / "a").read_text() == text and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_process_that_ends_between_the_renames_loses_nothing(failing, tmp_path, monkeypatch):
    write(tmp_path / "x", "old")
    replace, calls = os.replace, []

    def killed(source, goal):
        calls.append(goal)
        if len(calls) == failing:
            raise KeyboardInterrupt
        replace(source, goal)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", "new")
    monkeypatch.undo()
    where = tmp_path / ("x" if failing == 1 else ".x.old")
    assert (where / "a").read_text() == "old"
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "x"):
        raise ZeroDivisionError("the next writer found the old folder first, and put it back")
    assert (tmp_path / "x" / "a").read_text() == "old"
