"""Growth, gradients and directions on what people bring: dead units, strong gains, lost orbits, few steps."""

import math
from collections.abc import Callable
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon
from runtime_types import wrong_on_purpose

import rnndyn as rd
from rnndyn.dynamics.numerics.frames import orthonormalize
from rnndyn.dynamics.numerics.statistics import batch_means

pytestmark = pytest.mark.usefixtures("x64")


class Linear(eqx.Module):
    matrix: jax.Array

    def __call__(self, x):
        return self.matrix @ x


class Relu(eqx.Module):
    weights: jax.Array

    def __call__(self, x):
        return self.weights @ jax.nn.relu(x) + 0.1


# Singular maps: dead units, saturated slopes, units without outgoing weights.


@pytest.mark.parametrize("matrix", [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]], ids=["into", "out of"])
def test_the_jacobian_of_a_shift_keeps_the_direction_that_survives(matrix):
    found = rd.jacobian_product_spectrum(Linear(jnp.array(matrix)), jnp.zeros(2), [1, 2])
    np.testing.assert_array_equal(found.log_singular_values, [[0, -np.inf], [-np.inf, -np.inf]])


class Saturating(eqx.Module):
    """x' = s(z + (x - s(z))): at rest in s(z)."""

    z: jax.Array
    squash: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.squash(self.z + (x - self.squash(self.z)))


def relu_product(weights, x0, num_steps):
    """Singular values of the product of the Jacobians of a ReLU network; five factors of about 1 need no tricks."""
    product, x = np.eye(len(x0)), x0
    for _ in range(num_steps):
        product = weights * (x > 0) @ product
        x = weights @ np.maximum(x, 0) + 0.1
    return np.linalg.svd(product, compute_uv=False)


def test_dead_units_cost_no_direction_however_the_units_are_numbered():
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((12, 12)) / np.sqrt(6)
    x0 = rng.standard_normal(12)
    exact = relu_product(weights, x0, 5)
    alive = exact > 1e-6
    assert 1 < alive.sum() < 12
    assert np.all(exact[~alive] < 1e-14)  # nothing in between: those are zeros
    for order in (np.arange(12), np.argsort(x0), np.argsort(-x0)):
        f = Relu(jnp.asarray(weights[np.ix_(order, order)]))
        found = np.asarray(rd.jacobian_product_spectrum(f, jnp.asarray(x0[order]), [5]).log_singular_values[0])
        np.testing.assert_allclose(found[alive], np.log(exact[alive]), rtol=1e-9)
        assert np.isneginf(found[~alive]).all()


SINGULAR = np.array([[2.0, 1.0, 0.5], [0.3, -1.0, 1.0], [1.0, 0.2, 0.7]])
SINGULAR = SINGULAR @ np.diag([0.9, 0.5, 0.0]) @ np.linalg.inv(SINGULAR)


def test_a_singular_map_has_exponents_and_directions():
    f = Linear(jnp.asarray(SINGULAR))
    spectrum = rd.lyapunov_spectrum(f, jnp.ones(3), 200, num_transient=100)
    np.testing.assert_allclose(spectrum.exponents[:2], np.log([0.9, 0.5]), atol=1e-12)
    assert np.isneginf(spectrum.exponents[2])
    assert spectrum.converged, spectrum.message
    assert bool(spectrum.result == rd.GrowthVerdict.singular)
    vectors = rd.covariant_lyapunov_vectors(f, jnp.ones(3), 10, num_transient=100, num_backward=100)
    np.testing.assert_allclose(vectors.exponents, [np.log(0.9), np.log(0.5), -np.inf], atol=1e-12)
    pushed = np.einsum("ij,tjk->tik", SINGULAR, vectors.vectors)
    np.testing.assert_allclose(np.linalg.norm(pushed, axis=1), np.tile([0.9, 0.5, 0.0], (10, 1)), atol=1e-9)
    assert np.all(np.asarray(vectors.convergence_error) < 1e-9)


# Strong gain: one step is diag(d) W with d over many decades.


