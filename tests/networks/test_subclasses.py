"""A subclass of a known cell has a step of its own, and nothing that is known of its parent is taken over."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd

IN, H, T = 2, 3, 5


class Half(eqx.nn.GRUCell):
    def __call__(self, input, hidden, *, key=None):
        return 0.5 * super().__call__(input, hidden)


class Forgetful(eqx.nn.LSTMCell):
    def __call__(self, input, hidden, *, key=None):
        h, c = super().__call__(input, hidden)
        return h, 0.5 * c


class Wide(rd.VanillaCell):
    """Leaves the box [-1, 1] that holds its parent."""

    def __call__(self, state, input):
        return 3 * super().__call__(state, input)


class Bent(rd.PiecewiseLinearCell):
    def __call__(self, state, input):
        return jnp.tanh(super().__call__(state, input))


class Renamed(rd.VanillaCell):
    def initial_state(self):
        return jnp.ones(self.hidden_size)

    def describe(self):
        return "the same map"


@pytest.mark.parametrize("kind", [Half, Forgetful])
def test_an_equinox_subclass_runs_by_its_own_step(kind, x64):
    cell, inputs = fill(lambda key: kind(IN, H, key=key)), normal(T, IN)
    states = rd.unroll(cell, inputs)
    state = (jnp.zeros(H), jnp.zeros(H)) if kind is Forgetful else jnp.zeros(H)
    f = rd.as_map(cell, inputs[0])
    for t, input in enumerate(inputs):
        before, state = state, cell(input, state)
        for leaf, expected in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(leaf[t], expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(f(f.flatten(before)), f.flatten(cell(inputs[0], before)))
    assert f.region is None
    model = rd.RNN(cell, lambda h: h)
    np.testing.assert_allclose(model(inputs)[-1], jax.tree.leaves(state)[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize(("kind", "known"), [(Wide, rd.VanillaCell), (Bent, rd.PiecewiseLinearCell), (Half, None)])
def test_its_jacobian_is_its_own(kind, known, x64):
    cell = fill(lambda key: kind(IN, H, key=key))
    x, u = np.array([0.3, -0.2, 0.5]), np.array([0.4, 0.1])
    step = (lambda x: cell(u, x)) if known is None else (lambda x: cell(x, u))
    expected = np.stack([(step(x + 1e-6 * e) - step(x - 1e-6 * e)) / 2e-6 for e in np.eye(H)], axis=1)
    # Central differences of a smooth function of order one: 1e-12 of the third derivative, 1e-10 of rounding.
    np.testing.assert_allclose(rd.step_jacobian(cell, x, u), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rd.linearize(rd.as_map(cell, u), x).jacobian, expected, rtol=0, atol=1e-9)


def test_what_a_parent_promises_does_not_hold_for_another_step(x64):
    wide = Wide.from_weights(np.zeros((1, 0)), np.array([[0.0]]), np.array([2.0]))
    assert rd.as_map(wide).region is None
    point = rd.find_fixed_points(rd.as_map(wide), np.zeros((4, 1)), progress=False).points
    np.testing.assert_allclose(point, [[3 * np.tanh(2.0)]], rtol=1e-15)  # outside of the parent's box
    stacked = rd.StackedCell([wide, fill(lambda key: rd.GRUCell(1, 2, key=key))])
    assert stacked.state_bounds(jnp.zeros(0)) is None
    renamed = fill(lambda key: Renamed(IN, H, key=key))
    np.testing.assert_array_equal(rd.as_map(renamed).region, [[-1] * H, [1] * H])  # nothing of the map has changed


def test_linear_regions_are_of_the_parent_alone(x64):
    weights = np.array([0.5]), np.zeros((1, 1)), np.array([2.0])
    bent = Bent.from_weights(*weights)
    assert not hasattr(bent, "relu_form")
    with pytest.raises(ValueError, match="cell: expected a piecewise-linear cell"):
        rd.enumerate_cycles(bent, None, 2)
    x = 0.0
    for _ in range(100):
        x = np.tanh(0.5 * x + 2)
    points = rd.find_fixed_points(rd.as_map(bent), np.zeros((4, 1)), progress=False).points
    np.testing.assert_allclose(points, [[x]], rtol=1e-15)  # the parent's is 4
    assert hasattr(rd.PiecewiseLinearCell.from_weights(*weights), "relu_form")
