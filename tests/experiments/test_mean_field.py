"""Mean-field theory of random networks against its expansion at the onset of chaos, quadrature and an exact level."""

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.interpolate import CubicSpline

from experiments import _mean_field


def test_the_onset_is_that_of_its_expansion():
    # With C = Delta (1 - 2 D + 5 D^2) + 2 Delta^3 / 3 and D = Delta(0), V(D) = 0 gives D = e + 7/6 e^2 + O(e^3) at
    # g = 1 + e; then Delta = D sech(D tau / sqrt(3)), and the well is 1 - 6 sech^2 of it (Poeschl & Teller 1933), whose
    # lowest level is -D^2: lambda = e^2 / 2.
    small = 0.01
    theory = _mean_field.mean_field(1 + small)
    assert theory.variance == pytest.approx(small + 7 / 6 * small**2, abs=5 * small**3)
    tau = np.linspace(0, 500, 40)
    expected = theory.variance / np.cosh(theory.variance * tau / np.sqrt(3))
    np.testing.assert_allclose(theory.at(tau), expected, atol=2 * small**2)
    assert theory.exponent == pytest.approx(small**2 / 2, rel=5 * small)
    assert theory.decay_rate == pytest.approx(small / np.sqrt(3), rel=5 * small)


def test_a_well_of_known_levels():
    # -psi'' - 6 sech^2(tau) psi has the levels -4 (even) and -1 (odd); here shifted by 4.
    levels = _mean_field.lowest_levels(lambda tau: 4 - 6 / np.cosh(tau) ** 2, 2.0)
    np.testing.assert_allclose(levels, [0, 3], atol=1e-7)


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_the_autocorrelation_solves_its_equation(gain):
    theory = _mean_field.mean_field(gain)
    tau = 1.3
    delta = float(theory.at(np.array(tau)))
    # An integral of SciPy over two correlated Gaussians, and a derivative of a spline.
    rho = delta / theory.variance
    root, scale = np.sqrt(1 - rho**2), np.sqrt(theory.variance)
    integrand = lambda y, x: (
        np.tanh(scale * x) * np.tanh(scale * (rho * x + root * y)) * np.exp(-(x**2 + y**2) / 2) / (2 * np.pi)
    )
    product = dblquad(integrand, -9, 9, -9, 9, epsabs=1e-10)[0]
    grid = np.linspace(0, 4, 401)
    second = float(CubicSpline(grid, theory.at(grid))(tau, 2))
    assert second == pytest.approx(delta - gain**2 * product, abs=1e-4)
    # Moving Delta in time is a perturbation that neither grows nor shrinks: an odd level at exactly 0.
    assert theory.odd_level == pytest.approx(0, abs=1e-6)
    assert theory.even_level < 0


def test_the_mean_field_refuses_gains_without_chaos():
    with pytest.raises(ValueError, match="gain: expected more than 1"):
        _mean_field.mean_field(1.0)