def log_diagonal_of_qr(vectors):
    """ln R_ii in rational arithmetic: R_ii^2 are the pivots of V^T V without exchanges."""
    exact = [[Fraction(v) for v in row] for row in vectors.tolist()]
    size = len(exact[0])
    gram = [[sum(row[i] * row[j] for row in exact) for j in range(size)] for i in range(size)]
    logs = []
    for i in range(size):
        logs.append((math.log(gram[i][i].numerator) - math.log(gram[i][i].denominator)) / 2)
        for j in range(i + 1, size):
            factor = gram[j][i] / gram[i][i]
            gram[j] = [a - factor * b for a, b in zip(gram[j], gram[i])]
    return np.array(logs)


def test_rows_over_thirty_decades_keep_their_digits():
    rng = np.random.default_rng(2)
    scales = np.geomspace(1, 1e-30, 24)
    rng.shuffle(scales)
    vectors = scales[:, None] * rng.standard_normal((24, 24))
    exact = log_diagonal_of_qr(vectors)
    q, log_diagonal, condition = orthonormalize(jnp.asarray(vectors))
    np.testing.assert_allclose(log_diagonal, exact, atol=1e-10)  # a condition of W of some thousand, times eps
    np.testing.assert_allclose(q.T @ q, np.eye(24), atol=1e-14)
    assert np.max(np.asarray(condition)) < 1e6  # no false alarm


