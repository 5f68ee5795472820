"""Verdicts that named the wrong set, or gave a reason that did not fit."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd

GOLDEN = (np.sqrt(5) - 1) / 2


class FourCircles(eqx.Module):
    """A rotor that locks to a cycle of period 4, and a circle that turns by rho and is carried along by it.

    The unit circle of the second pair, moved by the state of the first, turns by 4 rho every four steps, exactly. The
    state is shown in an orthonormal basis of any length.
    """

    rho: np.ndarray
    basis: np.ndarray

    def __call__(self, state):
        u, v = self.basis.T[:2] @ state, self.basis.T[2:] @ state
        x, y = v - 0.4 * u
        u = jnp.tanh(1.1 * jnp.stack([-u[1], u[0]]))
        growth = 1 + 0.2 * (1 - x**2 - y**2)
        cosine, sine = jnp.cos(2 * jnp.pi * self.rho), jnp.sin(2 * jnp.pi * self.rho)
        v = growth * jnp.stack([cosine * x - sine * y, sine * x + cosine * y]) + 0.4 * u
        return self.basis @ jnp.concatenate([u, v])


@pytest.mark.parametrize("size", [4, 20])
def test_circles_visited_in_turn_are_counted(size):
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((size, 4)))[0]
    verdict = rd.classify_attractor(FourCircles(np.array(GOLDEN / 7), basis), basis @ [0.4, 0.1, 1.2, 0.3])
    assert verdict.kind == "invariant circle"
    assert verdict.num_circles == 4
    turns = 4 * GOLDEN / 7 % 1
    # Solved for: to rounding. By the spectrum alone, for long states: a line is known to 1e-9.
    assert verdict.rotation_number == pytest.approx(min(turns, 1 - turns), abs=1e-10 if size == 4 else 1e-8)
    assert verdict.label.startswith("4 circles visited in turn")
    assert "not solved" not in verdict.reason
    if size == 4:
        # The curve is that of one circle: radius 1 about 0.4 u, u on the cycle of the rotor.
        centre = verdict.circle.mean
        assert verdict.circle.rms_radius == pytest.approx(1, abs=1e-9)
        u, v = basis.T[:2] @ centre, basis.T[2:] @ centre
        np.testing.assert_allclose(v, 0.4 * u, atol=1e-9)


class StandardMap(eqx.Module):
    """Chirikov's standard map, angle and momentum in turns: its determinant is 1."""

    k: np.ndarray

    def __call__(self, state):
        momentum = state[1] + self.k / (2 * jnp.pi) * jnp.sin(2 * jnp.pi * state[0])
        return jnp.mod(jnp.stack([state[0] + momentum, momentum]), 1.0)


@pytest.mark.parametrize("k", [5.0, 6.9])
def test_area_preserving_chaos_is_no_attractor(k):
    verdict = rd.classify_attractor(StandardMap(np.array(k)), np.array([0.3, 0.2]), max_map_steps=2**15)
    assert verdict.kind == "chaotic"
    assert not verdict.is_attractor
    assert abs(verdict.volume_rate) < 1e-12
    assert "not an attractor" in verdict.reason
    # Chirikov's estimate ln(K / 2), right to a few per cent at large K.
    assert verdict.exponents[0] == pytest.approx(np.log(k / 2), rel=0.1)
    assert "volume kept" in verdict.label


def test_dissipative_chaos_is_an_attractor():
    verdict = rd.classify_attractor(Henon(), np.array([0.1, 0.1]), max_map_steps=2**15)
    assert verdict.is_attractor
    assert verdict.volume_rate == pytest.approx(np.log(0.3), abs=1e-12)
    # An expanding map of the interval folds what it stretches: volume grows, and the interval attracts.
    assert rd.classify_attractor(Logistic(), np.array([0.3]), max_map_steps=2**15).is_attractor


def test_quasi_periodic_motion_is_not_argued_from_rounding():
    torus = rd.classify_attractor(StandardMap(np.array(0.5)), np.array([0.1, 0.38]), max_map_steps=2**14)
    assert torus.kind == "undecided"
    assert "positive" not in torus.reason
    assert "keeps volume" in torus.reason


class TwoRotors(eqx.Module):
    """Two independent turning circles: a torus with both exponents along it exactly zero."""

    def __call__(self, state):
        def turn(v, rho):
            growth = 1 + 0.2 * (1 - v @ v)
            cosine, sine = np.cos(2 * np.pi * rho), np.sin(2 * np.pi * rho)
            return growth * jnp.stack([cosine * v[0] - sine * v[1], sine * v[0] + cosine * v[1]])

        return jnp.concatenate([turn(state[:2], GOLDEN), turn(state[2:], np.sqrt(2) / 5)])


def test_a_torus_is_not_argued_from_an_exponent_at_rounding_level():
    verdict = rd.classify_attractor(TwoRotors(), np.array([0.4, 0.1, 0.3, 0.2]), max_map_steps=2**14)
    assert verdict.kind == "undecided"
    assert "a torus of more frequencies" in verdict.reason
    # Nothing is known better than the logarithm of one growth factor.
    assert np.all(verdict.exponents_stderr >= 16 * np.finfo(float).eps)


def predator_prey(x):
    prey, predator = x[0], x[1]
    eaten = prey * predator / (prey + 1)
    return jnp.stack([0.8 * prey * (1 - prey / 15) - 2.5 * eaten, 1.25 * eaten - 0.4 * predator])


@pytest.mark.slow
def test_a_time_map_sees_a_limit_cycle_of_the_flow_and_no_cycle():
    """Period and multiplier: SciPy's DOP853 at 1e-13 in logarithmic variables, returns to a section."""
    verdict = rd.classify_attractor(rd.time_map(predator_prey, 0.5), np.array([1.0, 0.5]), max_map_steps=2**14)
    assert verdict.kind == "invariant circle"
    assert "limit cycle of the flow" in verdict.reason
    assert verdict.limit_cycle.period == pytest.approx(83.58265995, abs=1e-6)
    assert verdict.rotation_number == pytest.approx(0.5 / 83.58265995, rel=1e-8)
    assert verdict.exponents[0] == 0
    assert verdict.exponents[1] == pytest.approx(np.log(1.6708e-7) * 0.5 / 83.58265995, rel=1e-4)
    assert verdict.is_attractor


def test_what_cannot_be_judged_says_so():
    f = lambda x: 0.5 * x
    for bad in (np.array([np.inf]), np.array([np.nan])):
        with pytest.raises(ValueError, match="x0"):
            rd.classify_attractor(f, bad)
    with pytest.raises(ValueError, match="x0"):
        rd.classify_attractor(f, np.zeros(0))
    # NaN at the first step: the orbit has left, and that is what is said; a constant map is a fixed point.
    assert rd.classify_attractor(lambda x: x * jnp.nan, np.ones(1)).kind == "unbounded"
    constant = rd.classify_attractor(lambda x: 0 * x + 2.0, np.ones(1))
    assert (constant.kind, constant.points[0, 0], constant.exponents[0]) == ("fixed point", 2.0, -np.inf)
