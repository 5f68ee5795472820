"""Threads below and beside a driver: those of BLAS, and those of Python.

JAX calls LAPACK on the CPU through the OpenBLAS that SciPy ships, from within compiled programs. Two things go wrong
there.

*BLAS threads.* A decomposition of a matrix of a few hundred rows is made of many products that each take microseconds.
OpenBLAS hands halves of them to its own threads and spins until they are done; when the cores have other work (XLA's
own pool, or somebody else's process) each handover waits for a slice of the scheduler. `lyapunov_spectrum`, two cores
with a load of 20, CPU seconds with one BLAS thread and with two: 32 units, 400 steps: .02 and .27; 128 units, 100
steps: .11 and 4.3; 512 units, 6 steps: .34 and not done after 200 s. On an idle machine both take the same wall time,
with twice the CPU.

*Python threads.* A LAPACK call on a batch of matrices (`vmap`) deals its matrices out to XLA's pool and waits for
them; if it runs on a worker of the pool itself, that worker is blocked while it waits (`jax::ParallelBatchMap` in
jaxlib, versions 0.10). As many such calls at once as the pool has threads, one per core, and all wait for ever.
Programs of different Python threads meet in this way: three threads on two cores hang in every second run of a minute.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import scipy.linalg  # noqa: F401  loads the OpenBLAS that jaxlib will call, so that it is seen below
import threadpoolctl


class _Limit:
    """A limit for the whole process: set by the first that wants it, lifted by the last, in whatever order they
    leave."""

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        self._controller: threadpoolctl.ThreadpoolController | None = None
        self._limiter: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limiter = self._limit()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limiter is not None:
                _in_another_thread(self._limiter.restore_original_limits)
                self._limiter = None

    def _limit(self) -> Any:
        """What holds BLAS to one thread; `None` where it runs on one already: starting a thread costs more."""
        if self._controller is None:  # looks through the loaded libraries, which takes 10 ms
            self._controller = threadpoolctl.ThreadpoolController()
        controller = self._controller
        blas = (library for library in controller.lib_controllers if library.user_api == "blas")
        if all(library.num_threads == 1 for library in blas):
            return None
        return _in_another_thread(lambda: controller.limit(limits=1, user_api="blas"))


def _in_another_thread(function: Callable[[], Any]) -> Any:
    """What `function` returns, called in a thread that ends with it.

    threadpoolctl (3.8) lets one thread at a time set limits, the first that does, until that thread ends; the last to
    leave is not always the first that entered. Where the user's own `threadpool_limits` is in force, that thread has
    the say and nothing changes here: what a user asks for in so many words goes first.
    """
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


_limit = _Limit()
_turn = threading.RLock()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS and LAPACK run on one thread each while the block runs, in the whole process; see above for what that saves.

    It may be nested, and entered in several Python threads: the first sets the limit and the last lifts it. A single
    decomposition of thousands of rows on an idle machine would be faster with more threads; no driver here spends its
    time in one, and what a user sets (`OPENBLAS_NUM_THREADS`) holds outside.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


@contextlib.contextmanager
def one_program_at_a_time() -> Iterator[None]:
    """Only one Python thread at a time runs such a block; others wait. The same thread may enter again.

    Results must be ready when the block ends (`jax.block_until_ready`, `jax.device_get`): a program that is still
    running would meet the next one. It guards the blocks against each other, not against programs that run outside of
    any.
    """
    with _turn:
        yield