@pytest.mark.parametrize("gain", [6.0, 10.0])
def test_exponents_at_strong_gain_add_up_to_the_volume(gain):
    weights = gain * np.random.default_rng(1).standard_normal((16, 16)) / 4
    states, log_dets, x = [], [], np.full(16, 0.1)
    for _ in range(40):
        x = weights @ np.tanh(x)
        states.append(x)
    # The slope by its own formula: 1 - tanh^2 is 0 beyond 19.
    slope = lambda x: 1 / np.cosh(x) ** 2
    log_dets = [np.linalg.slogdet(weights)[1] + np.sum(np.log(slope(x))) for x in states[:-1]]

    @jax.custom_jvp
    def squash(x):
        return jnp.tanh(x)

    squash.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), tangents[0] / jnp.cosh(primals[0]) ** 2))
    step = lambda x, y: y + jnp.asarray(weights) @ (squash(x) - jnp.tanh(jax.lax.stop_gradient(x)))
    spectrum = rd.lyapunov_spectrum(step, jnp.asarray(states[0]), 39, inputs=jnp.asarray(np.array(states[1:])))
    np.testing.assert_allclose(spectrum.sum, np.mean(log_dets), atol=1e-6)
    assert float(spectrum.sum_rule_defect) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_saturated_units_keep_their_slopes(dtype):
    """Units at rest in tanh z or 1 / (1 + exp(-z)): exponents ln sech^2 z and -|z| - 2 ln(1 + exp(-|z|))."""
    z = np.array([0.5, 9.1, 19.1, 40.0])
    tanh = -2 * (z + np.log((1 + np.exp(-2 * z)) / 2))
    f, x0, frame = Saturating(jnp.asarray(z, dtype), jnp.tanh), jnp.asarray(np.tanh(z), dtype), jnp.eye(4, dtype=dtype)
    found = rd.lyapunov_spectrum(f, x0, 40, frame=frame)
    np.testing.assert_allclose(found.exponents, tanh, rtol=1e-5)
    assert bool(found.result == rd.GrowthVerdict.converged)
    z = np.array([0.5, 17.1, 37.1, 80.0])
    f = Saturating(jnp.asarray(z, dtype), jax.nn.sigmoid)
    lags = rd.jacobian_product_spectrum(f, jax.nn.sigmoid(jnp.asarray(z, dtype)), [1])
    np.testing.assert_allclose(lags.log_singular_values[0], -z - 2 * np.log1p(np.exp(-z)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_plain_tanh_at_strong_gain_keeps_every_exponent(dtype):
    weights = 10 * np.random.default_rng(1).standard_normal((16, 16)) / 4
    states, x = [], np.full(16, 0.1)
    for _ in range(40):
        x = weights @ np.tanh(x)
        states.append(x)
    slopes = np.sum(-2 * np.log(np.cosh(states[:-1])), axis=1)
    assert np.max(np.abs(states)) > 25  # 1 - tanh^2 is 0 there, in both precisions
    # Each step from the given state, as a chaotic orbit in float32 is soon another one.
    step = lambda x, y: y + jnp.asarray(weights, dtype) @ (jnp.tanh(x) - jnp.tanh(jax.lax.stop_gradient(x)))
    spectrum = rd.lyapunov_spectrum(step, jnp.asarray(states[0], dtype), 39, inputs=jnp.asarray(states[1:], dtype))
    np.testing.assert_allclose(spectrum.sum, np.linalg.slogdet(weights)[1] + np.mean(slopes), rtol=1e-5)
    assert np.isfinite(spectrum.exponents).all()
    assert "singular" not in str(spectrum)


def test_what_saturates_otherwise_says_that_the_jacobian_is_singular():
    """1 - 2 / (1 + exp(2 z)) is tanh, written so that its slope at z = 30 is lost in float32."""
    written = lambda z: 1 - 2 / (1 + jnp.exp(2 * z))
    z = jnp.array([0.5, 30.0], jnp.float32)
    found = rd.lyapunov_spectrum(Saturating(z, written), written(z), 40, frame=jnp.eye(2, dtype=jnp.float32))
    np.testing.assert_allclose(found.exponents, [-2 * np.log(np.cosh(0.5)), -np.inf], rtol=1e-5)
    assert found.converged
    assert "singular" in str(found)


# Error estimates that see the error.


def test_too_short_a_transient_shows_in_the_error_of_covariant_vectors():
    rng = np.random.default_rng(3)
    basis = rng.standard_normal((8, 8))
    f = Linear(jnp.asarray(basis @ np.diag(0.95 ** np.arange(8)) @ np.linalg.inv(basis)))
    directions = basis / np.linalg.norm(basis, axis=0)
    found = rd.covariant_lyapunov_vectors(f, jnp.ones(8), 1, num_exponents=3, num_transient=20, num_backward=20)
    cosines = np.abs(np.sum(found.vectors[0] * directions[:, :3], axis=0))
    true_sines = np.sqrt(1 - np.minimum(cosines, 1) ** 2)
    assert np.max(true_sines) > 0.3
    assert np.max(np.asarray(found.convergence_error)) > 0.3 * np.max(true_sines)


def autoregressive(coefficient, num_steps, num_runs):
    rng = np.random.default_rng(0)
    x, out = np.zeros(num_runs), []
    for t in range(num_steps + 500):
        x = coefficient * x + rng.standard_normal(num_runs)
        if t >= 500:
            out.append(x)
    return np.array(out)


def window_of_blocks(series):
    """Error bars of the first 1024 steps of a series, as a spectrum of that length takes them."""
    return batch_means(series[:1024].reshape(64, 16, -1).mean(axis=1))


def covered(series, truth, bars):
    """Whether the 95 % interval of each window holds the truth."""
    from scipy import stats

    stderr, degrees, _ = bars
    return np.abs(series[:1024].mean(axis=0) - truth) < stats.t.ppf(0.975, degrees) * stderr


@pytest.mark.parametrize(
    ("coefficient", "least", "most", "resolved"),
    [(0.0, 0.93, 0.97, 0.98), (0.9, 0.93, 0.975, 0.92), (0.98, 0.92, 0.97, 0.3)],
)
def test_error_bars_of_a_short_window_cover_under_long_correlation(coefficient, least, most, resolved):
    series = autoregressive(coefficient, 1024, 2000)  # the mean is 0
    bars = window_of_blocks(series)
    assert least < covered(series, 0.0, bars)[bars[2]].mean() < most
    assert bars[2].mean() > resolved


def logistic_growth(distance, num_steps, num_runs):
    """ln |F'| along orbits of the logistic map below its window of period 3, after a transient."""
    r, x = 1 + np.sqrt(8) - distance, np.random.default_rng(2).uniform(0.1, 0.9, num_runs)
    out = np.empty((num_steps, num_runs))
    for t in range(3000 + num_steps):
        if t >= 3000:
            out[t - 3000] = np.log(np.abs(r * (1 - 2 * x)))
        x = r * x * (1 - x)
    return out


@pytest.mark.parametrize(
    ("distance", "truth", "resolved"),
    # The exponents are the means of 4000 orbits of 60 000 steps. At the last two a laminar phase takes 300 and 1000
    # steps, so a window holds three or one: it can tell nothing, and has to say so.
    [
        (1e-2, 0.42112, (0.95, 1)),
        (1e-4, 0.207383, (0.8, 1)),
        (1e-5, 0.090067, (0, 0.06)),
        (1e-6, 0.03264, (0, 0.01)),
    ],
)
def test_intermittent_runs_cover_or_are_not_called_converged(distance, truth, resolved):
    series = logistic_growth(distance, 1024, 1500)
    bars = window_of_blocks(series)
    assert resolved[0] <= bars[2].mean() <= resolved[1]
    if resolved[0] > 0:
        assert 0.93 < covered(series, truth, bars)[bars[2]].mean() < 0.98


def test_a_window_of_few_correlation_times_is_not_called_converged():
    series = autoregressive(0.999, 1024, 2000)  # a correlation time of 2000 steps
    assert np.mean(window_of_blocks(series)[2]) < 0.1


def test_blocks_that_beat_with_a_cycle_or_have_settled_are_resolved():
    """Sums over 16 steps of what has period 3 beat for ever; what decays to a constant has no excursions at all."""
    steps = np.arange(1024)
    cycle = np.array([-1.0, 0.2, 0.9])[steps % 3]
    settled = -0.5 + 1e-3 * 0.8**steps
    bars = window_of_blocks(np.stack([cycle, cycle + 1e-9 * 0.99**steps, settled, np.full(1024, 0.3)], axis=1))
    assert bars[2].all()


# What is no number becomes no verdict.


def lost(x):
    return 3 * x * x


def test_a_signal_with_one_nan_is_not_regular():
    signal = np.sin(np.arange(500.0))
    for bad in (np.nan, np.inf):
        signal[77] = bad
        found = rd.zero_one_test(signal, num_frequencies=8)
        assert np.isnan(found.statistic)
        assert bool(found.result == rd.ChaosVerdict.not_finite)
        assert not found.is_clear


def test_an_offset_or_a_unit_does_not_turn_chaos_into_order():
    x, signal = 0.3, []
    for _ in range(2000):
        x = 4 * x * (1 - x)
        signal.append(x)
    signal = np.array(signal)
    for moved in (signal, signal + 1e5, 1e-200 * signal, 1e200 * signal):
        found = rd.zero_one_test(moved, num_frequencies=16)
        assert float(found.statistic) > 0.9
        assert bool(found.result == rd.ChaosVerdict.chaotic)
    constant = rd.zero_one_test(np.full(2000, 0.1), num_frequencies=16)
    assert float(constant.statistic) == 0
    assert constant.message == "regular"


def test_a_lost_orbit_has_no_horizon_and_no_rate():
    x0, key = jnp.array([2.0]), jax.random.key(0)
    horizon = rd.memory_horizon(lost, x0, 40, 10, key=key)
    assert np.isnan(horizon.horizon)
    assert bool(horizon.result == rd.GrowthVerdict.not_finite)
    largest = rd.max_lyapunov_exponent(lost, x0, 40)
    assert bool(largest.result == rd.GrowthVerdict.not_finite)
    assert not largest.agree
    gradients = rd.adjoints(lost, x0, None, lambda xs: xs[-1, 0], num_steps=40)
    assert np.isnan(gradients.growth_rate)
    assert bool(gradients.result == rd.GrowthVerdict.not_finite)
    spectrum = rd.lyapunov_spectrum(lost, x0, 40)
    assert bool(spectrum.result == rd.GrowthVerdict.not_finite)
    assert np.isnan(spectrum.kaplan_yorke_dimension)


def test_a_gradient_that_is_destroyed_has_a_horizon_and_an_infinite_rate():
    found = rd.memory_horizon(Linear(jnp.array([[0.0, 1.0], [0.0, 0.0]])), jnp.ones(2), 40, 10, key=jax.random.key(0))
    assert 0 < float(found.horizon) <= 2
    assert np.isneginf(found.exponent)


def test_a_loss_that_ignores_the_last_steps_still_has_a_rate():
    whole = rd.adjoints(lambda x: 0.5 * x, jnp.ones(2), None, lambda xs: xs[19].sum(), num_steps=20)
    early = rd.adjoints(lambda x: 0.5 * x, jnp.ones(2), None, lambda xs: xs[19].sum(), num_steps=60)
    for found in (whole, early):
        np.testing.assert_allclose(found.growth_rate, np.log(0.5), rtol=1e-12)
    assert np.isnan(early.local_growth[20:]).all()
    none = rd.adjoints(lambda x: 0.5 * x, jnp.ones(2), None, lambda xs: 0.0 * xs.sum(), num_steps=20)
    assert np.isnan(none.growth_rate)
    assert bool(none.result == rd.GrowthVerdict.no_gradient)


class Two(eqx.Module):
    growth: jax.Array
    idle: jax.Array

    def __call__(self, x):
        return jnp.stack([self.growth * x[0], 0.5 * x[1] + 0 * self.idle])


def test_parameters_without_influence_have_gradient_zero_past_overflow():
    f = Two(jnp.array(30.0), jnp.array(1.0))
    found = rd.adjoints(f, jnp.array([1e-300, 1.0]), None, lambda xs: xs[-1].sum(), num_steps=250)
    assert float(found.log_norms[0]) == pytest.approx(250 * np.log(30.0), rel=1e-12)
    assert float(found.parameter_gradient["idle"]) == 0
    each = rd.parameter_contributions(f, None, found)
    assert np.all(np.asarray(each["idle"]) == 0)
    assert np.all(np.asarray(found.vectors)[:, 1] >= 0)  # finite or overflowed, never NaN


# Implicit derivatives.


def test_where_there_is_no_fixed_point_the_derivative_is_nan_too():
    def point(theta):
        return rd.implicit_fixed_point(lambda x: x**2 + theta, jnp.array([0.2]))[0]

    good, bad = 0.1, 1.0
    root = (1 - np.sqrt(1 - 4 * good)) / 2
    np.testing.assert_allclose(point(good), root, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(point)(good), 1 / (1 - 2 * root), rtol=1e-12)
    for derivative in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f)), lambda f: lambda t: f(t)):
        assert np.isnan(derivative(point)(bad))
    batch = jax.vmap(jax.grad(point))(jnp.array([good, bad]))
    assert np.isnan(batch).tolist() == [False, True]


