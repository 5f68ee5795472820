import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

RNG = np.random.default_rng(0)


class Drift(eqx.Module):
    """x -> M x + offset: linear, with a slow mode whose direction, time constant and drift are known."""

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, x):
        return self.matrix @ x + self.offset


def with_modes(moduli, offset=0.0):
    """A linear map with orthogonal modes of given multipliers, and a push along the first."""
    axes, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((len(moduli), len(moduli))))
    return Drift(axes @ np.diag(moduli) @ axes.T, offset * axes[:, 0]), axes


def test_the_ghost_of_a_fold_is_found_with_its_speed():
    # F(x) - x = e + x^2 is smallest at 0, where it is e.
    slow = rd.find_slow_points(lambda x: x + 1e-3 + x**2, np.linspace(-1, 1, 64)[:, None])
    assert len(slow) == 1
    np.testing.assert_allclose(slow.speeds, [1e-3], rtol=1e-9)
    # A minimum of the speed is known to the square root of rounding.
    np.testing.assert_allclose(slow.points, [[0.0]], atol=1e-6)
    assert slow.num_hits.sum() == 64
    assert slow.num_fixed == 0


def test_fixed_points_are_not_slow_points():
    slow = rd.find_slow_points(lambda x: jnp.tanh(2 * x), np.linspace(-1, 1, 64)[:, None])
    # Minima of |tanh 2x - x| other than its zeros: none, since its extrema are maxima of the modulus.
    assert len(slow) == 0
    assert slow.num_fixed > 0


def test_a_line_attractor_is_described():
    f, axes = with_modes([0.999, 0.5, -0.3, 0.1])
    slow = rd.find_slow_points(f, RNG.uniform(-1, 1, (128, 4)))
    line = slow.manifold
    assert line.dimension == 1
    assert (line.num_slow == 1).all()
    np.testing.assert_allclose(line.time_constants, -1 / np.log(0.999), rtol=1e-9)
    # Off the line the relaxed points are at rest: one Newton step of a linear map, and its rounding.
    assert np.abs((line.points @ axes)[:, 1:]).max() < 1e-12
    np.testing.assert_allclose(np.abs(line.modes[:, :, 0] @ axes[:, 0]), 1, atol=1e-9)
    np.testing.assert_allclose(np.abs(line.selection[:, 0] @ axes[:, 0]), 1, atol=1e-9)
    # The drift along the line is (1 - mu) times the distance from the fixed point.
    np.testing.assert_allclose(line.drift, 1e-3 * np.abs(line.points @ axes[:, 0]), rtol=1e-6)
    assert line.variance_fractions[0] > 1 - 1e-9
    assert "dimension 1" in str(slow)


def test_relaxation_keeps_the_place_along_the_line():
    f, axes = with_modes([0.999, 0.5, -0.3, 0.1])
    starts = np.outer(np.linspace(-1, 1, 64), axes[:, 0]) + 0.1 * axes[:, 1]
    line = rd.find_slow_points(f, starts, num_samples=64).manifold
    np.testing.assert_allclose(np.sort(line.points @ axes[:, 0]), np.linspace(-1, 1, 64), atol=1e-12)


def test_a_plane_attractor_has_two_dimensions_and_a_rotation_none():
    plane, _ = with_modes([0.998, 0.999, 0.4, 0.1])
    assert rd.find_slow_points(plane, RNG.uniform(-1, 1, (128, 4))).manifold.dimension == 2
    # Modulus 0.999 but turning by 1 rad per step: not at rest, so not slow.
    turn = 0.999 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    spiral = Drift(np.block([[turn, np.zeros((2, 2))], [np.zeros((2, 2)), 0.1 * np.eye(2)]]), np.zeros(4))
    slow = rd.find_slow_points(spiral, RNG.uniform(-1, 1, (128, 4)))
    assert slow.manifold.dimension == 0
    assert "no slow manifold" in str(slow)


def test_round_trip(tmp_path):
    f, _ = with_modes([0.999, 0.5, -0.3, 0.1])
    slow = rd.find_slow_points(f, RNG.uniform(-1, 1, (128, 4)))
    assert str(rd.load(slow.save(tmp_path / "slow"))) == str(slow)


def test_bad_input():
    with pytest.raises(ValueError, match="slow_time: expected more than 1"):
        rd.find_slow_points(lambda x: x, np.zeros((2, 2)), slow_time=1.0)
    with pytest.raises(ValueError, match="candidates: 1 of 2 states hold NaN"):
        rd.find_slow_points(lambda x: x, np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        rd.find_slow_points(lambda x: x[:1], np.zeros((2, 2)))
