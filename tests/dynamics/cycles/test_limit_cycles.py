import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


class Cubic(eqx.Module):
    """A cubic vector field of the plane. All those of these tests are, so that they share their compilations."""

    coefficients: np.ndarray  # (2, 9), of the monomials in the order below

    def __call__(self, state):
        x, y = state
        return self.coefficients @ jnp.stack([x, y, x**2, x * y, y**2, x**3, x**2 * y, x * y**2, y**3])


DEGREES = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3])


def stuart_landau(omega):
    """dz/dt = (1 + i omega - |z|^2) z: the unit circle, period 2 pi / omega, multiplier exp(-2 T)."""
    return Cubic(np.array([[1, -omega, 0, 0, 0, -1, 0, -1, 0], [omega, 1, 0, 0, 0, 0, -1, 0, -1]], float))


def van_der_pol(mu, length=1.0, rate=1.0):
    """x'' = mu (1 - x^2) x' - x, in units of length and time of one's choice."""
    coefficients = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 0], [-1, mu, 0, 0, 0, 0, -mu, 0, 0]], float)
    return Cubic(rate * coefficients * length ** (1.0 - DEGREES))


def decay(*rates):
    """dx/dt = -a x, dy/dt = -b y."""
    return Cubic(np.pad(-np.diag(np.array(rates)), ((0, 0), (0, 7))))


class Lorenz(eqx.Module):
    rho: np.ndarray
    rate: np.ndarray = eqx.field(default_factory=lambda: np.array(1.0))

    def __call__(self, s):
        x, y, z = s
        return self.rate * jnp.stack([10 * (y - x), x * (self.rho - z) - y, x * y - 8 / 3 * z])


VAN_DER_POL_PERIOD = 6.6632868593  # mu = 1; known to many digits from Lindstedt series and integration


def test_stuart_landau():
    orbit = rd.find_limit_cycle(stuart_landau(2.0), np.array([0.3, 0.0]))
    assert orbit.converged
    # Tolerances of the integration: 1e-12 per step, some hundred steps.
    assert orbit.period == pytest.approx(np.pi, abs=1e-10)
    np.testing.assert_allclose(np.linalg.norm(orbit.points, axis=1), 1, atol=1e-10)
    np.testing.assert_allclose(orbit.multipliers, [np.exp(-2 * np.pi)], rtol=1e-8)
    assert abs(orbit.trivial_multiplier - 1) < 1e-9
    assert orbit.is_stable
    angles = np.unwrap(np.arctan2(orbit.points[:, 1], orbit.points[:, 0]))
    np.testing.assert_allclose(angles - angles[0], 2 * orbit.times, atol=1e-9)


def test_van_der_pol():
    orbit = rd.find_limit_cycle(van_der_pol(1.0), np.array([0.3, 0.0]))
    assert orbit.period == pytest.approx(VAN_DER_POL_PERIOD, abs=2e-10)
    assert abs(orbit.trivial_multiplier - 1) < 1e-9
    # Liouville: the product of the multipliers is exp of the integral of the divergence mu (1 - x^2).
    divergence = np.mean(1 - orbit.points[:, 0] ** 2) * orbit.period
    assert orbit.multipliers[0].real == pytest.approx(np.exp(divergence), rel=1e-8)
    assert "stable" in str(orbit)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "rate"), [(1e4, 1.0), (1.0, 1e-3)])
def test_units_do_not_matter(length, rate):
    field = van_der_pol(1.0, length, rate)
    orbit = rd.find_limit_cycle(field, length * np.array([0.3, 0.0]))
    assert orbit.period * rate == pytest.approx(VAN_DER_POL_PERIOD, abs=1e-9)


@pytest.mark.slow
def test_the_shortest_unstable_orbit_of_lorenz(tmp_path):
    # Viswanath (2003): the orbit that goes once around each wing, T = 1.558652210716175, multiplier 4.7127.
    field = Lorenz(np.array(28.0))
    orbit = rd.find_limit_cycle(field, np.array([1.0, 1.0, 20.0]), period=1.56, duration=40.0, transient=5.0)
    assert orbit.period == pytest.approx(1.558652210716175, abs=1e-9)
    assert orbit.num_unstable == 1
    assert not orbit.is_stable
    # The divergence is constant: the multipliers multiply to exp(-(10 + 1 + 8/3) T).
    product = np.prod(orbit.multipliers) * orbit.trivial_multiplier
    assert product.real == pytest.approx(np.exp(-(11 + 8 / 3) * orbit.period), rel=1e-6)
    again = rd.load(orbit.save(tmp_path / "orbit"))
    np.testing.assert_array_equal(again.points, orbit.points)


def test_no_limit_cycle_is_said_with_a_reason():
    settled = rd.find_limit_cycle(decay(1.0, 2.0), np.array([1.0, 1.0]))
    assert not settled.converged
    assert "equilibrium" in settled.reason
    assert "equilibrium" in str(settled)
    escaping = rd.find_limit_cycle(decay(-1.0, 1.0), np.array([1.0, 1.0]), duration=2000.0)
    assert not escaping.converged
    assert "infinity" in escaping.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": np.zeros((2, 2))}, "x0"),
        ({"period": -1.0}, "period"),
        ({"duration": 0.0}, "duration"),
        ({"transient": -1.0}, "transient"),
        ({"num_segments": 0}, "num_segments"),
        ({"vector_field": lambda x: x[:1]}, "vector_field"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rd.find_limit_cycle(**{"vector_field": stuart_landau(1.0), "x0": np.array([0.3, 0.0]), **arguments})


# --- equilibria


@pytest.mark.parametrize("rate", [1.0, 1e-6, 1e5])
def test_equilibria_of_lorenz(rate):
    field = Lorenz(np.array(28.0), np.array(rate))
    found = rd.find_equilibria(field, 10 * np.random.default_rng(0).standard_normal((32, 3)), progress=False)
    wing = np.sqrt(72.0)
    expected = [[0, 0, 0], [-wing, -wing, 27], [wing, wing, 27]]
    np.testing.assert_allclose(found.points, expected, atol=1e-12)
    np.testing.assert_array_equal(found.num_unstable, [1, 2, 2])
    assert not found.is_stable.any()
    # At the origin: -8/3 and the roots of s^2 + 11 s - 270.
    roots = np.array([(-11 + np.sqrt(1201)) / 2, -8 / 3, (-11 - np.sqrt(1201)) / 2])
    np.testing.assert_allclose(found.eigenvalues[0] / rate, roots, rtol=1e-10)
    assert np.all(found.residuals <= 1e-11 * rate)
    assert "equilibria" in str(found)


def test_stable_equilibria_and_bad_input():
    found = rd.find_equilibria(decay(1.0, 2.0), np.ones((4, 2)), progress=False)
    np.testing.assert_allclose(found.points, [[0, 0]], atol=1e-14)
    assert found.is_stable.all()
    with pytest.raises(ValueError, match="candidates"):
        rd.find_equilibria(decay(1.0, 2.0), np.ones(2))
    with pytest.raises(ValueError, match="vector_field"):
        rd.find_equilibria(lambda x: x[:1], np.ones((4, 2)))