def test_a_runaway_that_no_longer_moves_is_no_fixed_point():
    runaway = lambda x: x + 1 / (1 + x**2)
    assert np.isnan(rd.implicit_fixed_point(runaway, jnp.array([1.0]), max_steps=500)[0])


# Linear parts without a basis of eigenvectors.


def test_a_jordan_block_has_no_left_vectors_and_no_bound():
    block = np.array([[0.9, 1.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.4]])
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    for matrix in (block, turn @ block @ turn.T):
        lin = rd.linearize(Linear(jnp.asarray(matrix)), jnp.zeros(3))
        assert np.isnan(np.asarray(lin.left[:2])).all()
        np.testing.assert_allclose(np.abs(lin.left[2] @ matrix - 0.4 * lin.left[2]), 0, atol=1e-12)
        assert np.isinf(lin.transient_growth_bound)
        np.testing.assert_allclose(lin.non_normality, 1, rtol=1e-7)  # the entry above the diagonal
        traced = jax.jit(lambda x, m=matrix: rd.linearize(Linear(jnp.asarray(m)), x).left)(jnp.zeros(3))
        assert np.isnan(traced).all()


def test_equal_multipliers_with_vectors_of_their_own_keep_them():
    basis = np.array([[1.0, 0.3, 0.0], [0.2, 1.0, 0.5], [0.0, 0.4, 1.0]])
    matrix = basis @ np.diag([0.8, 0.8, 0.1]) @ np.linalg.inv(basis)
    for m in (matrix, np.eye(3), np.zeros((3, 3))):
        lin = rd.linearize(Linear(jnp.asarray(m)), jnp.zeros(3))
        np.testing.assert_allclose(lin.left @ lin.right, np.eye(3), atol=1e-12)


