"""Cholesky QR in as many passes as it takes, against a QR decomposition in other precision, and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.growth import _frame_run
from rnndyn.dynamics.growth.lyapunov import lyapunov_spectrum
from rnndyn.dynamics.numerics.frames import quick_qr

quick = jax.jit(quick_qr)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def _vectors(num_units: int, num_vectors: int, condition: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, num_vectors)))[0] for n in (num_units, num_vectors))
    return left @ np.diag(condition ** -np.linspace(0, 1, num_vectors)) @ right


def _logs(vectors: np.ndarray) -> np.ndarray:
    """ln |R_ii| by Gram-Schmidt, twice, with 64 bits of mantissa."""
    basis, logs = [], []
    for column in np.asarray(vectors, np.longdouble).T:
        v = column.copy()
        for q in basis * 2:
            v -= q * np.sum(q * v)
        length = np.sqrt(np.sum(v**2))
        basis.append(v / length)
        logs.append(float(np.log(length)))
    return np.array(logs)


@pytest.mark.parametrize(("dtype", "condition"), [(np.float64, 1e2), (np.float64, 1e7), (np.float32, 1e3)])
def test_its_factor_is_that_of_many_digits(dtype, condition):
    vectors = _vectors(12, 8, condition).astype(dtype)
    eps = np.finfo(dtype).eps
    good, (q, logs, cancelled) = quick(vectors, True)
    assert good
    np.testing.assert_allclose(q.T @ q, np.eye(8), atol=50 * eps)
    assert np.all(np.abs(logs - _logs(vectors)) <= 50 * eps * np.asarray(cancelled))
    assert np.max(cancelled) < 2 * condition


def test_a_sum_of_inexact_ones_is_exact_at_the_end():
    rng = np.random.default_rng(1)
    matrices = [_vectors(6, 6, 1e5) @ np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(5)]
    frame, total, expected, exact = np.eye(6), np.zeros(6), np.zeros(6), np.eye(6)
    for t, matrix in enumerate(matrices):
        good, (frame, logs, _) = quick(matrix @ frame, t == 4)
        exact, r = np.linalg.qr(matrix @ exact)
        assert good
        total, expected = total + np.asarray(logs), expected + np.log(np.abs(np.diagonal(r)))
    np.testing.assert_allclose(total, expected, atol=1e-9)


def test_small_rows_are_as_accurate_as_large_ones():
    """Rows over seven decades: each column is 1e7 times as long as what is left of it, and loses no digits by that."""
    rng = np.random.default_rng(2)
    vectors = np.diag(10.0 ** -np.linspace(0, 10, 8)) @ rng.standard_normal((8, 8))
    good, (_, logs, cancelled) = quick(vectors, True)
    lengths = np.linalg.norm(vectors, axis=0) / np.exp(_logs(vectors))
    assert np.max(lengths) > np.finfo(float).eps ** -0.5 > np.max(cancelled)
    assert good
    assert np.all(np.abs(logs - _logs(vectors)) <= 50 * np.finfo(float).eps * np.asarray(cancelled))


def test_what_is_destroyed_is_not_good():
    vectors = _vectors(12, 8, 1e2)
    for bad in (vectors * (np.arange(8) != 3), vectors[:, [0, 1, 2, 3, 4, 5, 6, 0]], vectors * np.nan):
        assert not quick(bad, True)[0]
        assert not quick(bad, False)[0]


def test_many_columns_take_householder_where_one_pass_is_too_few():
    vectors = _vectors(200, 194, 1e7)
    expected = np.log(np.abs(np.diagonal(np.linalg.qr(vectors)[1])))
    for exact in (False, True):
        good, (q, logs, cancelled) = quick(vectors, exact)
        assert good
        np.testing.assert_allclose(q.T @ q, np.eye(194), atol=1e-13)
        assert np.all(np.abs(logs - expected) <= 1e-13 * np.asarray(cancelled))


def test_a_run_goes_on_after_a_step_that_needs_more(monkeypatch):
    """A linear map that makes two directions parallel to 1e-9 at one step of 200."""
    steps = []
    looped = _frame_run._looped
    monkeypatch.setattr(_frame_run, "_looped", lambda *args: steps.append(args[-2:]) or looped(*args))
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    # Both triangular in this basis, so that the factors R are what stands here.
    growth = turn @ np.diag([2.0, 1.0, 0.5]) @ turn.T
    squeeze = turn @ np.array([[1.0, 1.0, 0.0], [0.0, 1e-9, 0.0], [0.0, 0.0, 1.0]]) @ turn.T

    def f(x, u):
        return jnp.where(u > 0, squeeze @ x, growth @ x)

    inputs = np.zeros(200)
    inputs[100] = 1.0
    spectrum = lyapunov_spectrum(f, np.full(3, 1e-3), 200, inputs=inputs, frame=turn, qr_every=1)
    expected = np.log([2.0, 1.0, 0.5]) * 199 / 200 + np.log([1.0, 1e-9, 1.0]) / 200
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-8)
    assert [tuple(map(int, pair)) for pair in steps] == [(100, 164)]
