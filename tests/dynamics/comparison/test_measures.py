"""Measures of two series, against plain NumPy and SciPy, closed forms and published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon
from scipy.ndimage import gaussian_filter1d

import rnndyn as rd

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((1500, 3)), RNG.standard_normal((1200, 3)) * 1.1 + 0.2


def binned_with_numpy(x, y, num_bins, alpha, lower=None, upper=None):
    """Every cell of the grid, by `histogramdd`."""
    margin = 0.1 * x.std(0, ddof=1)
    lower = x.min(0) - margin if lower is None else lower
    upper = x.max(0) + margin if upper is None else upper
    edges = [np.linspace(a, b, num_bins + 1) for a, b in zip(lower, upper)]
    p, q = (np.histogramdd(series, edges)[0] + alpha for series in (x, y))
    p, q = p / p.sum(), q / q.sum()
    return np.sum(p * np.log(p / q))


@pytest.mark.parametrize("bounds", [None, (-2 * X.std(0), 2 * X.std(0))], ids=["range", "two sigma"])
def test_binned_divergence_is_that_of_histograms(x64, bounds):
    found = rd.state_space_divergence(X, Y, bounds=bounds)
    expected = binned_with_numpy(X, Y, 30, 1e-5, *(bounds or ()))
    assert found == pytest.approx(expected, rel=1e-9)


def test_divergence_of_a_series_from_itself_is_zero(x64):
    assert float(rd.state_space_divergence(X, X)) == 0
    assert float(rd.state_space_divergence(X, X, method="mixture")) == 0


def test_a_copy_that_lies_elsewhere_counts_as_uniform(x64):
    p = np.histogramdd(X, 30, list(zip(X.min(0) - 0.1 * X.std(0, ddof=1), X.max(0) + 0.1 * X.std(0, ddof=1))))[0] + 1e-5
    p /= p.sum()
    expected = np.sum(p * np.log(p * p.size))
    assert rd.state_space_divergence(X, X + 1e6) == pytest.approx(expected, rel=1e-9)


def test_mixture_divergence_is_that_of_plain_numpy(x64):
    x, y = X[:300], Y[:250]
    index_key, noise_key = jax.random.split(jax.random.key(5))
    draws = x[np.asarray(jax.random.randint(index_key, (200,), 0, 300))]
    draws = draws + np.sqrt(0.3) * np.asarray(jax.random.normal(noise_key, (200, 3)))
    density = lambda centres: np.exp(-((draws[:, None] - centres) ** 2).sum(-1) / 0.6).mean(1)
    expected = np.mean(np.log(density(x)) - np.log(density(y)))
    found = rd.state_space_divergence(x, y, method="mixture", variance=0.3, num_samples=200, key=jax.random.key(5))
    assert found == pytest.approx(expected, rel=1e-9)


def test_mixture_divergence_of_two_gaussians(x64):
    # A series that stays within 1e-3 of a point is one Gaussian: KL = |a - b|^2 / (2 variance).
    around = lambda centre: centre + 1e-3 * RNG.standard_normal((50, 7))
    x, y = around(np.zeros(7)), around(np.full(7, 0.5))
    found = rd.state_space_divergence(x, y, num_samples=20_000)  # seven channels: mixtures by default
    # The mean of 20 000 samples of standard deviation |a - b| = 1.32: four standard errors.
    assert found == pytest.approx(7 * 0.25 / 2, abs=4 * 1.33 / np.sqrt(20_000) + 1e-3)


@pytest.mark.parametrize("sigma", [20.0, 2.5, 0.0])
def test_spectrum_distance_is_that_of_scipy(x64, sigma):
    time = np.arange(1500)
    x = np.sin(np.outer(time, [0.05, 0.2, 0.9])) + 0.3 * X
    y = np.sin(np.outer(time, [0.06, 0.2, 0.7])) + 0.3 * RNG.standard_normal(x.shape) + 4.0

    def spectrum(series):
        power = np.abs(np.fft.rfft((series - series.mean(0)) / series.std(0), axis=0)) ** 2
        power = gaussian_filter1d(power, sigma, axis=0, mode="reflect", truncate=4.0) if sigma else power
        return power / power.sum(0)

    expected = np.mean(np.sqrt(np.sum((np.sqrt(spectrum(x)) - np.sqrt(spectrum(y))) ** 2, axis=0) / 2))
    assert rd.spectrum_distance(x, y, smoothing=sigma) == pytest.approx(expected, abs=1e-9)


def test_spectra_without_a_common_frequency_are_one_apart(x64):
    time = np.arange(1024)
    first, second = (np.sin(2 * np.pi * k * time / 1024)[:, None] for k in (10, 300))
    assert rd.spectrum_distance(first, second, smoothing=0.0) == pytest.approx(1, abs=1e-6)
    assert rd.spectrum_distance(first, -3 * first + 7, smoothing=5.0) == pytest.approx(0, abs=1e-6)


def test_valid_prediction_time_and_error_are_those_of_loops(x64):
    truth = np.cumsum(RNG.standard_normal((12, 60, 2)), axis=1)
    prediction = truth + 0.03 * np.arange(60)[:, None] * RNG.standard_normal((12, 1, 2)) * truth.std((0, 1))
    prediction[3] = truth[3]
    prediction[4, 7:] = np.nan
    sigma = truth.reshape(-1, 2).std(0)
    times = []
    for true_run, run in zip(truth, prediction):
        steps = 0
        while steps < 60 and np.sqrt(np.mean(((run[steps] - true_run[steps]) / sigma) ** 2)) <= 0.4:
            steps += 1
        times.append(steps * 0.1 * 0.9)
    found = rd.valid_prediction_time(truth, prediction, dt=0.1, lyapunov_exponent=0.9)
    np.testing.assert_allclose(found.times, times, rtol=1e-12)
    assert np.asarray(found.lasted)[3]
    assert found.times[4] <= 0.9 * 0.7 + 1e-12
    assert found.median == pytest.approx(np.median(times))
    assert "Lyapunov times" in str(found)
    errors = rd.prediction_error(truth[:3], prediction[:3])
    expected = np.mean((truth[:3] - prediction[:3]) ** 2 / truth[:3].reshape(-1, 2).var(0), axis=(0, 2))
    np.testing.assert_allclose(errors, expected, rtol=1e-10)


ANGLES = np.random.default_rng(3).random((4000, 2)) * 2 * np.pi
TORUS = np.concatenate([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


@pytest.mark.parametrize(
    ("states", "dimension"),
    [(TORUS * [1, 0, 1, 0], 1.0), (TORUS, 2.0)],
    ids=["circle", "torus"],
)
def test_correlation_dimension_of_smooth_sets(x64, states, dimension):
    found = rd.correlation_dimension(states)
    assert found.dimension == pytest.approx(dimension, abs=3 * float(found.stderr))
    assert float(found.stderr) < 0.05 * dimension
    assert found.message == "converged"


def test_correlation_dimension_of_henon_is_the_published_one(x64):
    states = rd.trajectory(Henon(), np.zeros(2), 4000, num_transient=200)
    found = rd.correlation_dimension(states)
    # J. C. Sprott & G. Rowlands (2001), "Improved correlation dimension calculation": 1.220 +- 0.036.
    assert found.dimension == pytest.approx(1.220, abs=2 * float(found.stderr) + 0.036)
    assert float(found.stderr) < 0.1


def test_correlation_sums_are_those_of_all_pairs(x64):
    states = X[:200]
    found = rd.correlation_dimension(states, theiler_window=5, num_references=208)
    references = np.linspace(0, 199, 192).astype(int)
    distances = np.linalg.norm(states[references][:, None] - states, axis=-1)
    far = np.abs(references[:, None] - np.arange(200)) > 5
    for place in (-1, -9, -20):
        share = np.sum((distances <= np.exp(found.log_radii[place])) & far) / far.sum()
        assert np.exp(found.log_sums[place]) == pytest.approx(share, rel=1e-9)


def test_a_cycle_has_dimension_zero(x64):
    found = rd.correlation_dimension(np.tile(TORUS[:4], (1000, 1)))
    assert found.dimension == 0
    assert found.message.startswith("discrete")


def test_return_map_of_the_tent_like_signal():
    # Parabolas of known height between zeros: 4 h u (1 - u), with the top between two samples.
    heights = np.array([1.0, 2.0, 0.7, 1.5])
    u = (np.arange(20) + 0.3) / 20
    found = rd.return_map(np.concatenate([4 * h * u * (1 - u) for h in heights]), dt=0.05)
    np.testing.assert_allclose(found.maxima, heights, rtol=1e-12)
    np.testing.assert_allclose(found.times, 0.05 * (20 * np.arange(4) + 9.7), rtol=1e-12)
    np.testing.assert_allclose(found.pairs, np.stack([heights[:-1], heights[1:]], axis=1))


BAD = np.array(X)
BAD[17, 1] = np.nan
STILL = np.array(X)
STILL[:, 2] = 3.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rd.state_space_divergence(X[:, 0], Y), r"x: expected a series of shape \(T, N\)"),
        (lambda: rd.state_space_divergence(BAD, Y), "x: 1 of 1500 rows hold NaN .* row 17"),
        (lambda: rd.state_space_divergence(X, Y[:, :2]), "y: expected the 3 channels of x, got 2"),
        (lambda: rd.state_space_divergence(STILL, Y), "x: 1 of 3 channels are constant .* channel 2"),
        (lambda: rd.state_space_divergence(X, Y, method="knn"), "method: expected"),
        (lambda: rd.state_space_divergence(X, Y, method="mixture", bounds=(X[0], X[1])), "bounds: mixtures"),
        (lambda: rd.state_space_divergence(X.astype(int), Y), "x: expected floating-point"),
        (lambda: rd.spectrum_distance(X, Y), "y: expected the 1500 rows of x, got 1200"),
        (lambda: rd.spectrum_distance(X, STILL), "y: 1 of 3 channels are constant"),
        (lambda: rd.spectrum_distance(X[:50], X[:50]), "x: expected at least 160 rows, got 50"),
        (lambda: rd.valid_prediction_time(BAD, X), "truth: 1 of 1500 rows hold NaN"),
        (lambda: rd.valid_prediction_time(X, Y), "prediction: expected the shape"),
        (lambda: rd.valid_prediction_time(X, X, threshold=0.0), "threshold: expected a positive"),
        (lambda: rd.prediction_error(STILL, X), "truth: 1 of 3 channels are constant"),
        (lambda: rd.correlation_dimension(X[:50]), "x: expected at least 100 rows"),
        (lambda: rd.correlation_dimension(X, theiler_window=800), "theiler_window: expected 0 to less than half"),
        (lambda: rd.return_map(np.arange(9.0)), "signal: expected at least two maxima, found 0"),
        (lambda: rd.return_map(BAD[:, 1]), "signal: 1 of 1500 rows hold NaN"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_measures_work_under_vmap():
    pairs = jnp.asarray(np.stack([X[:400], Y[:400]]), jnp.float32)
    together = jax.vmap(lambda s: rd.state_space_divergence(s, s[::-1] * 1.5, num_bins=8))(pairs)
    alone = [rd.state_space_divergence(s, s[::-1] * 1.5, num_bins=8) for s in pairs]
    np.testing.assert_allclose(together, alone, rtol=1e-5)  # float32
    together = jax.vmap(lambda s: rd.spectrum_distance(s, s[:, ::-1], smoothing=3.0))(pairs)
    np.testing.assert_allclose(together[1], rd.spectrum_distance(pairs[1], pairs[1][:, ::-1], smoothing=3.0), rtol=1e-5)
