"""Runs that several files look at."""

from pathlib import Path

import pytest

from tests.cli import refine_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that is ready to be refined."""
    return refine_toy.run_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after an undisturbed refinement."""
    folder = refine_toy.run_folder(tmp_path_factory.mktemp("refined"))
    refine_toy.refine(folder)
    return folder
