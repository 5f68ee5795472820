"""Shapes in signatures are checked at run time in every test; float64 is asked for, never assumed. A call that does not
fit fails its test; with RUNTIME_TYPES=tell it is told at the end of the run.

What tests cost, and the rule for marks, is in CONTRIBUTING.md.
"""

import gc
import os
import sys
from importlib import metadata

# Tracing makes and drops many small objects, and among half a million that stay Python looks for circles of them again
# and again: an eighth of all CPU time of a run. See also `pytest_collection_finish`.
gc.set_threshold(50_000, 20, 20)
# Nothing here imports the library: the import hook below puts a check on each of its functions as it is imported.
# Before JAX is imported: LAPACK threads fight with XLA's and with those of the other test process.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The size of XLA's pool. Threads that share the compilation of one program cost more CPU than they save where the
    # other worker wants the core too.
    os.environ.setdefault("NPROC", "1")
# Most of a test's time is compilation. XLA's older emitters of machine code take half as long as the newer ones, which
# better programs that run once here; short vectors and one module for each program take another tenth off.
# `XLA_FLAGS= pytest` compiles as users do. XLA ends a process on an unknown flag.
if metadata.version("jaxlib").startswith("0.10."):
    flags = ("use_fusion_emitters=false", "prefer_vector_width=128", "parallel_codegen_split_count=1")
    os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_cpu_{flag}" for flag in flags))

# ruff: noqa: E402
from pathlib import Path

import compilation_counts
import cpu_seconds
import jax
import memory_maps
import pytest
import runtime_types

assert "rnndyn" not in sys.modules, "imported before its functions can be checked"
runtime_types.install("rnndyn")
compiled = compilation_counts.Watch()
compiled_by_workers = []
account = cpu_seconds.Account()

SECONDS_OF_ALL = 900
"""CPU seconds: `make test` then takes ten minutes of two idle cores, with lint, types and set-up beside the tests. The
goal; CONTRIBUTING.md says what the last whole run took."""

SECONDS_OF_ONE = 10
"""CPU seconds of one test in the normal run."""


def pytest_addoption(parser):
    parser.addoption("--costs", type=Path, metavar="FILE", help="append a line per test: CPU seconds, programs, name")


@pytest.fixture
def x64():
    """Run the test in float64 (the global flag stays as it was)."""
    with jax.enable_x64(True):
        yield


AS_USERS_COMPILE = ("dynamics/proofs", "dynamics/automata", "dynamics/chaos", "dynamics/destinations")
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


def pytest_collection_finish():
    """What the modules hold stays to the end: garbage is no longer looked for in it."""
    gc.collect()
    gc.freeze()


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
    compiled.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    # A worker hands them to the main process with the report.
    report.cpu_seconds, report.programs = account.since_it_began(), compiled.since_it_began()
    report.misfits = runtime_types.take()
    return report


class Told:
    """What the main process hears of the tests."""

    def __init__(self, table):
        self.table, self.misfits = table, {}

    def pytest_runtest_logreport(self, report):
        for misfit in report.misfits:
            self.misfits.setdefault(runtime_types.place(misfit), (report.nodeid, misfit))
        if report.when == "teardown":
            account.add(report.nodeid, report.cpu_seconds)
            if self.table:
                account.write(self.table, report.nodeid, report.programs)

    def pytest_terminal_summary(self, terminalreporter):
        if self.misfits:
            terminalreporter.section("calls that do not fit what functions announce")
            for test, misfit in self.misfits.values():
                terminalreporter.write_line(f"{test}\n    {misfit}")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Told(config.getoption("--costs")))


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["compiled"] = (compiled.number, compiled.seconds, compiled.names)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    compiled_by_workers.append(getattr(node, "workeroutput", {}).get("compiled", (0, 0.0, {})))


def pytest_terminal_summary(terminalreporter):
    numbers, seconds, names = zip(*(compiled_by_workers or [(compiled.number, compiled.seconds, compiled.names)]))
    terminalreporter.section("what the tests cost")
    for line in account.lines(SECONDS_OF_ALL, SECONDS_OF_ONE):
        terminalreporter.write_line(line)
    terminalreporter.write_line(
        f"{sum(numbers)} programs lowered and compiled, or read from the cache, {sum(seconds):.0f} s in all processes:"
    )
    for line in compilation_counts.dearest(names):
        terminalreporter.write_line(line)