def test_the_kreiss_constant_is_between_its_bounds():
    shear = np.array([[0.9, 5.0], [0.0, 0.8]])
    powers = [np.linalg.norm(np.linalg.matrix_power(shear, t), 2) for t in range(200)]
    kreiss = rd.linearize(Linear(jnp.asarray(shear)), jnp.zeros(2)).kreiss_constant
    radii = 1 + np.geomspace(1e-4, 10, 4000)  # on the real axis, where a brute-force search finds it
    brute = max((r - 1) / np.linalg.svd(r * np.eye(2) - shear, compute_uv=False)[-1] for r in radii)
    assert brute * (1 - 1e-6) <= kreiss <= max(powers)
    assert kreiss > max(powers) / (np.e * 2)
    assert rd.linearize(Linear(0.5 * jnp.eye(2)), jnp.zeros(2)).kreiss_constant == pytest.approx(1, abs=1e-6)


# Arguments as people write them.


def test_a_saddle_may_be_a_list_and_eigenvalues_may_come_as_complex_numbers(monkeypatch):
    f = Linear(jnp.array([[1.7, 0.0], [0.3, 0.4]]))
    eig = np.linalg.eig
    monkeypatch.setattr(np.linalg, "eig", lambda a: tuple(np.asarray(v, complex) for v in eig(a)))
    found = rd.find_saddle_manifolds(f, [0.0, 0.0], [-1, -1], [1, 1], num_images=20)
    np.testing.assert_allclose(found.multipliers, [0.4, 1.7])
    assert not np.iscomplexobj(found.unstable[0])
    with wrong_on_purpose():
        for nonsense in (["a", "b"], [0.0, [1.0, 2.0]], [None, None]):
            with pytest.raises(ValueError, match="point: expected an array of numbers"):
                rd.find_saddle_manifolds(f, nonsense, [-1, -1], [1, 1])


