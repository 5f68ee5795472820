"""Parameters of a network: the map they give is the cell with that number changed."""

import equinox as eqx
import jax
import numpy as np
import pytest

import rnndyn as rd


@pytest.fixture
def cell(x64):
    return rd.GRUCell(2, 3, key=jax.random.key(0))


@pytest.fixture
def state(x64):
    return jax.random.normal(jax.random.key(1), (3,))


def test_an_input_moves_along_a_line_or_in_a_plane(cell, state):
    start, end = np.array([0.2, -0.1]), np.array([1.0, 0.5])
    f = rd.input_parameter(cell, start, end - start)
    for p, u in ((0.0, start), (1.0, end), (0.25, 0.75 * start + 0.25 * end)):
        np.testing.assert_allclose(f(state, p), rd.as_map(cell, u)(state), atol=1e-15)
    plane = rd.input_parameter(cell, start, np.eye(2))
    p = np.array([0.3, -0.7])
    np.testing.assert_allclose(plane(state, p), rd.as_map(cell, start + p)(state), atol=1e-15)


def test_one_entry_of_a_leaf_is_the_parameter(cell, state):
    f = rd.leaf_parameter(cell, lambda c: c.weight_hh, np.ones(2), index=(4, 1))
    changed = eqx.tree_at(lambda c: c.weight_hh, cell, cell.weight_hh.at[4, 1].set(0.37))
    np.testing.assert_array_equal(f(state, 0.37), rd.as_map(changed, np.ones(2))(state))
    assert not np.allclose(f(state, 0.37), f(state, 0.38))


def test_a_gain_multiplies_the_recurrent_weights(cell, state):
    f = rd.gain_parameter(cell, np.ones(2))
    changed = eqx.tree_at(lambda c: c.weight_hh, cell, 1.7 * cell.weight_hh)
    np.testing.assert_allclose(f(state, 1.7), rd.as_map(changed, np.ones(2))(state), atol=1e-15)
    both = rd.gain_parameter(cell, where=lambda c: (c.weight_hh, c.bias_n))
    changed = eqx.tree_at(lambda c: (c.weight_hh, c.bias_n), cell, (2 * cell.weight_hh, 2 * cell.bias_n))
    np.testing.assert_allclose(both(state, 2.0), rd.as_map(changed)(state), atol=1e-15)


def test_weights_between_two_checkpoints(cell, state):
    other = rd.GRUCell(2, 3, key=jax.random.key(2))
    f = rd.weight_segment(cell, other, np.ones(2))
    np.testing.assert_allclose(f(state, 0.0), rd.as_map(cell, np.ones(2))(state), atol=1e-15)
    np.testing.assert_allclose(f(state, 1.0), rd.as_map(other, np.ones(2))(state), atol=1e-15)
    middle = jax.tree.map(lambda a, b: (a + b) / 2 if eqx.is_inexact_array(a) else a, cell, other)
    np.testing.assert_allclose(f(state, 0.5), rd.as_map(middle, np.ones(2))(state), atol=1e-15)


def test_a_gain_is_continued_to_the_bifurcation_of_a_cell(x64):
    # Without input and bias the origin is fixed, and loses stability when gain times the spectral radius is 1.
    weights = np.array([[0.5, -0.8], [0.8, 0.5]])
    cell = rd.VanillaCell.from_weights(np.zeros((2, 1)), weights, np.zeros(2))
    branch = rd.continue_fixed_points(rd.gain_parameter(cell), np.zeros(2), 0.5, (0.0, 2.0))
    (event,) = branch.bifurcations
    assert event.kind == "neimark-sacker"
    assert abs(event.parameter - 1 / np.hypot(0.5, 0.8)) < 1e-10


def test_time_constants_are_parameters(x64):
    rng = np.random.default_rng(0)
    w, v, b, x = rng.normal(size=(3, 1)), rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)
    u = np.array([0.4])
    target = np.tanh(w @ u + v @ x + b)
    cell = rd.LeakyCell.from_weights(w, v, b, dt=2.0, tau=10.0)
    euler = lambda alpha: (1 - alpha) * x + alpha * target
    for f, p, alpha in [
        (rd.leaf_parameter(cell, lambda c: c.tau, u), 7.0, 2 / 7),
        (rd.leaf_parameter(cell, lambda c: c.dt, u), 3.0, 3 / 10),
        (rd.leak_parameter(cell, u), 0.37, 0.37),
    ]:
        np.testing.assert_allclose(f(x, p), euler(alpha), rtol=0, atol=1e-15)
    own = rd.LeakyCell.from_weights(w, v, b, dt=2.0, tau=np.array([4.0, 8.0, 16.0]))
    found = rd.leaf_parameter(own, lambda c: c.tau, u, index=1)(x, 5.0)
    np.testing.assert_allclose(found, euler(2 / np.array([4.0, 5.0, 16.0])), rtol=0, atol=1e-15)


def test_the_leak_is_continued_to_the_first_instability():
    """Rotation a: λ = .5 + 1.6i, and 1 + α (λ - 1) leaves the unit circle at α = 2 (1 - .5) / |λ - 1|²."""
    weights = np.array([[0.5, -1.6], [1.6, 0.5]])
    cell = rd.LeakyCell.from_weights(np.zeros((2, 1)), weights, np.zeros(2), dt=0.05, tau=1.0)
    branch = rd.continue_fixed_points(rd.leak_parameter(cell), np.zeros(2), 0.05, (0.05, 1.0))
    (event,) = branch.bifurcations
    assert event.kind == "neimark-sacker"
    assert abs(event.parameter - 2 * 0.5 / (0.5**2 + 1.6**2)) < 1e-10


def test_a_gain_of_a_low_rank_network(x64):
    rng = np.random.default_rng(0)
    left, right, bias, x = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), rng.normal(size=4), rng.normal(size=4)
    cell = rd.LowRankCell.from_weights(np.zeros((4, 1)), left, right, bias)
    found = rd.gain_parameter(cell)(x, 1.3)
    np.testing.assert_allclose(found, np.tanh(1.3 * left @ right.T @ x / 4 + bias), rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="where: what it picks is computed from the weights"):
        rd.gain_parameter(cell, where=lambda c: c.weight_hh)
    with pytest.raises(ValueError, match="cell: expected a leaky cell, with dt and tau, got a LowRankCell"):
        rd.leak_parameter(cell)
    own = rd.LeakyCell.from_weights(np.zeros((2, 1)), np.eye(2), np.zeros(2), tau=np.array([2.0, 3.0]))
    with pytest.raises(ValueError, match="cell: its units have time constants of their own"):
        rd.leak_parameter(own)


def test_bad_parameters_are_named(cell):
    with pytest.raises(ValueError, match="origin"):
        rd.input_parameter(cell, np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="direction"):
        rd.input_parameter(cell, np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="index"):
        rd.leaf_parameter(cell, lambda c: c.bias)
    with pytest.raises(ValueError, match="index"):
        rd.leaf_parameter(cell, lambda c: c.bias, index=99)
    with pytest.raises(ValueError, match="where"):
        rd.gain_parameter(cell, where=lambda c: c.no_such_leaf)
    with pytest.raises(ValueError, match="where"):
        rd.gain_parameter(cell, where=lambda c: c.hidden_size)
    with pytest.raises(ValueError, match="end"):
        rd.weight_segment(cell, rd.GRUCell(2, 4, key=jax.random.key(0)))
