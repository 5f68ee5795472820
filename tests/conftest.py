"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed."""

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("rnndyn", "runtime_types.check").__enter__()


@pytest.fixture
def x64():
    """Run the test in float64 (the global flag stays as it was)."""
    with jax.enable_x64(True):
        yield


def pytest_collection_modifyitems(items):
    if jax.default_backend() == "cpu":
        skip = pytest.mark.skip(reason="needs a GPU")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
