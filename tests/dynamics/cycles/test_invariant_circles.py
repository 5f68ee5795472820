import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon

import rnndyn as rd
from rnndyn.dynamics.cycles._circle_newton import derivative, resampled, shifted
from rnndyn.dynamics.numerics.birkhoff import bump_weights, fourier_averages, leading_frequencies

GOLDEN = (np.sqrt(5) - 1) / 2


class TurningCircle(eqx.Module):
    r"""z -> e^{2 pi i rho} z (1 + c (1 - |z|^2)), seen through the shear (x, y) -> (x, y + s x^2).

    The unit circle turns by exactly rho, its normal multiplier is 1 - 2 c, and the shear gives the curve
    (cos, sin + s cos^2): harmonics 0, 1 and 2 only.
    """

    rho: np.ndarray
    contraction: np.ndarray
    shear: np.ndarray

    def __call__(self, state):
        x, y = state[0], state[1] - self.shear * state[0] ** 2
        growth = 1 + self.contraction * (1 - x**2 - y**2)
        cosine, sine = jnp.cos(2 * jnp.pi * self.rho), jnp.sin(2 * jnp.pi * self.rho)
        x, y = growth * (cosine * x - sine * y), growth * (sine * x + cosine * y)
        return jnp.stack([x, y + self.shear * x**2])


class Rotor(eqx.Module):
    """x -> tanh(W x)."""

    weights: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weights @ x)


class DelayedLogistic(eqx.Module):
    """(x, y) -> (a x (1 - y), x): Neimark-Sacker bifurcation at a = 2."""

    a: np.ndarray

    def __call__(self, x):
        return jnp.stack([self.a * x[0] * (1 - x[1]), x[0]])


def turning_circle(rho, contraction=0.1, shear=0.4):
    return TurningCircle(np.array(rho), np.array(contraction), np.array(shear))


def rotor(angle, gain):
    cosine, sine = np.cos(angle), np.sin(angle)
    return Rotor(gain * np.array([[cosine, -sine], [sine, cosine]]))


START = np.array([0.1, 0.0])


def find(f, x0=START, **options):
    return rd.find_invariant_circle(f, x0, progress=False, **options)


# --- the tools


def test_weighted_averages_converge_faster_than_any_power():
    weights = bump_weights(2000)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    # The mean of exp(cos) over the circle is the Bessel function I_0(1).
    orbit = np.exp(np.cos(2 * np.pi * GOLDEN * np.arange(2000)))
    assert weights @ orbit == pytest.approx(1.2660658777520084, abs=1e-13)
    # Plain averages are off by 1 / T: the test can tell.
    assert abs(orbit.mean() - 1.2660658777520084) > 1e-6


def test_amplitudes_and_frequencies_of_a_known_signal():
    steps, rho = np.arange(4096), 0.2137
    signal = (2 * np.cos(2 * np.pi * rho * steps) + 0.3 * np.sin(4 * np.pi * rho * steps))[:, None]
    np.testing.assert_allclose(fourier_averages(signal, np.array([rho, 2 * rho]))[:, 0], [1, -0.15j], atol=1e-12)
    # A maximum is located to the square root of rounding, in units of the width 1 / T of the line.
    np.testing.assert_allclose(leading_frequencies(signal, 2), [rho, 2 * rho], atol=1e-9)


@pytest.mark.parametrize("num", [15, 16])
def test_trigonometric_interpolation(num):
    theta = np.arange(num) / num
    wave = lambda t: np.stack([np.cos(2 * np.pi * t) + 0.5 * np.sin(6 * np.pi * t), np.cos(4 * np.pi * t)], axis=-1)
    slope = np.stack([-np.sin(2 * np.pi * theta) + 1.5 * np.cos(6 * np.pi * theta), -2 * np.sin(4 * np.pi * theta)], -1)
    np.testing.assert_allclose(shifted(wave(theta), 0.123), wave(theta + 0.123), atol=1e-13)
    np.testing.assert_allclose(derivative(wave(theta)), 2 * np.pi * slope, atol=1e-12)
    np.testing.assert_allclose(resampled(wave(theta), 2 * num), wave(np.arange(2 * num) / (2 * num)), atol=1e-13)


