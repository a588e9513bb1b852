"""Shared ground of the tests: one thread, no network, and the real data where it lies beside the project."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import hypothesis
import pytest
import torch
from commit_choice import current_commit, one_in_four

if not torch.cuda.is_available():  # Triton reads it when a kernel is defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile("suite", max_examples=25, deadline=None)
hypothesis.settings.load_profile("suite")  # one budget for every property

SHARED = Path(__file__).parents[2] / "shared"
LONG = ("processes", "resume", "compare", "builds", "book", "faults", "commands")
"""in the names of files whose tests take long, most of them with processes of their own"""


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_report_header():
    absent = {"beartype": "shapes and types are not checked", "pytest_timeout": "a test that hangs is not stopped"}
    return [f"{name} is not installed: {effect}" for name, effect in absent.items() if find_spec(name) is None]


@pytest.hookimpl(tryfirst=True)  # before `-m` leaves out what is slow
def pytest_collection_modifyitems(items):
    long = [item for item in items if "long" in item.keywords]
    names = {item: item.parent.nodeid if item.cls else item.nodeid for item in long}  # the tests of a class stay together
    today = one_in_four(sorted(set(names.values())), current_commit())
    for item in long:
        if names[item] not in today:
            item.add_marker(pytest.mark.slow)
    # the longest first, so that no worker waits at the end
    items.sort(key=lambda item: ("tutorial" not in item.keywords, not any(word in item.path.stem for word in LONG)))
    for item in items:
        if "real" in item.keywords and not (SHARED / "data").exists():
            item.add_marker(pytest.mark.skip(reason="the real data (shared/data) is not beside the project"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders of models by kind: two that are whole, and four in which something is missing or cut."""
    import tiny_folder  # here: it brings transformers, and Triton has to see TRITON_INTERPRET first

    folder = tmp_path_factory.mktemp("models")
    made = {"encoder": tiny_folder.encoder(folder / "encoder"), "decoder": tiny_folder.decoder(folder / "decoder")}
    shutil.copytree(made["encoder"], folder / "no tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "no tokenizer" / name).unlink()
    shutil.copytree(made["encoder"], folder / "no weights")
    (folder / "no weights" / "model.safetensors").unlink()
    shutil.copytree(made["encoder"], folder / "cut weights")
    weights = folder / "cut weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "empty").mkdir()
    return made | {name: str(folder / name) for name in ("no tokenizer", "no weights", "cut weights", "empty")}
