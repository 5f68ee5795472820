import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")

WEIGHT = 0.5 * np.random.default_rng(2).standard_normal((4, 4))


def solve(weight, offset):
    return rd.implicit_fixed_point(lambda x: jnp.tanh(weight @ x + offset), jnp.zeros(4))


def test_the_derivative_is_that_of_the_implicit_function_theorem():
    offset = jnp.full(4, 0.3)
    x = solve(WEIGHT, offset)
    np.testing.assert_allclose(x, np.tanh(WEIGHT @ x + 0.3), atol=1e-15)
    slope = 1 - np.asarray(x) ** 2
    expected = np.linalg.solve(np.eye(4) - slope[:, None] * WEIGHT, np.diag(slope))
    for jacobian in (jax.jacrev, jax.jacfwd):
        found = jax.jit(jacobian(lambda b: solve(WEIGHT, b)))(offset)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_central_differences_agree():
    loss = jax.jit(lambda w: jnp.sum(solve(w, 0.3) ** 2))
    gradient = jax.jit(jax.grad(loss))(jnp.asarray(WEIGHT))
    step = 1e-5
    for i, j in ((0, 1), (2, 3), (3, 3)):
        bump = np.zeros((4, 4))
        bump[i, j] = step
        difference = loss(WEIGHT + bump) - loss(WEIGHT - bump)
        # A central difference with h = 1e-5 has an error of about h^2 and of eps / h.
        np.testing.assert_allclose(gradient[i, j], difference / (2 * step), rtol=1e-6)


def test_through_a_cell_and_in_a_batch():
    cell = fill(lambda key: rd.GRUCell(1, 3, key=key))
    loss = eqx.filter_jit(lambda cell, u: jnp.sum(rd.implicit_fixed_point(rd.as_map(cell, u), jnp.zeros(3)) ** 2))
    inputs = np.linspace(-1, 1, 3)[:, None]
    gradients = eqx.filter_jit(jax.vmap(jax.grad(lambda u: loss(cell, u))))(inputs)
    assert gradients.shape == (3, 1)
    step = 1e-5
    difference = (loss(cell, inputs[0] + step) - loss(cell, inputs[0] - step)) / (2 * step)
    np.testing.assert_allclose(gradients[0, 0], difference, rtol=1e-6)
    assert np.isfinite(eqx.filter_jit(eqx.filter_grad(loss))(cell, inputs[0]).weight_hh).all()


def test_no_solution_is_nan_in_value_and_derivative():
    shifted = lambda a: rd.implicit_fixed_point(lambda x: x + a + x**2, jnp.array([0.5]))[0]
    assert np.isnan(shifted(1.0))
    # x^2 + a = 0 at a = -0.25: x = 0.5, dx/da = -1 / (2 x) = -1.
    np.testing.assert_allclose(jax.grad(shifted)(-0.25), -1, rtol=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match="x0"):
        rd.implicit_fixed_point(lambda x: x, np.zeros((2, 2)))