# --- closed forms


@pytest.mark.parametrize("rho", [GOLDEN / 4, 1 - GOLDEN, GOLDEN])
@pytest.mark.parametrize("contraction", [0.01, 0.3])
def test_a_circle_in_closed_form(rho, contraction):
    circle = find(turning_circle(rho, contraction))
    assert circle.kind == "invariant circle"
    # Turning by more than a half is turning the other way.
    assert circle.rotation_number == pytest.approx(min(rho, 1 - rho), abs=1e-12)
    assert circle.residual < 1e-11
    # Weighted averages over 4096 steps of a smooth function of the angle are good to rounding; so is the curve, 1e-12.
    np.testing.assert_allclose(circle.multipliers, [1 - 2 * contraction], rtol=1e-11)
    assert abs(circle.tangential_exponent) < 1e-12
    assert circle.is_stable
    # |c_k| of (cos, sin + s cos^2): the phase of theta is free.
    sizes = np.abs(circle.coefficients[:4])
    np.testing.assert_allclose(sizes, [[0, 0.2], [0.5, 0.5], [0, 0.1], [0, 0]], atol=1e-10)
    x, y = circle.curve(np.linspace(0, 1, 100)).T
    np.testing.assert_allclose(x**2 + (y - 0.4 * x**2) ** 2, 1, atol=1e-10)


def test_the_curve_is_invariant():
    f = turning_circle(GOLDEN / 3)
    circle = find(f)
    theta = np.linspace(0, 1, 37)
    images = np.stack([np.asarray(f(x)) for x in circle.curve(theta)])
    # The map was called in float32 here.
    np.testing.assert_allclose(images, circle.curve(theta + circle.rotation_number), atol=2e-6)
    assert circle.curve(0.3).shape == (2,)
    assert circle.rms_radius == pytest.approx(
        np.sqrt(np.mean(np.sum((circle.curve(theta[:-1]) - circle.mean) ** 2, 1)))
    )


# --- networks: tanh(g R(theta) x), Neimark-Sacker bifurcation at g = 1 with radius 2 sqrt((g - 1) / g^3).


@pytest.mark.parametrize(
    ("angle", "gain", "radius", "rotation"),
    [
        (1.9416110387254666, 1.0005, 0.04470087342937646, 0.3090169872941754),
        (1.9416110387254666, 1.01, 0.19818651174703722, 0.3090141062927429),
        (1.0, 1.002, 0.08927908888900972, 0.15915499083661735),
        (2.0, 1.01, 0.19818625727596434, 0.31830761453125705),
        (0.3, 1.01, 0.19818702380617062, 0.047742634809451574),
    ],
)
def test_circles_of_two_units(angle, gain, radius, rotation):
    circle = find(rotor(angle, gain))
    assert circle.converged
    # The references are measured on orbits by an independent program, to about 1e-8.
    assert circle.rms_radius == pytest.approx(radius, abs=3e-8)
    assert circle.rotation_number == pytest.approx(rotation, abs=3e-8)
    assert circle.residual < 1e-10
    # Normal form: the radial multiplier is 1 - 2 (g - 1) + O((g - 1)^2).
    np.testing.assert_allclose(circle.multipliers, [1 - 2 * (gain - 1)], atol=4 * (gain - 1) ** 2)


def test_the_radius_follows_the_normal_form():
    for gain in (1.0005, 1.002):
        # The next order is a fraction g - 1 of it.
        assert find(rotor(1.0, gain)).rms_radius == pytest.approx(2 * np.sqrt((gain - 1) / gain**3), rel=gain - 1)


def test_near_a_resonance_the_harmonics_are_told_apart():
    # Five turns are one but for 2e-5: 4096 steps cover five arcs of the circle only.
    circle = find(rotor(2 * np.pi / 5, 1.01))
    assert circle.converged
    assert circle.rotation_number == pytest.approx(0.20000362108257475, abs=3e-8)
    assert circle.rms_radius == pytest.approx(0.1981868839768678, abs=3e-8)


