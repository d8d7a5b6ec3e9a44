"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

# Workers run beside each other: more than one thread each makes all of them slower, and sums would depend on the machine.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the global stream before each test and its fixtures: what a test draws should not depend on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator seeded with 0, fresh for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder `$ISTHMUS_DATA` with the real data sets as `.npz`; without it the test is skipped."""
    folder = os.environ.get("ISTHMUS_DATA")
    if not folder:
        pytest.skip("real data: set ISTHMUS_DATA to the folder with the .npz files")
    path = Path(folder)
    assert path.is_dir(), f"ISTHMUS_DATA should be a folder. Found {folder!r}."
    return path
