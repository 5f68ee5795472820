import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon

import rnndyn as rd


class Parabola(eqx.Module):
    """(x, y) -> (a x, b y + (a^2 - b) x^2): y = x^2 is invariant, and so is x = 0."""

    a: np.ndarray
    b: np.ndarray

    def __call__(self, state):
        x, y = state
        return jnp.stack([self.a * x, self.b * y + (self.a**2 - self.b) * x**2])


BOX = (-1.0, -1.0), (1.0, 1.0)


def manifolds(f, point=(0.0, 0.0), **options):
    return rd.find_saddle_manifolds(f, np.array(point), *BOX, **options)


@pytest.mark.parametrize("a", [1.7, -1.7])
def test_unstable_manifold_in_closed_form(a):
    found = manifolds(Parabola(np.array(a), np.array(0.4)))
    reached = []
    for branch in found.unstable:
        # The first stretch lies on the tangent, off the parabola by at most the square of its end, 8e-4.
        np.testing.assert_allclose(branch[:, 1], branch[:, 0] ** 2, atol=1e-6)
        assert np.max(np.abs(np.diff(branch, axis=0))) < 0.03
        reached.append(branch[-1, 0])
    assert sorted(np.round(reached, 1)) == [-1.0, 1.0]
    assert found.message.tolist() == [["left the box"] * 2] * 2
    for branch in found.stable:
        np.testing.assert_allclose(branch[:, 0], 0, atol=1e-9)
        assert np.abs(branch[-1, 1]) > 0.9


@pytest.mark.parametrize("a", [0.5, -0.5])
def test_stable_manifold_in_closed_form(a):
    found = manifolds(Parabola(np.array(a), np.array(1.6)))
    assert np.abs(found.multipliers).tolist() == [0.5, 1.6]
    for branch in found.stable:
        np.testing.assert_allclose(branch[:, 1], branch[:, 0] ** 2, atol=1e-6)
        assert np.abs(branch[-1, 0]) > 0.9


def test_manifolds_of_the_henon_saddle():
    f = Henon()
    saddle = np.array([0.6313544770895048, 0.6313544770895048 * 0.3])
    found = rd.find_saddle_manifolds(f, saddle, (-1.5, -1.5), (1.5, 1.5), num_images=12)
    np.testing.assert_allclose(found.multipliers, [0.15594632, -1.92373886], rtol=1e-7)
    # The attractor is the closure of the unstable manifold.
    orbit = np.asarray(rd.trajectory(f, np.array([0.1, 0.1]), 300, num_transient=100))
    curve = np.concatenate(found.unstable)
    distances = np.min(np.linalg.norm(orbit[:, None] - curve, axis=2), axis=1)
    assert np.max(distances) < 0.02
    # On the stable manifold the distance from the saddle falls by the contracting multiplier.
    for branch in found.stable:
        image = branch[len(branch) // 2]
        for _ in range(6):
            image = np.asarray(f(jnp.asarray(image)))
        assert np.linalg.norm(image - saddle) < 1e-3
    assert "multipliers 0.1559 and -1.924" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point": np.array([0.5, 0.0])}, "moves it"),
        ({"point": np.array([2.0, 0.0])}, "inside the box"),
        ({"f": Parabola(np.array(0.5), np.array(0.4))}, "expected a saddle"),
        ({"resolution": 2.0}, "resolution"),
    ],
)
def test_bad_input_is_named(arguments, message):
    defaults = {"f": Parabola(np.array(1.7), np.array(0.4)), "point": np.zeros(2), "lower": BOX[0], "upper": BOX[1]}
    with pytest.raises(ValueError, match=message):
        rd.find_saddle_manifolds(**{**defaults, **arguments})
