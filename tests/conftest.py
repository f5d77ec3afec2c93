"""Tests compute in float64 with strict dtype promotion off the wire of the product's defaults."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _double_precision():
    jax.config.update("jax_enable_x64", True)
