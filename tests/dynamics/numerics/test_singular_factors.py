"""Products and cyclic systems of singular matrices: dead units, zero columns, nilpotent steps."""

import jax
import numpy as np
import pytest

from rnndyn.dynamics.cycles.shooting import eliminate_cyclic, solve_cyclic
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues

pytestmark = pytest.mark.newest

RNG = np.random.default_rng(0)

# Diagonals of three triangular factors: zeros at other places in each, so that every product on the way has another
# null space, and the non-zero eigenvalues of the turn span four decades.
DIAGONALS = {
    "a zero column first": [[0.0, 2, 3, 1e-3], [1, 0.5, 2, 5], [2, 7, 1, 1e-2]],
    "other dead units at every step": [[0.0, 2, 3, 4], [1, 0, 2, 5], [2, 7, 1, 0.5]],
    "rank one": [[0.0, 0, 3, 0], [1, 0.5, 2, 5], [2, 7, 1, 1e-2]],
    "nilpotent": [[0.0, 2, 0, 1], [1, 0, 2, 0], [2, 7, 1, 1e-2]],
}


def triangular(diagonal):
    # Couplings that are small beside the entries, so that turning the bases costs the small eigenvalues no digits.
    return np.diag(diagonal) + 1e-2 * np.triu(RNG.integers(-2, 3, (4, 4)), 1)


@pytest.mark.parametrize("name", DIAGONALS)
@pytest.mark.parametrize("turned", [False, True])
def test_eigenvalues_of_a_product_of_singular_matrices(name, turned):
    factors = np.stack([triangular(d) for d in DIAGONALS[name]])
    if turned:
        bases = [np.linalg.qr(RNG.standard_normal((4, 4)))[0] for _ in factors]
        factors = np.stack([bases[(i + 1) % 3] @ a @ bases[i].T for i, a in enumerate(factors)])
    exact = np.prod(DIAGONALS[name], axis=0)
    exact = exact[np.argsort(-abs(exact))]
    found = product_eigenvalues(factors)
    size = np.prod(np.linalg.norm(factors, axis=(1, 2)))
    alive = exact != 0
    np.testing.assert_allclose(found[alive], exact[alive], rtol=1e-9)
    # Zero to rounding of the product; where it comes twice and has one eigenvector, to the square root of that, ...
    num = np.sum(~alive)
    assert np.max(abs(found[~alive]), initial=0) <= 10 * size * (np.finfo(float).eps / 2) ** (1 / max(num, 1))


def cyclic_matrix(jacobians):
    """The dense matrix of s_{i+1} - J_i s_i = b_i."""
    period, size, _ = jacobians.shape
    dense = np.zeros((period, size, period, size))
    for i, jacobian in enumerate(jacobians):
        dense[i, :, i] -= jacobian
        dense[i, :, (i + 1) % period] += np.eye(size)
    return dense.reshape(period * size, period * size)


@pytest.mark.usefixtures("x64")
def test_cyclic_systems_of_singular_matrices():
    period, size = 7, 3
    dead = RNG.standard_normal((period, size, size))
    dead[:, :, 0] = 0
    cases = [
        np.zeros((period, size, size)),
        dead,
        dead[:, :, ::-1],
        np.broadcast_to(np.eye(size, k=1), dead.shape),
        # Growth by 1e8 and dead units in turn.
        np.stack([np.diag([1e8, 0, 1]) if i % 2 else np.diag([0, 1e8, 0.5]) for i in range(period)]),
        # Nothing from the third step on: its row of the elimination has rank 0 below.
        np.stack([np.zeros((size, size)) if i == 3 else 50 * dead[i] for i in range(period)]),
    ]
    rhs = RNG.standard_normal((period, size))
    for solve in (eliminate_cyclic, solve_cyclic):
        compiled = jax.jit(solve)
        for jacobians in cases:
            matrix = cyclic_matrix(jacobians)
            expected = np.linalg.solve(matrix, rhs.ravel()).reshape(rhs.shape)
            found = compiled(np.asarray(jacobians), rhs, 0.0)
            # Residuals to rounding, errors to rounding times the condition.
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=1e-14 * np.linalg.cond(matrix) * abs(expected).max()
            )
