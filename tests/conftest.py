"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed."""

import os

# Before JAX is imported: LAPACK threads fight with XLA's and with those of the other test process.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# ruff: noqa: E402
import gc

import compilation_counts
import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("rnndyn", "runtime_types.check").__enter__()
compiled = compilation_counts.Watch()
compiled_by_workers = []


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


def pytest_collection_modifyitems(items):
    if jax.default_backend() == "cpu":
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        """A file stays on one worker, so that its tests share what they compile; the smoke runs of the studies share
        nothing, and fill up whichever worker is free. (Groups as marks do not work: xdist 3.8 writes them into the
        names of tests, which pytest 9.2 reads from elsewhere.)"""

        def _split_scope(self, nodeid):
            path = nodeid.split("::", 1)[0]
            return nodeid if path.endswith("test_smoke.py") else path

    return ByFile(config, log)


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["compiled"] = (compiled.number, compiled.seconds)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    compiled_by_workers.append(getattr(node, "workeroutput", {}).get("compiled", (0, 0.0)))


def pytest_terminal_summary(terminalreporter):
    counts = compiled_by_workers or [(compiled.number, compiled.seconds)]
    number, seconds = (sum(column) for column in zip(*counts, strict=True))
    terminalreporter.write_line(f"{number} programs compiled or read from the cache, {seconds:.0f} s in all processes")
