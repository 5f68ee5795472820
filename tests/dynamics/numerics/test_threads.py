"""Limits of BLAS threads and turns of Python threads."""

import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from rnndyn.dynamics.numerics.threads import one_blas_thread, one_program_at_a_time


def counts():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@contextlib.contextmanager
def usual_number(number):
    """What BLAS has outside of the blocks; set in a thread of its own, for threadpoolctl lets one thread do it."""
    before = counts()

    def change(to):
        thread = threading.Thread(target=lambda: threadpoolctl.threadpool_limits(limits=to, user_api="blas"))
        thread.start()
        thread.join()

    change(number)
    yield
    change(before[0])


def test_the_library_that_jax_calls_is_limited_and_let_go():
    jnp.linalg.qr(jnp.eye(3))  # loads jaxlib's LAPACK
    assert any("scipy" in pool["filepath"] for pool in threadpoolctl.threadpool_info())
    with usual_number(3):
        assert set(counts()) == {3}
        with one_blas_thread(), one_blas_thread():
            assert set(counts()) == {1}
        assert set(counts()) == {3}


def test_threads_that_leave_in_any_order_lift_the_limit_once():
    inside, leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def work(event):
        with one_blas_thread():
            inside.wait(30)
            event.wait(30)

    with usual_number(2):
        threads = [threading.Thread(target=work, args=(event,)) for event in leave]
        for thread in threads:
            thread.start()
        inside.wait(30)
        assert set(counts()) == {1}
        leave[0].set()
        threads[0].join(30)
        assert set(counts()) == {1}  # the second one is still in its block
        leave[1].set()
        threads[1].join(30)
        assert set(counts()) == {2}


def test_a_limit_that_the_user_asks_for_goes_first():
    with usual_number(3), threadpoolctl.threadpool_limits(limits=2, user_api="blas"), one_blas_thread():
        assert set(counts()) == {2}


def test_an_error_inside_lifts_the_limit():
    with usual_number(2):
        try:
            with one_blas_thread():
                raise KeyError
        except KeyError:
            pass
        assert set(counts()) == {2}


def test_batched_lapack_calls_of_three_threads_take_turns():
    """Without the turns two of them block both workers of a pool of two, and wait for tasks that no worker takes up."""

    @jax.jit
    def run(matrices):
        def step(a, _):
            q = jnp.linalg.qr(a)[0]
            return jnp.linalg.solve(a + 3 * jnp.eye(24), q), None

        return jax.lax.scan(step, matrices, None, length=20)[0]

    batches = [jnp.asarray(np.random.default_rng(i).standard_normal((8, 24, 24)), jnp.float32) for i in range(3)]
    expected = [np.asarray(run(batch)) for batch in batches]
    found: list[list[np.ndarray]] = [[], [], []]

    def work(i):
        for _ in range(4):
            with one_program_at_a_time(), one_program_at_a_time(), one_blas_thread():
                found[i].append(np.asarray(run(batches[i])))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    for each, right in zip(found, expected):
        assert len(each) == 4
        for result in each:
            np.testing.assert_array_equal(result, right)
