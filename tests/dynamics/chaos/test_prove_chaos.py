"""Horseshoes of maps of known entropy, refusals where nothing is chaotic, and a checker that finds what is wrong."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd
from rnndyn.dynamics.chaos._h_sets import HSet, images
from rnndyn.dynamics.chaos.covering import covering
from rnndyn.dynamics.proofs.krawczyk import interval_precision


class Affine(eqx.Module):
    """x' = A x + b."""

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, x):
        return jnp.asarray(self.matrix) @ x + jnp.asarray(self.shift)


class Tanh(eqx.Module):
    """x' = tanh(W x + b)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return jnp.tanh(jnp.asarray(self.weight) @ x + jnp.asarray(self.bias))


def henon_orbit(a=1.4, b=0.3, num_steps=3000):
    x, y, orbit = 0.1, 0.1, []
    for _ in range(num_steps + 500):
        x, y = 1 - a * x * x + y, b * x
        orbit.append((x, y))
    return np.array(orbit[500:])


def logistic_orbit(r, num_steps=3000):
    x, orbit = 0.3, []
    for _ in range(num_steps + 500):
        x = r * x * (1 - x)
        orbit.append((x,))
    return np.array(orbit[500:])


@pytest.fixture(scope="module")
def henon():
    return rd.prove_chaos(Henon(), henon_orbit(), max_loops=1)


def test_a_linear_map_covers_by_what_its_matrix_says():
    stretch = Affine(np.diag([3.0, 0.25]), np.array([0.5, -0.25]))
    with interval_precision():
        unit = HSet(np.zeros(2), np.eye(2))
        found = covering(images(stretch, unit, 1), unit, 1)
    # The faces go to 3.5 and -2.5, the rest to [-0.5, 0].
    assert found.expansion == pytest.approx(2.5, abs=1e-12)
    assert found.contraction == pytest.approx(0.5, abs=1e-12)
    assert found.holds


@pytest.mark.parametrize("num_pieces", [1, 4])
def test_bounds_of_a_covering_hold_for_every_point_that_is_tried(num_pieces):
    rng = np.random.default_rng(0)
    source = HSet(np.array([0.63, 0.19]), np.array([[0.1, 0.02], [-0.01, 0.05]]))
    target = HSet(np.array([0.6, 0.2]), np.array([[0.15, 0.01], [0.02, 0.1]]))
    with interval_precision():
        found = covering(images(Henon(), source, 1, num_pieces), target, 1)
    p, q = rng.uniform(-1, 1, (2, 2000))
    p[:400] = np.sign(p[:400])
    x, y = source.center[:, None] + source.axes @ np.stack([p, q])
    image = np.stack([1 - 1.4 * x * x + y, 0.3 * x])
    z = np.linalg.solve(target.axes, image - target.center[:, None])
    assert np.abs(z[1]).max() <= found.contraction
    assert np.abs(z[0, :400]).min() >= found.expansion


def test_henons_map_has_a_horseshoe_and_no_more_entropy_than_is_known(henon):
    assert henon.proved
    # 0.4651: D'Alessandro, Grassberger, Isola & Politi (1990), On the topology of the Henon map.
    assert 0.1 < henon.entropy_bound < 0.4651
    assert np.all(henon.expansions > 1)
    assert np.all(henon.contractions < 1)


def test_the_logistic_map_has_at_most_log_two():
    proof = rd.prove_chaos(Logistic(3.9), logistic_orbit(3.9), max_loops=1)
    assert proof.proved
    assert 0.1 < proof.entropy_bound < np.log(2)
    # The exponent of the fixed point, which lies in the horseshoe, is log 1.9.
    assert 0.0 < proof.exponent_bound < np.log(1.9)


class CoupledLogistic(eqx.Module):
    """Two logistic maps (r = 3.9) that share a little of their values."""

    shared: float

    def __call__(self, z):
        x, y = 3.9 * z * (1 - z)
        return jnp.stack([(1 - self.shared) * x + self.shared * y, (1 - self.shared) * y + self.shared * x])


def test_two_unstable_directions():
    # Orbits of equal values are those of one map; the fixed point 1 - 1 / 3.9 repels in both directions.
    orbit = np.repeat(logistic_orbit(3.9), 2, axis=1)
    proof = rd.prove_chaos(CoupledLogistic(0.02), orbit, max_loops=1, max_period=1)
    assert proof.proved
    assert proof.num_unstable == 2
    np.testing.assert_allclose(proof.saddle, np.full((1, 2), 1 - 1 / 3.9), atol=1e-9)
    # A map of degree two in each of two variables has at most the entropy 2 log 2.
    assert 0.1 < proof.entropy_bound < 2 * np.log(2)


class CoupledHenon(eqx.Module):
    """Two of Henon's maps (x, y, v, w) whose first variables share a little of their values."""

    shared: float

    def __call__(self, z):
        x, y, v, w = z
        a, b = 1 - 1.4 * x * x + y, 1 - 1.4 * v * v + w
        share = self.shared
        return jnp.stack([(1 - share) * a + share * b, 0.3 * x, (1 - share) * b + share * a, 0.3 * v])


@pytest.mark.slow
def test_two_unstable_directions_and_two_stable_ones():
    proof = rd.prove_chaos(CoupledHenon(0.02), np.tile(henon_orbit(), 2), max_loops=1, max_period=1)
    assert proof.proved
    assert proof.num_unstable == 2
    # On the diagonal lies Henon's map: its fixed point twice.
    x = (-0.7 + np.sqrt(0.7**2 + 4 * 1.4)) / 2.8
    np.testing.assert_allclose(proof.saddle, [[x, 0.3 * x, x, 0.3 * x]], atol=1e-9)
    assert proof.entropy_bound > 0.1


@pytest.mark.parametrize("a", [0.2, 1.0, pytest.param(1.3, marks=pytest.mark.slow)])  # a point, periods 4 and 7
def test_what_is_periodic_is_refused(a):
    proof = rd.prove_chaos(Henon(a=a), henon_orbit(a))
    assert not proof.proved
    assert proof.entropy_bound == 0.0
    assert proof.reason.startswith("not proved")


def test_a_proof_is_saved_and_read_again(henon, tmp_path):
    again = rd.load(henon.save(tmp_path / "proof"))
    assert again.entropy_bound == henon.entropy_bound
    assert again.proved
    assert str(again) == str(henon)


@pytest.mark.parametrize("states", [np.zeros((20, 2, 1)), np.full((20, 2), np.nan), np.zeros((3, 2))])
def test_bad_states_are_named(states):
    with pytest.raises(ValueError, match="states"):
        rd.prove_chaos(Henon(), states)
