"""The closed-form Jacobian of every cell against autodiff."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, jitted

import rnndyn as rd

IN, H = 3, 5
TAU = np.array([1.0, 2.0, 5.0, 10.0, 3.0])


def squashed(a):
    return a / (1 + a**2)


CELLS = {
    **{
        f"vanilla {name}": lambda key, name=name: rd.VanillaCell(IN, H, activation=name, key=key)
        for name in ("tanh", "relu", "sigmoid", "identity", "softplus")
    },
    "vanilla callable": lambda key: rd.VanillaCell(IN, H, activation=squashed, key=key),
    "leaky rate": lambda key: rd.LeakyCell(IN, H, key=key),
    "leaky current": lambda key: rd.LeakyCell(IN, H, activation="sigmoid", state_variable="current", key=key),
    "low rank": lambda key: rd.LowRankCell(IN, H, rank=2, key=key),
    "lstm": lambda key: rd.LSTMCell(IN, H, key=key),
    "gru after": lambda key: rd.GRUCell(IN, H, key=key),
    "gru before": lambda key: rd.GRUCell(IN, H, reset="before", key=key),
    "chaos free": lambda key: rd.ChaosFreeCell(IN, H, key=key),
    "piecewise linear": lambda key: rd.PiecewiseLinearCell(IN, H, key=key),
    "almost linear": lambda key: rd.PiecewiseLinearCell(IN, H, num_rectified=2, key=key),
    "shallow": lambda key: rd.PiecewiseLinearCell(IN, H, num_hidden=7, key=key),
}


def compare(cell):
    """Closed form and autodiff at four states and inputs of the cell."""
    rng = np.random.default_rng(2)
    g = rd.as_driven_map(cell)
    points, inputs = 1.5 * rng.normal(size=(4, g.state_size)), rng.normal(size=(4, IN))

    def both(cell, x, u):
        g = rd.as_driven_map(cell)
        return rd.step_jacobian(cell, g.unflatten(x), u), jax.jacfwd(g)(x, u)

    return jitted(jax.vmap(both, in_axes=(None, 0, 0)), cell, points, inputs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_the_formula_is_the_derivative(name):
    found, expected = compare(fill(CELLS[name]))
    # Products and sums of tens of numbers of order one, each rounded to 1e-16.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.abs(expected).max() > 0.05


@pytest.mark.usefixtures("x64")
def test_time_constants_of_each_unit():
    cell = fill(lambda key: rd.LeakyCell(IN, H, tau=jnp.asarray(TAU), key=key))
    cell = eqx.tree_at(lambda c: c.tau, cell, jnp.asarray(TAU))
    found, expected = compare(cell)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_cell_of_equinox():
    cell = fill(lambda key: eqx.nn.GRUCell(IN, H, key=key))
    found, expected = compare(cell)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_product_of_the_factors_is_the_derivative_over_many_steps(x64):
    cell = fill(CELLS["lstm"])
    g = rd.as_driven_map(cell)
    inputs = np.random.default_rng(0).normal(size=(6, IN))

    @jax.jit
    def both(x0):
        states = jnp.concatenate([x0[None], rd.trajectory(g, x0, 6, inputs)])
        factors = jax.vmap(lambda x, u: rd.step_jacobian(cell, g.unflatten(x), u))(states[:-1], inputs)
        product = jnp.linalg.multi_dot(list(factors[::-1]))
        return product, jax.jacfwd(lambda x: rd.trajectory(g, x, 6, inputs)[-1])(x0)

    product, expected = both(jnp.linspace(-1, 1, 2 * H))
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-12)


def test_what_is_refused():
    cell = fill(CELLS["vanilla tanh"])
    with pytest.raises(ValueError, match=r"input: expected shape \(3,\)"):
        rd.step_jacobian(cell, jnp.zeros(H), jnp.zeros(IN + 1))
    with pytest.raises(ValueError, match=r"state: expected shape \(5,\)"):
        rd.step_jacobian(cell, jnp.zeros(H + 1), jnp.zeros(IN))


@pytest.mark.usefixtures("x64")
def test_cells_without_a_formula():
    layer = fill(CELLS["vanilla tanh"])
    x, u = np.linspace(-0.5, 0.5, H), np.ones(IN)
    np.testing.assert_allclose(
        rd.step_jacobian(rd.StackedCell([layer]), (x,), u), rd.step_jacobian(layer, x, u), rtol=0, atol=1e-14
    )
    found = rd.step_jacobian(lambda state, input: state**2 + input[0] * state[::-1], x, u)
    np.testing.assert_allclose(found, np.diag(2 * x) + np.eye(H)[::-1], rtol=0, atol=1e-14)
