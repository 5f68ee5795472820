"""What the process of a study is told before it imports NumPy or JAX, which read it once: threads, and how to compile.

Nothing is changed that the user has set. `docs/performance.md` has the measurements.
"""

from collections.abc import MutableMapping
from importlib import metadata

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
EFFORT = "--xla_backend_optimization_level"
EMITTERS = "--xla_cpu_use_fusion_emitters"


def limit_blas(environment: MutableMapping[str, str]) -> None:
    """One BLAS thread: the matrices here are small, and on a busy machine threads of BLAS wait for each other."""
    for name in BLAS:
        environment.setdefault(name, "1")


def limit_to_one_core(environment: MutableMapping[str, str]) -> None:
    """One BLAS thread and one of XLA's, for a process that has others beside it."""
    limit_blas(environment)
    # XLA takes the size of its pool from here; --xla_cpu_multi_thread_eigen=false leaves the pool as large as before.
    environment.setdefault("NPROC", "1")
    # On a GPU the first process would otherwise take three quarters of the memory, and the second fail.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def compile_quickly(environment: MutableMapping[str, str]) -> None:
    """A study compiles for longer than its programs run, and they run as fast when less is tried to better them."""
    wanted = {EFFORT: "1"}
    # The older emitters of machine code. What proofs assume of it (docs/certificates.md) was measured with both. XLA
    # ends a process on an unknown flag, and JAX 0.12 does not know this one.
    if metadata.version("jaxlib").startswith("0.10."):
        wanted[EMITTERS] = "false"
    flags = environment.get("XLA_FLAGS", "")
    added = [f"{name}={value}" for name, value in wanted.items() if name not in flags]
    environment["XLA_FLAGS"] = " ".join([*flags.split(), *added])
