"""Dynamic mean-field theory of dx/dt = -x + J tanh(x), solved numerically: nothing in it is fitted.

The entries of J are independent, of mean 0 and variance g^2 / N. As N grows, every unit is a Gaussian process of
autocorrelation Delta(tau) = <x(t) x(t + tau)>, and with C(Delta) = <tanh(x(t)) tanh(x(t + tau))>

    Delta'' = Delta - g^2 C(Delta) = -dV/dDelta:    a particle in a potential, which has Delta(0) as a parameter.

A chaotic state starts at rest at Delta(0) and comes to rest at 0, so V(Delta(0)) = V(0) = 0, which is one equation for
Delta(0). A perturbation grows by lambda = -1 + sqrt(1 - E), where E is the lowest level of a quantum particle,

    -psi'' + (1 - g^2 D(tau)) psi = E psi,    D(tau) = <tanh'(x(t)) tanh'(x(t + tau))>.

Reference: H. Sompolinsky, A. Crisanti & H.-J. Sommers (1988), "Chaos in random neural networks", Phys. Rev. Lett. 61,
259; the derivation at length: A. Crisanti & H. Sompolinsky (2018), "Path integral approach to random neural networks",
Phys. Rev. E 98, 062120.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import root_scalar


@dataclasses.dataclass(frozen=True)
class MeanField:
    """The chaotic state of infinitely many units at one gain above 1.

    - `variance`: Delta(0).
    - `lags`, `autocorrelation`: Delta(tau) from 0 to where it is 1e-4 of Delta(0).
    - `decay_rate`: Delta(tau) falls as exp(-decay_rate tau) from there on.
    - `even_level`, `odd_level`: lowest levels of the quantum particle; the odd one, of Delta'(tau), is 0.
    - `exponent`: the largest Lyapunov exponent, nats per unit of time.
    """

    gain: float
    variance: float
    lags: np.ndarray
    autocorrelation: np.ndarray
    decay_rate: float
    even_level: float
    odd_level: float

    @property
    def exponent(self) -> float:
        return float(-1 + np.sqrt(1 - self.even_level))

    def at(self, lags: np.ndarray) -> np.ndarray:
        """Delta at any lags of 0 or more."""
        inside = even_spline(self.lags, self.autocorrelation)
        tail = self.autocorrelation[-1] * np.exp(-self.decay_rate * (lags - self.lags[-1]))
        return np.where(lags <= self.lags[-1], inside(np.minimum(lags, self.lags[-1])), tail)


def mean_field(gain: float, num_points: int = 161) -> MeanField:
    """The mean-field theory at one gain.

    **Raises:** `ValueError` for a gain of 1 or less, where every state goes to 0.
    """
    if not gain > 1:
        raise ValueError(f"gain: expected more than 1, got {gain}: below, every state goes to 0.")
    variance = self_consistent_variance(gain)
    decay_rate = float(np.sqrt(1 - (gain * gaussian_mean(slope, variance)) ** 2))
    # Delta = Delta(0) sech(s): then d tau / d s has no singularity at either end, where the particle rests.
    s = np.linspace(0, np.arccosh(1e4), num_points)
    delta = variance / np.cosh(s)
    speed = np.sqrt(-2 * potential(gain, variance, delta[1:]))
    force = gain**2 * gaussian_mean(lambda x: np.tanh(x) ** 2, variance) - variance
    rate = np.concatenate([[np.sqrt(variance / force)], delta[1:] * np.tanh(s[1:]) / speed])
    lags = CubicSpline(s, rate).antiderivative()(s)
    product = correlation(slope, variance, delta)
    well = even_spline(lags, 1 - gain**2 * product)
    last = lags[-1]
    even, odd = lowest_levels(lambda tau: np.where(tau < last, well(np.minimum(tau, last)), decay_rate**2), decay_rate)
    return MeanField(gain, variance, lags, delta, decay_rate, even, odd)


def even_spline(lags: np.ndarray, values: np.ndarray) -> CubicSpline:
    """A spline through the right half of an even function: it begins with slope 0."""
    ends: Any = ("clamped", "not-a-knot")  # the stubs of SciPy know one word for both ends only
    return CubicSpline(lags, values, bc_type=ends)


def self_consistent_variance(gain: float) -> float:
    """Delta(0) from V(Delta(0)) = 0: g^2 Var[ln cosh(sqrt(Delta) z)] = Delta^2 / 2 with z Gaussian."""
    # Over Delta^2, which takes the solution Delta = 0 away, this falls from (g^2 - 1) / 2 to -1/2.
    excess = lambda v: (
        gain**2 * gaussian_mean(lambda x: (log_cosh(x) - gaussian_mean(log_cosh, v)) ** 2, v) / v**2 - 0.5
    )
    return root_scalar(excess, bracket=(1e-9 * (gain - 1), gain**2), xtol=1e-15, rtol=1e-14).root


def potential(gain: float, variance: float, delta: np.ndarray) -> np.ndarray:
    """V(Delta) = -Delta^2 / 2 + g^2 Cov[ln cosh x(t), ln cosh x(t + tau)]; its slope is -Delta'' (Price's theorem)."""
    centred = lambda x: log_cosh(x) - gaussian_mean(log_cosh, variance)
    return -(delta**2) / 2 + gain**2 * correlation(centred, variance, delta)


def correlation(function: Callable[[np.ndarray], np.ndarray], variance: float, delta: np.ndarray) -> np.ndarray:
    """<f(x) f(y)> for Gaussian x and y of this variance and covariances `delta` from 0 to it, an array."""
    # x and y share sqrt(delta) z, and given z they are independent. What is averaged over z is even.
    nodes, weights = _quadrature(variance)
    own = np.sqrt(np.maximum(variance - delta, 0))[:, None, None] * nodes
    half = nodes >= 0
    shared = np.sqrt(delta)[:, None, None] * nodes[half, None]
    return (function(own + shared) @ weights) ** 2 @ np.where(nodes > 0, 2 * weights, weights)[half]


def lowest_levels(well: Callable[[np.ndarray], np.ndarray], decay_rate: float) -> tuple[float, float]:
    """The lowest even and odd levels E of -psi'' + well(|tau|) psi = E psi, where well tends to decay_rate^2."""
    # Eigenvectors fall at least as fast as the correlation does; the second order of the grid is extrapolated away.
    length = 30 / decay_rate
    coarse, fine = (_levels_on_grid(well, length / num, num) for num in (2000, 4000))
    even, odd = fine + (fine - coarse) / 3
    return float(even), float(odd)


def _levels_on_grid(well: Callable[[np.ndarray], np.ndarray], spacing: float, num: int) -> np.ndarray:
    tau = (np.arange(num) + 0.5) * spacing
    side = np.full(num - 1, -1 / spacing**2)
    levels = []
    # The neighbour at -spacing / 2 has the value at spacing / 2, or minus it.
    for first in (1, 3):
        middle = well(tau) + np.concatenate([[first], np.full(num - 1, 2)]) / spacing**2
        levels.append(eigh_tridiagonal(middle, side, eigvals_only=True, select="i", select_range=(0, 0))[0])
    return np.array(levels)


def structured_kappa(overlap: float, gain: float) -> float:
    """kappa of the stationary state of infinitely many units; 0 where there is none but 0.

    x_i = kappa m_i + noise has the variance D = kappa^2 + g^2 <tanh^2>, and kappa = overlap kappa <tanh'>: the second
    gives D, the first kappa (Mastrogiuseppe & Ostojic 2018, for vectors with overlap along one direction).
    """
    if overlap <= 1:
        return 0.0
    variance = root_scalar(lambda v: overlap * gaussian_mean(slope, v) - 1, bracket=(1e-12, 100 * overlap**2)).root
    return float(np.sqrt(max(variance - gain**2 * gaussian_mean(lambda x: np.tanh(x) ** 2, variance), 0)))


def chaos_border(gain: float) -> float:
    """The overlap at which the structured stationary state loses stability: g^2 <tanh'^2> = 1, the disc's radius."""
    excess = lambda v: gain**2 * gaussian_mean(lambda x: slope(x) ** 2, v) - 1
    variance = root_scalar(excess, bracket=(1e-12, 100 * gain**4)).root
    return 1 / gaussian_mean(slope, variance)


def slope(x: np.ndarray) -> np.ndarray:
    """The derivative of tanh."""
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


def log_cosh(x: np.ndarray) -> np.ndarray:
    """The integral of tanh."""
    return np.logaddexp(x, -x) - np.log(2)


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray], variance: float) -> float:
    """<f(x)> for Gaussian x of mean 0."""
    nodes, weights = _quadrature(variance)
    return float(weights @ function(np.sqrt(variance) * nodes))


def _quadrature(variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights of averages over Gaussian z of functions with the poles of tanh(sqrt(variance) z)."""
    # The trapezoidal rule converges as exp(-2 pi d / h), d the distance of the nearest pole from the real line: 1e-16.
    # The Gaussian alone, which has none, is exact to rounding at h = 0.5.
    spacing = min(0.4, 2 * np.pi * (np.pi / (2 * np.sqrt(variance))) / 37)
    count = int(np.ceil(9 / spacing))
    # The node at 0 is exactly that: the halves on either side are taken for one another.
    nodes = np.arange(-count, count + 1) * (9 / count)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()
