"""The error bars are right: they are compared with the scatter of many runs, and with exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon
from scipy.special import digamma, polygamma

import rnndyn as rd
from rnndyn.dynamics.numerics.statistics import batch_means, drift

pytestmark = pytest.mark.usefixtures("x64")


def covered(spectra, truth):
    """The fraction of runs whose 95 % interval holds the truth, per exponent."""
    lower, upper = spectra.confidence_interval(0.95)
    return ((lower <= truth) & (truth <= upper)).mean(axis=0)


@pytest.mark.slow
def test_products_of_gaussian_matrices():
    # v <- A_t v with A_t of independent N(0, 1/N) entries. The R_ii are independent, N R_ii^2 is chi^2 with N - i + 1
    # degrees of freedom: lambda_i = (ln 2 + psi((N - i + 1) / 2) - ln N) / 2, and the variance over T steps is
    # psi'((N - i + 1) / 2) / (4 T) (Newman 1986).
    num_units, num_steps, num_runs = 10, 640, 200
    half = (num_units - np.arange(num_units)) / 2
    exact = 0.5 * (np.log(2) + digamma(half) - np.log(num_units))
    deviation = np.sqrt(polygamma(1, half) / (4 * num_steps))

    def step(x, key):
        return jax.random.normal(key, (num_units, num_units)) @ x / jnp.sqrt(num_units)

    def run(key):
        keys = jax.random.split(key, num_steps)
        return rd.lyapunov_spectrum(step, jnp.ones(num_units), num_steps, inputs=keys, qr_every=1)

    spectra = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_runs))
    scores = (np.asarray(spectra.exponents) - exact) / deviation
    count = scores.size  # 2000 independent standard normal numbers; four standard errors of their mean and variance
    assert abs(scores.mean()) < 4 / np.sqrt(count)
    assert abs(scores.var() - 1) < 4 * np.sqrt(2 / count)
    # And the reported errors are the exact ones, on average: to 1 % of noise and some bias.
    np.testing.assert_allclose(np.mean(spectra.stderr, axis=0), deviation, rtol=0.05)
    fractions = covered(spectra, exact)
    assert ((fractions >= 0.9) & (fractions <= 0.99)).all(), fractions
    assert np.mean(spectra.converged) > 0.95


def test_henon_map():
    def run(x0):
        return rd.lyapunov_spectrum(Henon(), x0, 8000, num_transient=100, qr_every=2)

    starts = 0.1 * jax.random.uniform(jax.random.key(1), (200, 2))
    spectra = jax.jit(jax.vmap(run))(starts)
    truth = np.array([0.419217, np.log(0.3) - 0.419217])  # Sprott: .41922; here the mean of 2e8 steps, known to 5e-6
    fractions = covered(spectra, truth)
    assert ((fractions >= 0.9) & (fractions <= 0.99)).all(), fractions
    ratio = np.mean(spectra.stderr, axis=0) / np.std(spectra.exponents, axis=0, ddof=1)
    # The scatter of 200 runs is known to 5 %; the error bar leans to the safe side.
    assert ((ratio > 0.85) & (ratio < 1.25)).all(), ratio
    dimension = 1 + truth[0] / -truth[1]
    inside = np.abs(np.asarray(spectra.kaplan_yorke_dimension) - dimension) < 2 * np.asarray(
        spectra.kaplan_yorke_stderr
    )
    assert 0.9 <= inside.mean() <= 0.99


def autoregressive(key, coefficient, num_runs, num_times):
    noise = jax.random.normal(key, (num_times, num_runs))
    _, series = jax.lax.scan(lambda x, e: ((coefficient * x + e),) * 2, jnp.zeros(num_runs), noise)
    return np.asarray(series)  # statistics of NumPy arrays are taken with NumPy, which compiles nothing


def num_excursions(blocks):
    """The fewest times that running means of 64 blocks, over 3, 4 and 5 of them, go above their mean and below it."""
    found = []
    for width in (3, 4, 5):
        smooth = np.convolve(blocks, np.ones(width) / width, mode="valid")
        turns = np.diff((smooth > smooth.mean()).astype(int))
        # What smoothing takes away is given back.
        found.append(min(np.sum(turns > 0), np.sum(turns < 0)) + width - 3)
    return min(found)


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.5, 0.9])
def test_batch_means_of_a_correlated_series(coefficient):
    # x_t = c x_{t-1} + e_t: the variance of the mean of T values tends to 1 / (1 - c)^2 / T.
    num_times, num_runs = 4096, 400
    series = autoregressive(jax.random.key(2), coefficient, num_runs, num_times)
    stderr, degrees, resolved = batch_means(series)
    exact = 1 / (1 - coefficient) / np.sqrt(num_times)
    # The mean of 400 error bars, each known to 18 % at worst: 1 %. The rest is bias of blocks still faintly correlated.
    np.testing.assert_allclose(np.mean(stderr), exact, rtol=0.08)
    assert np.mean(resolved) > 0.98
    # All but those whose running means go to one side and back too seldom, counted here; by chance it is one in six.
    often = np.array([num_excursions(column) > 5 for column in series.reshape(64, -1, num_runs).mean(axis=1).T])
    assert (degrees[often] >= 15).all()
    assert np.mean(often) > 0.8
    if coefficient == 0.9:
        naive = np.std(series, axis=0) / np.sqrt(num_times)
        assert np.mean(naive) < 0.3 * exact  # what ignoring the correlation would claim


def test_unresolved_correlation_is_reported():
    walk = np.cumsum(jax.random.normal(jax.random.key(3), (4096, 50)), axis=0)
    assert np.mean(jax.jit(batch_means)(walk)[2]) < 0.5
    assert np.isnan(batch_means(np.ones((1, 3)))[0]).all()


def test_drift():
    noise = np.asarray(jax.random.normal(jax.random.key(4), (64, 200)))
    assert np.mean(drift(noise + 10, 1e-3)) < 0.02
    start = np.where(np.arange(64) < 4, 30.0, 0.0)[:, None]
    assert np.mean(drift(noise + 10 + start, 1e-3)) > 0.98


def test_jax_and_numpy_take_the_same_statistics():
    series = autoregressive(jax.random.key(5), 0.7, 20, 256)
    for ours, theirs in zip(batch_means(series), jax.jit(batch_means)(jnp.asarray(series)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_array_equal(drift(series, 1e-3), jax.jit(lambda s: drift(s, 1e-3))(jnp.asarray(series)))