def test_inputs_whose_width_is_the_window_are_not_taken_for_one_sequence_per_update():
    """Six updates of windows of three steps of three inputs, and (6, 3) inputs in another shape."""

    def f(x, u):
        return jnp.tanh(x) * jnp.sum(u)

    shared = jnp.ones((3, 3))
    found = rd.floss(f, jnp.ones(2), 3, 3, 1, inputs=shared)
    assert found.history.losses.shape == (3,)
    with pytest.raises(ValueError, match="inputs_per_update"):
        rd.floss(f, jnp.ones(2), 6, 3, 1, inputs=shared, inputs_per_update=True)


# Compiled once.


def test_another_length_transient_network_and_schedule_compile_nothing(caplog):
    rng = np.random.default_rng(0)
    networks = [Linear(jnp.asarray(rng.standard_normal((5, 5)) / 3)) for _ in range(2)]
    driven = lambda x, u: 0.5 * jnp.tanh(x) + u
    x0, inputs = jnp.asarray(rng.standard_normal(5)), rng.standard_normal((2500, 5))
    rd.lyapunov_spectrum(networks[0], x0, 100)
    rd.lyapunov_spectrum(driven, x0, 100, inputs=inputs[:100])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for f, steps, transient in ((networks[1], 100, 0), (networks[0], 333, 0), (networks[1], 90, 41)):
            rd.lyapunov_spectrum(f, x0, steps, num_transient=transient)
        rd.lyapunov_spectrum(networks[0], x0, 200, qr_every=2)
        rd.lyapunov_spectrum(driven, x0, 2400, inputs=inputs, num_transient=100)
    compiled = [record.getMessage() for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    assert compiled == []


@pytest.mark.slow
def test_the_loop_of_free_length_and_the_scan_give_the_same_numbers():
    f = Henon()
    x0 = jnp.array([0.1, 0.2])
    loop = rd.lyapunov_spectrum(f, x0, 300, num_transient=20)
    scan = jax.jit(lambda x: rd.lyapunov_spectrum(f, x, 300, num_transient=20))(x0)
    np.testing.assert_allclose(loop.exponents, scan.exponents, atol=1e-9)  # chaos amplifies the order of sums
    np.testing.assert_allclose(loop.times, scan.times)
    closed = jax.grad(lambda a: rd.lyapunov_spectrum(lambda x: a * x, x0, 50, num_exponents=1).exponents[0])(0.5)
    np.testing.assert_allclose(closed, 2.0, rtol=1e-12)  # d ln a / da