def test_modes_are_added_where_the_curve_needs_them():
    round_one, angular = find(rotor(2.0, 1.01)), find(rotor(2.0, 2.0))
    assert angular.converged
    assert len(angular.coefficients) > 2 * len(round_one.coefficients)
    few = find(rotor(2.0, 2.0), max_modes=16)
    assert few.kind == "none"
    assert "max_modes" in few.reason


def test_a_circle_in_many_dimensions():
    rng = np.random.default_rng(0)
    plane, _ = np.linalg.qr(rng.standard_normal((12, 2)))
    weights = plane @ rotor(0.7, 1.6).weights @ plane.T + 0.3 * rng.standard_normal((12, 12)) / np.sqrt(12)
    circle = find(Rotor(weights), 0.1 * rng.standard_normal(12))
    assert circle.converged
    assert circle.is_stable
    assert circle.multipliers.shape == (11,)
    # Identity: all exponents together are the mean of log |det DF| along the circle.
    points = circle.curve(circle.rotation_number * np.arange(4000))
    weight = bump_weights(4000)
    logs = [np.linalg.slogdet((1 - np.tanh(weights @ x) ** 2)[:, None] * weights)[1] for x in points]
    assert np.sum(np.log(circle.multipliers)) == pytest.approx(float(weight @ np.array(logs)), rel=1e-6)


# --- what is no circle


def test_a_unit_that_forgets_at_once_has_multiplier_zero():
    f = rotor(1.0, 1.1)
    circle = find(lambda x: jnp.append(f(x[:2]), 0.25), np.append(START, 0.1))
    np.testing.assert_allclose(circle.multipliers[0], find(f).multipliers[0], rtol=1e-9)  # the same curve, twice solved
    assert circle.multipliers[1] == 0


def test_phase_locking_is_recognised():
    locked = find(DelayedLogistic(np.array(2.2)), np.array([0.4, 0.45]))
    assert locked.kind == "cycle"
    assert locked.cycle is not None
    assert locked.cycle.period == 7
    assert locked.rotation_number == pytest.approx(1 / 7)
    assert locked.is_stable
    free = find(DelayedLogistic(np.array(2.1)), np.array([0.4, 0.45]))
    assert free.kind == "invariant circle"


def test_strong_resonance_is_a_cycle():
    locked = find(rotor(np.pi / 2, 1.1))
    assert locked.kind == "cycle"
    assert locked.cycle is not None
    assert locked.cycle.period == 4


def test_fixed_points_are_recognised():
    settled = find(rotor(1.0, 0.9))
    assert settled.kind == "fixed point"
    assert settled.cycle is not None
    np.testing.assert_allclose(settled.cycle.points, 0, atol=1e-12)


@pytest.mark.parametrize("gain", [0.999, 0.9999])
def test_slow_spirals_are_not_called_circles(gain):
    spiral = find(rotor(1.9416110387254666, gain))
    assert spiral.kind in ("none", "fixed point")
    if spiral.kind == "none":
        assert "settled" in spiral.reason


def test_chaos_and_escape_are_no_circles():
    chaotic = find(Henon(np.array(1.4)), np.array([0.1, 0.1]))
    assert chaotic.kind == "none"
    assert "chaotic" in chaotic.reason
    assert not chaotic.is_stable
    escaping = find(Henon(np.array(1.4)), np.array([5.0, 5.0]))
    assert escaping.kind == "none"
    assert "infinity" in escaping.reason


def test_results_print_and_are_saved(tmp_path):
    circle = find(turning_circle(GOLDEN / 4))
    assert "rotation number" in str(circle)
    again = rd.load(circle.save(tmp_path / "circle"))
    np.testing.assert_array_equal(again.curve(0.1), circle.curve(0.1))
    locked = find(rotor(np.pi / 2, 1.1))
    assert "cycle" in str(locked)
    assert rd.load(locked.save(tmp_path / "locked")).cycle.period == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": np.zeros((2, 2))}, "x0"),
        ({"x0": np.array([0, 1])}, "x0"),
        ({"num_steps": 10}, "num_steps"),
        ({"max_modes": 1}, "max_modes"),
        ({"f": lambda x: x[:1]}, "f: expected"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rd.find_invariant_circle(**{"f": rotor(1.0, 1.1), "x0": START, **arguments})
