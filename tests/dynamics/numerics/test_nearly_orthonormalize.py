"""One pass of Cholesky QR: single factors are off, their product is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.numerics.frames import nearly_orthonormalize, orthonormalize


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def test_the_product_of_its_factors_is_exact():
    rng = np.random.default_rng(0)
    size = 5
    # Singular values over five decades: one pass leaves a frame that is visibly not orthonormal.
    matrices = [
        np.linalg.qr(rng.standard_normal((size, size)))[0]
        @ np.diag(10.0 ** -np.linspace(0, 5, size))
        @ np.linalg.qr(rng.standard_normal((size, size)))[0]
        for _ in range(6)
    ]
    frame, total, worst = jnp.eye(size), np.zeros(size), 0.0
    for t, matrix in enumerate(matrices):
        decompose = orthonormalize if t == len(matrices) - 1 else nearly_orthonormalize
        frame, logs, _ = decompose(matrix @ frame)
        total += np.asarray(logs)
        worst = max(worst, float(jnp.max(jnp.abs(frame.T @ frame - jnp.eye(size)))))
    q, expected = np.eye(size), np.zeros(size)
    for matrix in matrices:
        q, r = np.linalg.qr(matrix @ q)
        expected += np.log(np.abs(np.diagonal(r)))
    assert 1e-9 < worst < 1e-3
    # Each factor is known to eps times its condition of up to 1e5 (squared it would be 2e-6).
    np.testing.assert_allclose(total, expected, atol=1e-9)
    np.testing.assert_allclose(np.asarray(frame).T @ np.asarray(frame), np.eye(size), atol=1e-14)


def test_what_one_pass_cannot_do_goes_to_the_exact_one():
    rng = np.random.default_rng(1)
    # Columns parallel to 1e-9: the Gram matrix is singular to rounding.
    nearly = rng.standard_normal((6, 1)) + 1e-9 * rng.standard_normal((6, 3))
    zero = np.concatenate([rng.standard_normal((6, 2)), np.zeros((6, 1))], axis=1)
    for vectors in (jnp.asarray(nearly), jnp.asarray(zero)):
        for found, expected in zip(nearly_orthonormalize(vectors), orthonormalize(vectors)):
            np.testing.assert_array_equal(found, expected)


def test_its_derivative_is_that_of_the_decomposition():
    rng = np.random.default_rng(2)
    vectors, change = rng.standard_normal((2, 4, 3))
    logs = lambda v: np.log(np.abs(np.diagonal(np.linalg.qr(v)[1])))
    slope = jax.jvp(lambda v: nearly_orthonormalize(v)[1], (jnp.asarray(vectors),), (jnp.asarray(change),))[1]
    step = 1e-5  # central differences: an error of step^2 and of rounding / step, both 1e-10 or so
    expected = (logs(vectors + step * change) - logs(vectors - step * change)) / (2 * step)
    np.testing.assert_allclose(slope, expected, atol=1e-7)
