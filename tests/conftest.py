"""Shared ground of the tests: one thread, no network, and the real data where it lies beside the project."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch

if not torch.cuda.is_available():  # Triton reads it when a kernel is defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "tutorial" not in item.keywords)  # the longest first, so that no worker waits at the end
    for item in items:
        if "real" in item.keywords and not (SHARED / "data").exists():
            item.add_marker(pytest.mark.skip(reason="the real data (shared/data) is not beside the project"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def shared() -> Path:
    return SHARED
