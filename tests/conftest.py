"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed.

What tests cost, and the rule for marks, is in CONTRIBUTING.md.
"""

import os
from importlib import metadata

# Before JAX is imported: LAPACK threads fight with XLA's and with those of the other test process.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The size of XLA's pool. Threads that share the compilation of one program cost more CPU than they save where the
    # other worker wants the core too.
    os.environ.setdefault("NPROC", "1")
# Most of a test's time is compilation. XLA's older emitters of machine code take half as long as the newer ones, which
# better programs that run once here. `XLA_FLAGS= pytest` compiles as users do. XLA ends a process on an unknown flag.
if metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# ruff: noqa: E402
import gc
from pathlib import Path

import compilation_counts
import cpu_seconds
import jax
import memory_maps
import pytest
from jaxtyping import install_import_hook

install_import_hook("rnndyn", "runtime_types.check").__enter__()
compiled = compilation_counts.Watch()
compiled_by_workers = []
account = cpu_seconds.Account()

SECONDS_OF_ALL = 900
"""CPU seconds: `make test` takes ten minutes of two idle cores, with lint, types and set-up beside the tests."""

SECONDS_OF_ONE = 10
"""CPU seconds of one test in the normal run."""


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
    """Compilation is shorter where less is tried to better programs that run once."""
    folder = request.path.relative_to(Path(__file__).parent).parent.as_posix()
    quickly = bool(os.environ.get("XLA_FLAGS", "as it pleases")) and folder not in AS_USERS_COMPILE
    if jax.config.read(QUICKLY) != quickly:
        jax.clear_caches()  # they do not tell the two apart
        jax.config.update(QUICKLY, quickly)
    yield
    if memory_maps.too_many():
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart():
    account.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    report.cpu_seconds = account.since_it_began()  # a worker hands it to the main process with the report
    return report


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        account.add(report.nodeid, report.cpu_seconds)


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
    terminalreporter.section("what the tests cost")
    for line in account.lines(SECONDS_OF_ALL, SECONDS_OF_ONE):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"{number} programs compiled or read from the cache, {seconds:.0f} s in all processes")
