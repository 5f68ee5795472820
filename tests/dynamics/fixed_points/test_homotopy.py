"""Paths from constant maps to fixed points that must exist, and candidates that need not be run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import rnndyn as rd
from rnndyn.dynamics.fixed_points._homotopy import follow_path
from rnndyn.dynamics.fixed_points.verdicts import PathVerdict


class Bistable(eqx.Module):
    """x -> tanh(g x + b) on [-1, 1], N times over."""

    gain: float = 3.0
    bias: float = 0.1
    size: int = eqx.field(default=1, static=True)

    @property
    def region(self):
        return -jnp.ones(self.size), jnp.ones(self.size)

    def __call__(self, x):
        return jnp.tanh(self.gain * x + self.bias)


class Jump(eqx.Module):
    """A map of [-1, 1] into itself without a fixed point: it is not continuous."""

    @property
    def region(self):
        return -jnp.ones(1), jnp.ones(1)

    def __call__(self, x):
        return jnp.where(x > 0.1, -0.5, 0.6) + 0.1 * x


def bistable_roots():
    """Of one unit: between the places where the slope of the map is 1."""
    g = lambda x: np.tanh(3 * x + 0.1) - x
    return [brentq(g, *pair, xtol=1e-15) for pair in ((-1, -0.2), (-0.2, 0.2), (0.2, 1))]


def gru(size, gain, seed=0):
    """A GRU without input and bias, and the same in NumPy."""
    weight = gain * np.random.default_rng(seed).standard_normal((3 * size, size)) / np.sqrt(size)
    zeros = np.zeros(3 * size)

    def plain(x):
        r, z, n = np.split(weight @ x, 3)
        r, z = 1 / (1 + np.exp(-r)), 1 / (1 + np.exp(-z))
        return (1 - z) * np.tanh(r * n) + z * x

    return rd.as_map(rd.GRUCell.from_weights(np.zeros((3 * size, 1)), weight, zeros, np.zeros(size))), plain


def test_a_path_goes_through_folds_to_a_root():
    f = Bistable()
    roots = [
        brentq(lambda x: np.tanh(3 * x + 0.1) - x, *span, xtol=1e-15) for span in ((-1, -0.5), (-0.2, 0), (0.5, 1))
    ]
    # From 0.9 the curve s = (x - a) / (F(x) - a) goes straight to the upper root.
    found = rd.find_fixed_points(f, np.array([[0.9]]), num_paths=3, max_rounds=1, progress=False)
    assert found.paths.arrived.all()
    assert found.paths.starts.shape == (3, 1)
    # float64, and a condition of the roots below 10
    nearest = [min(abs(x[0] - root) for root in roots) for x in found.points]
    assert max(nearest) < 1e-14
    assert "3 paths" in str(found)


@pytest.mark.filterwarnings("ignore:The indices")
def test_a_chaotic_gru_without_bias_has_a_fixed_point():
    f, plain = gru(128, 3.0)
    starts = np.random.default_rng(1).uniform(-1, 1, (8, 128))
    found = rd.find_fixed_points(f, starts, max_steps=8, max_rounds=1, num_paths=2, progress=False)
    assert found.paths.arrived.all()
    # The path from the middle of the box stays there: the state 0, by symmetry. That of a candidate ends elsewhere.
    assert len(found) >= 2
    assert np.min(np.max(np.abs(found.points), axis=1)) < 1e-14
    for x in found.points:
        np.testing.assert_allclose(plain(x), x, atol=1e-12)  # rounding of sums of 128 terms


@pytest.mark.filterwarnings("ignore:The indices")
def test_where_a_box_is_mapped_into_itself_the_result_is_not_empty():
    # A single step of Newton's method gets nowhere; Brouwer says that there is a point.
    f, plain = gru(20, 3.0, seed=2)
    start = np.random.default_rng(3).uniform(-1, 1, (1, 20))
    assert len(rd.find_fixed_points(f, start, max_steps=1, max_rounds=1, num_paths=0, progress=False)) == 0
    found = rd.find_fixed_points(f, start, max_steps=1, max_rounds=1, progress=False)
    assert len(found) >= 1
    assert found.paths.num_new.sum() >= 1
    np.testing.assert_allclose(plain(found.points[0]), found.points[0], atol=1e-13)


def test_from_a_fixed_point_down_a_path_leads_to_its_partner_or_to_the_constant_map():
    # The middle root is one end of the arc that the lower one lies on; the curve from a = 0 leads to the upper one.
    f, a = Bistable(), np.zeros(1)
    lower, middle, upper = bistable_roots()
    down = lambda root: follow_path(f, a, scale=1.0, max_steps=400, root=np.array([root]))
    with jax.enable_x64(True):
        ends = {root: down(root) for root in (lower, middle, upper)}
    # A chord crosses s = 1 with the error of a step: the search polishes it.
    np.testing.assert_allclose(ends[lower].points, [[middle]], atol=0.05)
    np.testing.assert_allclose(ends[middle].points, [[lower]], atol=0.05)
    assert len(ends[upper].points) == 0
    assert PathVerdict[ends[upper].verdict] == PathVerdict[PathVerdict.constant]


def test_partners_of_points_are_found_where_no_candidate_goes():
    # x = tanh((3 m + .1) xi) with m = xi x / N: three points, as of one unit. The candidates are next to the outer two.
    xi = np.random.default_rng(5).choice([-1.0, 1.0], 20)
    cell = rd.VanillaCell.from_weights(np.zeros((20, 1)), 3.0 / 20 * np.outer(xi, xi), 0.1 * xi)
    lower, middle, upper = bistable_roots()
    starts = np.repeat([lower * xi, upper * xi], 20, axis=0)
    found = rd.find_fixed_points(rd.as_map(cell), starts, max_rounds=1, progress=False)
    # float64, and a condition of the roots below 10
    np.testing.assert_allclose(np.sort(found.points @ xi / 20), [lower, middle, upper], atol=1e-14)
    assert found.num_hits[np.argmin(np.abs(found.points @ xi / 20 - middle))] == 0
    assert found.paths.num_new.sum() == 1
    assert found.num_candidates + found.num_spared == 40


def test_rounds_that_run_out_while_they_find_points_are_told():
    starts = np.array([[-0.99], [0.99]])
    cut = rd.find_fixed_points(Bistable(), starts, max_rounds=2, progress=False)
    assert cut.still_finding
    assert "rounds ran out" in str(cut)
    whole = rd.find_fixed_points(Bistable(), starts, max_rounds=3, progress=False)
    assert not whole.still_finding
    assert len(whole) == len(cut) == 3


def test_a_jump_leaves_a_path_lost():
    with pytest.warns(match="The indices"):
        found = rd.find_fixed_points(Jump(), np.array([[0.3]]), progress=False)
    assert len(found) == 0
    assert not found.paths.arrived.any()
    assert len(found.paths) > 1


def test_candidates_that_would_find_nothing_new_are_not_run():
    # A product of 20 contractions: one point, that of the scalar equation in every coordinate.
    f = Bistable(gain=0.5, size=20)
    root = brentq(lambda x: np.tanh(0.5 * x + 0.1) - x, 0, 1, xtol=1e-15)
    starts = np.random.default_rng(4).uniform(-1, 1, (700, 20))
    found = rd.find_fixed_points(f, starts, max_rounds=1, progress=False)
    np.testing.assert_allclose(found.points, np.full((1, 20), root), atol=1e-15)
    assert found.num_candidates + found.num_spared == 700
    assert found.num_spared > 600
    assert found.may_be_complete
    every = rd.find_fixed_points(f, starts, max_rounds=1, all_candidates=True, progress=False)
    assert every.num_candidates == 700
    assert every.num_spared == 0
    assert every.num_hits.tolist() == [700]


def test_paths_do_not_go_round_angles():
    with pytest.raises(ValueError, match="num_paths"):
        rd.find_fixed_points(rd.on_torus(lambda x: x + 0.1, 1.0), np.array([[0.2]]), num_paths=1, progress=False)
