"""The boxes that cells promise never to leave."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd

IN, H = 2, 6
BOUNDED = {
    "tanh": lambda key: rd.VanillaCell(IN, H, key=key),
    "sigmoid": lambda key: rd.VanillaCell(IN, H, activation="sigmoid", key=key),
    "leaky rate": lambda key: rd.LeakyCell(IN, H, tau=3.0, key=key),
    "leaky current": lambda key: rd.LeakyCell(IN, H, tau=3.0, state_variable="current", key=key),
    "leaky current sigmoid": lambda key: rd.LeakyCell(
        IN, H, tau=3.0, state_variable="current", activation="sigmoid", key=key
    ),
    "low rank": lambda key: rd.LowRankCell(IN, H, rank=2, key=key),
    "lstm": lambda key: rd.LSTMCell(IN, H, key=key),
    "gru": lambda key: rd.GRUCell(IN, H, key=key),
    "gru before": lambda key: rd.GRUCell(IN, H, reset="before", key=key),
    "chaos free": lambda key: rd.ChaosFreeCell(IN, H, key=key),
    "leaky low rank": lambda key: rd.LeakyLowRankCell(IN, H, rank=2, tau=3.0, key=key),
    "projected lstm": lambda key: rd.ProjectedLSTMCell(IN, H, 2, key=key),
    "layer norm lstm": lambda key: rd.LayerNormLSTMCell(IN, H, key=key),
    "layer norm gru": lambda key: rd.LayerNormGRUCell(IN, H, key=key),
    "adaptation": lambda key: rd.AdaptationCell(IN, H, strength=2.0, tau=3.0, tau_adaptation=5.0, key=key),
    "plasticity": lambda key: rd.ShortTermPlasticityCell(IN, H, activation="sigmoid", tau=20.0, key=key),
    "stacked": lambda key: rd.StackedCell(
        [
            rd.LSTMCell(IN, H, key=key),
            rd.ChaosFreeCell(H, H, key=key),
            rd.LeakyCell(H, H, tau=2.0, state_variable="current", key=key),
        ]
    ),
}
# A convex combination of two numbers inside a box may leave it by a rounding or two.
ROUNDING = 1 + 4 * np.finfo(np.float64).eps


@pytest.fixture(params=BOUNDED)
def cell(request, x64):
    return fill(BOUNDED[request.param])


def sample(bounds, rng, num, corners):
    """States inside the bounds, on its corners or uniformly."""

    def draw(lower, upper):
        t = rng.integers(0, 2, (num, len(lower))) if corners else rng.uniform(size=(num, len(lower)))
        return jnp.asarray(lower + t * (upper - lower))

    return jax.tree.map(draw, *bounds)


def assert_inside(states, bounds):
    for state, lower, upper in zip(*map(jax.tree.leaves, (states, *bounds)), strict=True):
        scale = np.maximum(np.abs(lower), np.abs(upper))
        assert np.all(state >= np.asarray(lower) - (ROUNDING - 1) * scale)
        assert np.all(state <= np.asarray(upper) + (ROUNDING - 1) * scale)


@pytest.mark.parametrize("corners", [True, False])
def test_the_box_is_mapped_into_itself(cell, corners):
    rng = np.random.default_rng(1)
    step = eqx.filter_jit(eqx.filter_vmap(lambda c, s, x: c(s, x), in_axes=(None, 0, None)))
    for input in rng.normal(scale=2, size=(3, IN)):
        bounds = cell.state_bounds(jnp.asarray(input))
        states = sample(bounds, rng, 2000, corners)
        for _ in range(3):
            states = step(cell, states, jnp.asarray(input))
            assert_inside(states, bounds)


def test_far_states_come_into_the_box(cell):
    """Every cycle lies in the box, so every orbit from outside must end there.

    Twice the box is far enough: gates that saturate further out make the way back exponentially long.
    """
    rng = np.random.default_rng(2)
    input = jnp.asarray(rng.normal(size=IN))
    bounds = cell.state_bounds(input)
    state = jax.tree.map(lambda s: jnp.asarray(rng.normal(scale=2, size=s.shape)), cell.initial_state())
    states = rd.unroll(cell, input, state, num_steps=4000)
    assert_inside(jax.tree.map(lambda s: s[-1], states), bounds)


def test_a_pair_of_inputs_bounds_a_driven_cell(cell):
    rng = np.random.default_rng(3)
    lower, upper = -jnp.ones(IN), 2 * jnp.ones(IN)
    bounds = cell.state_bounds((lower, upper))
    inputs = jnp.asarray(rng.choice([-1.0, 2.0], size=(300, IN)))
    states = rd.unroll(cell, inputs, jax.tree.map(lambda s: s[0], sample(bounds, rng, 1, True)))
    assert_inside(states, bounds)
    held = cell.state_bounds(lower)
    for a, b in zip(jax.tree.leaves(held[1]), jax.tree.leaves(bounds[1]), strict=True):
        assert np.all(a <= b)


def test_bounds_jit_and_vmap(cell):
    inputs = normal(5, IN)
    batched = eqx.filter_jit(eqx.filter_vmap(lambda c, x: c.state_bounds(x), in_axes=(None, 0)))(cell, inputs)
    one = cell.state_bounds(inputs[3])
    for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(one), strict=True):
        # Sums in another order.
        np.testing.assert_allclose(a[3], b, rtol=1e-12)


def test_values_that_can_be_derived_by_hand(x64):
    """LSTM of one unit without recurrence: c* = σ(b_i) tanh(b_g) / (1 - σ(b_f)) is the fixed point and the bound."""
    b_i, b_f, b_g = 0.3, 1.7, 0.8
    cell = rd.LSTMCell.from_weights(np.zeros((4, 0)), np.zeros((4, 1)), np.array([b_i, b_f, b_g, 0.1]))
    (_, c_lower), (h_upper, c_upper) = cell.state_bounds(jnp.zeros(0))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    expected = sigmoid(b_i) * np.tanh(b_g) / (1 - sigmoid(b_f))
    # The bound is widened by 16 roundings.
    np.testing.assert_allclose([c_upper[0], -c_lower[0]], expected, rtol=1e-14)
    assert c_upper[0] >= expected
    np.testing.assert_array_equal(h_upper, 1)
    np.testing.assert_allclose(rd.unroll(cell, None, num_steps=400)[1][-1], expected, rtol=1e-13)


def test_a_saturated_forget_gate_keeps_a_finite_bound():
    """In float32 σ(40) is exactly one, and 1 - σ(40) would be zero."""
    cell = rd.LSTMCell.from_weights(np.zeros((4, 0)), np.zeros((4, 1)), np.array([0.0, 40.0, 1.0, 0.0]))
    (_, _), (_, c_upper) = cell.state_bounds(jnp.zeros(0))
    np.testing.assert_allclose(c_upper, 0.5 * np.tanh(1) * np.exp(40.0), rtol=1e-4)  # float32 of exp(40)


@pytest.mark.parametrize("activation", ["relu", "identity", "softplus", jnp.tanh])
def test_unbounded_and_unknown_activations_have_no_box(activation):
    for kind in (rd.VanillaCell, rd.LeakyCell, rd.LowRankCell):
        cell = fill(lambda key, kind=kind: kind(IN, H, activation=activation, key=key))
        assert cell.state_bounds(jnp.zeros(IN)) is None
    stacked = fill(
        lambda key: rd.StackedCell([rd.GRUCell(IN, H, key=key), rd.VanillaCell(H, H, activation=activation, key=key)])
    )
    assert stacked.state_bounds(jnp.zeros(IN)) is None
    assert fill(lambda key: rd.PiecewiseLinearCell(IN, H, key=key)).state_bounds(jnp.zeros(IN)) is None
