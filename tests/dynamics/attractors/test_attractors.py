"""Attractors from many initial states, and the sizes of their basins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import programs
from dynamics.maps import Henon
from networks_from_data import flip_flop_vanilla

import rnndyn as rd
from rnndyn.dynamics.attractors import _segments
from rnndyn.dynamics.attractors._search import OrbitSet
from rnndyn.results import repeat_verdict


class Tanh(eqx.Module):
    """x -> tanh(W x + b)."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weights @ x + self.bias)


class Cubic(eqx.Module):
    """x -> a x - x^3, odd: at a = 2.55 it has two chaotic attractors, one of each sign (they merge at 2.598)."""

    a: np.ndarray

    def __call__(self, x):
        return self.a * x - x**3


class Scaled(eqx.Module):
    """Two bistable units, in units of `scale`."""

    scale: np.ndarray

    def __call__(self, x):
        return self.scale * jnp.tanh(1.5 * x / self.scale)


def rng():
    return np.random.default_rng(0)


def find(f, states, **options):
    return rd.find_attractors(f, states, progress=False, **options)


# --- basin fractions in closed form


def test_two_uncoupled_units_share_the_plane():
    found = find(Tanh(1.5 * np.eye(2), np.zeros(2)), rng().uniform(-1, 1, (4000, 2)))
    assert found.kinds == ("fixed point",) * 4
    # Each quadrant is a basin. Five standard errors of 4000 draws.
    np.testing.assert_allclose(found.basin_fractions, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    np.testing.assert_allclose(found.basin_fraction_stderr, np.sqrt(0.25 * 0.75 / 4000), rtol=0.05)
    assert found.undecided_fraction == found.unbounded_fraction == 0
    points = np.array([a.points[0] for a in found.attractors])
    # The positive solution of x = tanh(1.5 x).
    np.testing.assert_allclose(np.abs(points), 0.8585596366401104, atol=1e-9)
    assert len(np.unique(np.sign(points), axis=0)) == 4


@pytest.mark.parametrize(
    ("w", "b", "upper"),
    # (1 - x_u) / 2 with the unstable fixed point x_u of x = tanh(w x + b), from a bisection to 1e-14.
    [(2.0, 0.1, 0.5501693907452088), (3.0, -0.5, 0.37359955502011954), (1.5, 0.05, 0.5503423110416263)],
)
def test_a_scalar_unit_splits_at_its_unstable_point(w, b, upper):
    num = 2001
    states = np.linspace(-1, 1, num)[:, None]
    found = find(Tanh(np.array([[w]]), np.array([b])), states)
    high = int(np.argmax([a.points[0, 0] for a in found.attractors]))
    # A grid of 2001 points: the edge falls between two of them.
    assert found.basin_fractions[high] == pytest.approx(upper, abs=1.5 / num)
    assert np.all(np.diff(states[found.labels == high, 0]) > 0)
    assert found.undecided_fraction == 0


def test_states_on_a_saddle_belong_to_no_attractor():
    states = np.array([[0.0, 0.0], [0.0, 0.3], [0.2, 0.3], [-0.2, 0.3]])
    found = find(Tanh(1.5 * np.eye(2), np.zeros(2)), states)
    np.testing.assert_array_equal(found.undecided.rows, [0, 1])
    assert all("unstable" in reason for reason in found.undecided.reasons)
    assert len(found) == 2
    np.testing.assert_array_equal(found.labels[:2], -1)


# --- other kinds of attractors


@pytest.fixture(scope="module")
def henon():
    side = np.linspace(-2, 2, 100)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    return find(Henon(np.array(1.4)), grid), grid


def test_thousands_of_states_on_a_saddle_are_all_told_why():
    # (x, y) -> (2 x, y / 2): what starts with x = 0 comes to the saddle and stays. More states than the search tries.
    saddle = lambda s: jnp.stack([2 * s[0], s[1] / 2])
    states = np.stack([np.zeros(2000), np.linspace(-1, 1, 2000)], axis=1)
    undecided = find(saddle, states, max_map_steps=2048, escape_radius=10.0).undecided
    assert len(undecided.rows) == 2000
    assert np.all(undecided.result == rd.AttractorVerdict.unstable)
    assert set(undecided.reasons) == {"near a fixed point that is unstable (|mu| = 2)"}


def test_the_bounded_states_of_the_henon_map(henon):
    found, _ = henon
    assert found.kinds == ("chaotic",)
    # 0.4261 on this grid of 100 x 100, ends included (reference computation; Attractors.jl tests 0.425 +- 0.015).
    assert found.basin_fractions[0] == pytest.approx(0.4261, abs=2e-4)
    assert found.unbounded_fraction == pytest.approx(1 - 0.4261, abs=2e-4)
    # lambda_1 = 0.41922 (Sprott 2003).
    attractor = found.attractors[0]
    assert abs(attractor.exponents[0] - 0.41922) < 5 * attractor.exponents_stderr[0]


def test_coexisting_attractors_of_different_kinds():
    """One unit of two states and a rotor: a fixed point in one half, a circle in the other.

    (x, y, z): z is bistable; for z > 0 the plane (x, y) turns on a circle, for z < 0 it contracts to 0.
    """
    angle = 2 * np.pi * (np.sqrt(5) - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def f(x):
        z = jnp.tanh(2 * x[2])
        gain = 0.8 + 0.3 * (1 + z)  # 0.8 + 0.3 (1 +- 0.9575): 1.387 and 0.813
        return jnp.concatenate([jnp.tanh(gain * (turn @ x[:2])), z[None]])

    states = rng().uniform(-1, 1, (600, 3))
    found = find(f, states)
    assert sorted(found.kinds) == ["fixed point", "invariant circle"]
    circle = found.kinds.index("invariant circle")
    np.testing.assert_array_equal(found.labels == circle, states[:, 2] > 0)


def test_two_chaotic_attractors_are_told_apart():
    states = np.linspace(-1.5, 1.5, 302)[:, None]
    found = find(Cubic(np.array(2.55)), states)
    assert found.kinds == ("chaotic", "chaotic")
    assert found.undecided_fraction == 0
    for index, attractor in enumerate(found.attractors):
        assert np.all(np.sign(found.final_states[found.labels == index]) == np.sign(attractor.points[0, 0]))
    # The map is odd and the grid symmetric.
    assert found.num_states[0] == found.num_states[1]


# --- networks


def test_a_flip_flop_network_stores_its_memories_in_cycles():
    cell, _ = flip_flop_vanilla()
    found = find(rd.as_map(cell), rng().uniform(-1, 1, (500, 16)))
    assert [a.label for a in found.attractors] == ["cycle of period 2"] * 8
    assert found.basin_fractions.sum() == 1
    assert max(a.residual for a in found.attractors) < 1e-14


def test_five_hundred_units():
    """A Hopfield network of two orthogonal patterns: the attractors are the patterns and their negatives."""
    size = 500
    patterns = np.ones((2, size))
    patterns[1, ::2] = -1
    f = Tanh(2 * patterns.T @ patterns / size, np.zeros(size))
    near = np.concatenate([patterns, -patterns])[rng().integers(4, size=40)]
    found = find(f, near + 0.3 * rng().normal(size=near.shape))
    assert found.kinds == ("fixed point",) * 4
    # On a pattern each unit obeys m = tanh(2 m).
    for attractor in found.attractors:
        np.testing.assert_allclose(np.abs(attractor.points), 0.9575040240772687, atol=1e-12)


# --- how it works


def test_every_batch_shares_one_compilation():
    f = Henon(np.array(0.3))
    find(f, rng().uniform(-0.5, 0.5, (64, 2)))
    before = programs(_segments._run_lanes)
    find(Henon(np.array(0.8)), rng().uniform(-0.2, 0.2, (64, 2)))
    assert before
    assert programs(_segments._run_lanes) <= before


def test_scaling_every_state_changes_nothing():
    states = rng().uniform(-1, 1, (100, 2))
    counts = []
    for scale in (1e-4, 1.0, 1e4):
        found = find(Scaled(np.array(scale)), scale * states)
        counts.append(found.num_states.tolist())
    assert counts[0] == counts[1] == counts[2]


def test_a_line_of_neutral_points_is_no_attractor():
    found = find(lambda x: x * jnp.array([1.0, 0.5]), rng().uniform(-1, 1, (20, 2)))
    assert len(found) == 0
    assert found.undecided_fraction == 1
    assert all("marginal" in reason for reason in found.undecided.reasons)


def test_membership_is_told_by_the_states_themselves():
    with jax.enable_x64(True):
        known = OrbitSet(Cubic(np.array(2.55)), np.array([0.5]))
    inside = known.sample[:320].reshape(10, 32, 1)
    assert known.holds(inside).all()
    assert not known.holds(-inside).any()


def test_the_interval_of_wilson_covers():
    """Among 400 draws of 50 states each, the 90 % interval holds the true fraction about 360 times."""
    truth, num, draws = 0.1, 50, 400
    labels = (rng().uniform(size=(draws, num)) < truth).astype(int)
    nothing = rd.UndecidedStates(np.zeros(0, int), np.zeros((0, 1)), repeat_verdict(rd.AttractorVerdict.torus, 0), ())
    point = rd.classify_attractor(lambda x: 0.5 * x, np.ones(1))
    hits = 0
    for row in labels:
        found = rd.Attractors((point, point), row, np.zeros((num, 1)), nothing)
        low, high = found.confidence_interval(0.9)
        hits += low[1] <= truth <= high[1]
    # Four standard errors of 400 draws, and the discreteness of 50 states.
    assert 330 <= hits <= 392


def test_saved_and_printed(henon, tmp_path):
    found, _ = henon
    again = rd.load(found.save(tmp_path / "found"))
    assert isinstance(again, rd.Attractors)
    assert str(again) == str(found)
    assert "chaotic" in str(found)


def test_bad_input():
    f = Tanh(np.eye(2), np.zeros(2))
    with pytest.raises(ValueError, match="initial_states: expected states of shape"):
        find(f, np.zeros(2))
    with pytest.raises(ValueError, match="initial_states: expected at least one"):
        find(f, np.zeros((0, 2)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        find(f, np.array([[np.nan, 0.0]]))
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        find(lambda x: x[:1], np.zeros((1, 2)))
    with pytest.raises(ValueError, match="max_map_steps"):
        find(f, np.zeros((1, 2)), max_map_steps=10)
    with pytest.raises(ValueError, match="max_period: expected at most 1024"):
        find(f, np.zeros((1, 2)), max_period=5000)
    with pytest.raises(ValueError, match="escape_radius"):
        find(f, np.zeros((1, 2)), escape_radius=-1.0)
