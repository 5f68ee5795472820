"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed."""

import os

# Before JAX is imported: LAPACK threads fight with XLA's and with those of the other test process.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The size of XLA's pool. Threads that share the compilation of one program cost more CPU than they save where the
    # other worker wants the core too.
    os.environ.setdefault("NPROC", "1")

# ruff: noqa: E402
import gc
from pathlib import Path

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


AS_USERS_COMPILE = ("dynamics/proofs", "dynamics/destinations")
"""Where what is proved depends on the accuracy of compiled functions: these are compiled as they are outside tests."""

QUICKLY = "jax_disable_most_optimizations"


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(request):
    """Most of a test's time is compilation, and it is shorter where less is tried to better programs that run once."""
    folder = request.path.relative_to(Path(__file__).parent).parent.as_posix()
    quickly = folder not in AS_USERS_COMPILE
    if jax.config.read(QUICKLY) != quickly:
        jax.clear_caches()  # they do not tell the two apart
        jax.config.update(QUICKLY, quickly)
    yield
    if too_many_maps():
        jax.clear_caches()
        gc.collect()


def too_many_maps():
    """Every compiled program holds memory maps, and a process may have 65 530 of them: beyond, it crashes. A quarter of
    them leaves room for the file that needs most; below, files share what they have compiled."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) > 16_000
    except OSError:  # not Linux
        return True


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
