"""The toy model, exported once: its network alone, and a bundle."""

import pytest

from cgrefine.config.running import Export
from cgrefine.export import program
from cgrefine.export.bundle import load_bundle, write_bundle
from cgrefine.export.network_program import NetworkProgram
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


@pytest.fixture(scope="session")
def portable():
    """The toy's network as a program."""
    return program.build(toy.NETWORK, toy.params()["network"], "1.7.0")


@pytest.fixture(scope="session")
def network(portable):
    return NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
