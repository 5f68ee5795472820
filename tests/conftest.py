"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed."""

import gc

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("rnndyn", "runtime_types.check").__enter__()


@pytest.fixture
def x64():
    """Run the test in float64 (the global flag stays as it was)."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_functions():
    """Every compiled function keeps memory and maps of it; thousands of them in one process end in a crash."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    on_cpu = jax.default_backend() == "cpu"
    for item in items:
        # With --dist loadgroup a file stays on one worker, so that its tests share what they compile; the smoke runs
        # of the studies share nothing, and fill up whichever worker is free.
        alone = item.path.name == "test_smoke.py"
        item.add_marker(pytest.mark.xdist_group(item.nodeid if alone else str(item.path)))
        if on_cpu and "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
