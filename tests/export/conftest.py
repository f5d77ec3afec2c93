"""One bundle of the toy model, written once."""

import pytest

from cgrefine.config.running import Export
from cgrefine.export.bundle import load_bundle, write_bundle
from tests.export import toy


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    """Folder of a bundle; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    settings = Export(reference_frames=3)
    write_bundle(folder, toy.MODEL, toy.params(), toy.topology(), toy.frames(), "toy", settings)
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)
