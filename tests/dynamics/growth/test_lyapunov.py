"""Lyapunov spectra against closed forms and identities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")

henon, logistic = Henon(), Logistic()


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


class Tanh(eqx.Module):
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.weight @ x + self.bias)


class TanhInside(eqx.Module):
    """x <- J tanh(x): its Jacobian determinant is |det J| prod sech^2(x_i)."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight @ jnp.tanh(x)


def gaussian(num_units, gain, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_units, num_units)) * gain / np.sqrt(num_units))


def skew_tent(x):
    return jnp.where(x < 0.3, x / 0.3, (1 - x) / 0.7)


def lozi(x):
    return jnp.stack([1 - 1.7 * jnp.abs(x[0]) + x[1], 0.5 * x[0]])


def cat(x):
    return jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ x % 1


def baker(x):
    left = jnp.stack([2 * x[0], x[1] / 2])
    return jnp.where(x[0] < 0.5, left, jnp.stack([2 - 2 * x[0], 1 - x[1] / 2]))


def coupled_lattice(x):
    """Sixteen maps 3 x mod 1, coupled to their neighbours with strength 0.3."""
    y = 3 * x % 1
    return 0.7 * y + 0.15 * (jnp.roll(y, 1) + jnp.roll(y, -1))


LN2 = np.log(2)
CAT = np.log((3 + np.sqrt(5)) / 2)
LATTICE = np.sort(np.log(3 * np.abs(0.7 + 0.3 * np.cos(2 * np.pi * np.arange(16) / 16))))[::-1]


# The Jacobians of these maps are constant up to signs: no sampling error, so 1e-9 is rounding.
@pytest.mark.parametrize(
    ("f", "x0", "exact", "num_steps"),
    [
        pytest.param(cat, [0.1, 0.3], [CAT, -CAT], 500, id="cat map"),
        pytest.param(baker, [0.3, 0.4], [LN2, -LN2], 500, id="baker's map"),
        pytest.param(coupled_lattice, np.linspace(0.1, 0.7, 16) ** 2, LATTICE, 1500, id="coupled lattice"),
    ],
)
def test_maps_of_constant_jacobian_are_exact(f, x0, exact, num_steps):
    spectrum = rd.lyapunov_spectrum(f, jnp.array(x0), num_steps, num_transient=num_steps)
    np.testing.assert_allclose(spectrum.exponents, exact, atol=1e-9)
    assert spectrum.converged, spectrum.message
    assert float(spectrum.sum_rule_defect) < 1e-10


# Exact exponents: ln 2 (conjugate to the tent map), -p ln p - (1 - p) ln(1 - p). Sprott's tables for the Hénon map
# (his five digits); Lozi map: an independent NumPy program (0.47027 +- 8e-5).
@pytest.mark.parametrize(
    ("f", "x0", "exact", "tolerance"),
    [
        pytest.param(logistic, [0.3], [LN2], 1e-4, id="logistic"),
        pytest.param(skew_tent, [0.3141], [-0.3 * np.log(0.3) - 0.7 * np.log(0.7)], 0.0, id="skew tent"),
        pytest.param(henon, [0.1, 0.1], [0.41922, -1.62319], 1e-5, id="Hénon"),
        pytest.param(lozi, [0.1, 0.1], [0.47027, -1.16341], 8e-5, id="Lozi"),
    ],
)
def test_chaotic_maps_agree_with_their_known_exponents_within_the_error_bar(f, x0, exact, tolerance):
    spectrum = rd.lyapunov_spectrum(f, jnp.array(x0), 200_000, num_transient=100)
    # Four standard errors (1 in 16000), and what is not known of the reference.
    assert (np.abs(spectrum.exponents - jnp.array(exact)) <= 4 * spectrum.stderr + tolerance).all()
    assert (spectrum.stderr < 2e-3).all()  # the error bar is not just large: 200000 steps give at least three digits
    assert spectrum.converged, spectrum.message


@pytest.mark.slow
def test_long_runs_meet_the_published_digits():
    for f, x0, exact, tolerance in [
        (skew_tent, [0.3141], [0.6108643020548935], 3e-4),
        (henon, [0.1, 0.1], [0.41922, -1.62319], 3e-4),
        (lozi, [0.1, 0.1], [0.47026, -1.16341], 5e-4),
    ]:
        spectrum = rd.lyapunov_spectrum(f, jnp.array(x0), 5_000_000, num_transient=100)
        np.testing.assert_allclose(spectrum.exponents, exact, atol=tolerance)


def test_the_sum_is_the_mean_log_determinant():
    weight = gaussian(30, 2.0, 0)
    x0 = jnp.asarray(np.random.default_rng(1).normal(size=30))
    spectrum = rd.lyapunov_spectrum(TanhInside(weight), x0, 3000, num_transient=50)
    states = np.concatenate([[x0], rd.trajectory(TanhInside(weight), x0, 3050)])[50:3050]
    expected = np.linalg.slogdet(weight)[1] + np.log(1 / np.cosh(states) ** 2).sum(axis=1).mean()
    # An identity: both sides are sums of the same terms in another order.
    np.testing.assert_allclose(spectrum.sum, expected, atol=1e-10)
    assert float(spectrum.sum_rule_defect) < 1e-10


def test_a_linear_map_has_the_log_moduli_of_its_eigenvalues():
    weight = gaussian(20, 1.0, 15)
    spectrum = rd.lyapunov_spectrum(Linear(weight), jnp.zeros(20), 5000, num_transient=2000)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(weight))))[::-1]
    # The two members of a complex pair differ by O(1/T) in a finite window.
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-3)


def test_an_orthogonal_map_has_zero_exponents():
    orthogonal = jnp.linalg.qr(gaussian(20, 1.0, 3))[0]
    spectrum = rd.lyapunov_spectrum(Linear(orthogonal), jnp.ones(20), 300)
    np.testing.assert_allclose(spectrum.exponents, np.zeros(20), atol=1e-12)
    assert spectrum.is_zero.all()


@pytest.mark.parametrize("with_bias", [False, True])
def test_at_a_stable_fixed_point_the_exponents_are_those_of_the_multipliers(with_bias):
    rng = np.random.default_rng(15)
    weight = rng.normal(size=(20, 20)) / np.sqrt(20)
    weight *= 0.8 / np.abs(np.linalg.eigvals(weight)).max()
    f = Tanh(jnp.asarray(weight), jnp.asarray(with_bias * rng.normal(size=20)))
    x0 = jnp.asarray(rng.normal(size=20))
    fixed_point = np.asarray(rd.trajectory(f, x0, 1, num_transient=2000))[0]
    jacobian = (1 - fixed_point**2)[:, None] * weight
    spectrum = rd.lyapunov_spectrum(f, x0, 4000, num_transient=2000)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(jacobian))))[::-1]
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-3)  # O(1/T) within complex pairs
    assert float(spectrum.kaplan_yorke_dimension) == 0
    assert float(spectrum.entropy_rate) == 0


def test_fewer_exponents_are_the_first_of_all():
    f, x0 = TanhInside(gaussian(12, 3.0, 2)), jnp.linspace(-1, 1, 12)
    full = rd.lyapunov_spectrum(f, x0, 40, qr_every=1, frame=jnp.eye(12))
    few = rd.lyapunov_spectrum(f, x0, 40, num_exponents=4, qr_every=1, frame=jnp.eye(12)[:, :4])
    # Chaos amplifies the rounding differences of two programs by about e^(0.4 * 40), to 1e-9.
    np.testing.assert_allclose(few.local_exponents, full.local_exponents[:, :4], atol=1e-7)
    assert np.isnan(few.sum_rule_defect)


def test_the_interval_between_decompositions_does_not_matter():
    f, x0 = TanhInside(gaussian(12, 3.0, 2)), jnp.linspace(-1, 1, 12)
    every = rd.lyapunov_spectrum(f, x0, 48, qr_every=1)
    for qr_every in (None, 3):
        other = rd.lyapunov_spectrum(f, x0, 48, qr_every=qr_every)
        # The rounding error of the worst conditioned interval, with a margin of ten; and chaos amplifies the rounding
        # differences of two programs, 1e-16, by e^(0.4 * 48).
        np.testing.assert_allclose(other.exponents, every.exponents, atol=max(1e-7, 10 * other.rounding_error.max()))


def slow_network(x):
    weight = gaussian(16, 2.0, 0)
    return 0.95 * x + 0.05 * weight @ jnp.tanh(x)


@pytest.mark.parametrize(
    ("f", "x0", "at_least"),
    [
        pytest.param(henon, [0.1, 0.1], 2, id="Hénon"),
        pytest.param(slow_network, np.linspace(-1, 1, 16), 10, id="slow network"),
    ],
)
def test_the_automatic_interval_keeps_half_of_the_digits(f, x0, at_least):
    spectrum = rd.lyapunov_spectrum(f, jnp.array(x0), 50_000)
    assert float(spectrum.condition.max()) < 1 / np.sqrt(np.finfo(float).eps)
    assert float(spectrum.mean_qr_interval) > at_least  # and it is longer than one step


def test_a_long_interval_is_found_out():
    spectrum = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 6000, qr_every=30)
    assert "ill-conditioned" in spectrum.message
    assert not spectrum.converged
    assert float(spectrum.condition.max()) > 1e8


def test_a_run_in_two_parts_is_the_run_in_one():
    whole = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 1000, qr_every=1)
    first = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 400, qr_every=1)
    second = rd.lyapunov_spectrum(henon, first.final_state, 600, frame=first.final_frame, qr_every=1)
    joined = 0.4 * first.exponents + 0.6 * second.exponents
    np.testing.assert_allclose(joined, whole.exponents, atol=1e-12)  # the same numbers, added in another order


def test_the_transient_is_left_out_and_its_input_comes_first():
    def f(x, u):
        return u * x

    inputs = jnp.concatenate([jnp.full((10, 1), 7.0), jnp.full((20, 1), 0.5)])
    spectrum = rd.lyapunov_spectrum(f, jnp.ones(1), 20, inputs=inputs, num_transient=10)
    np.testing.assert_allclose(spectrum.exponents, [np.log(0.5)], atol=1e-14)


def test_time_units():
    per_step = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 640)
    per_time = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 640, dt=0.25)
    for name in ("exponents", "stderr", "sum", "entropy_rate", "entropy_stderr", "local_exponents"):
        np.testing.assert_allclose(getattr(per_time, name), 4 * getattr(per_step, name), rtol=1e-12)
    np.testing.assert_allclose(per_time.kaplan_yorke_dimension, per_step.kaplan_yorke_dimension)
    np.testing.assert_allclose(per_time.times, 0.25 * per_step.times)


def test_history():
    every = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 300, history_every=1)
    states = np.concatenate([[[0.1, 0.1]], rd.trajectory(henon, jnp.array([0.1, 0.1]), 299)])
    assert every.local_exponents.shape == (300, 2)
    np.testing.assert_allclose(every.local_exponents.sum(axis=1), np.full(300, np.log(0.3)), atol=1e-12)
    np.testing.assert_allclose(every.finite_time_exponents[-1], every.exponents, rtol=1e-12)
    coarse = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 300, history_every=50)
    expected = every.local_exponents.reshape(6, 50, 2).mean(axis=1)
    np.testing.assert_allclose(coarse.local_exponents, expected, atol=1e-9)
    local = rd.local_exponents(henon, jnp.array([0.1, 0.1]), 300, num_exponents=2, num_transient=0)
    np.testing.assert_allclose(local.states, states)
    np.testing.assert_allclose(local.exponents, every.local_exponents, atol=1e-12)


def test_a_last_incomplete_block_counts():
    # 130 steps make 43 blocks of 3 and one step more, which the exponents include.
    spectrum = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 130, qr_every=1, history_every=3)
    every = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 130, qr_every=1, history_every=1)
    assert spectrum.local_exponents.shape == (43, 2)
    np.testing.assert_allclose(spectrum.exponents, every.local_exponents.mean(axis=0), atol=1e-12)


def test_blocks_of_unequal_length_are_rates_over_their_own_steps():
    spectrum = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 130, qr_every=1)
    every = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 130, qr_every=1, history_every=1)
    ends = np.asarray(spectrum.times).astype(int)
    assert ends.size == 64
    assert set(np.diff(ends, prepend=0)) == {2, 3}
    running = np.cumsum(every.local_exponents, axis=0)[ends - 1] / ends[:, None]
    np.testing.assert_allclose(spectrum.finite_time_exponents, running, atol=1e-12)


def test_kaplan_yorke_dimension_and_entropy():
    spectrum = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 100_000, num_transient=100)
    assert abs(float(spectrum.kaplan_yorke_dimension) - 1.25827) < 4 * float(spectrum.kaplan_yorke_stderr) + 1e-5
    np.testing.assert_allclose(spectrum.entropy_rate, spectrum.exponents[0])
    np.testing.assert_allclose(spectrum.entropy_stderr, spectrum.stderr[0])
    # D = 1 - l1/l2 and l1 + l2 is constant, so dD = -dl1 (l1 + l2) / l2^2.
    l1, l2 = spectrum.exponents
    np.testing.assert_allclose(spectrum.kaplan_yorke_stderr, spectrum.stderr[0] * -(l1 + l2) / l2**2, rtol=1e-6)
    dimension = lambda exponents, n: float(rd.kaplan_yorke_dimension(jnp.array(exponents), n))
    assert dimension([1.0, 0.0, -2.0], 3) == 2.5
    assert dimension([-1.0, -2.0], 2) == 0.0
    assert dimension([0.0, -2.0], 2) == 1.0
    assert dimension([2.0, 1.0], 2) == 2.0
    assert dimension([1.0, -np.inf], 2) == 1.0
    assert np.isnan(dimension([2.0, 1.0], 3))


def test_participation_counts_units():
    # Two uncoupled blocks: the fastest direction lives in one unit, or evenly in four.
    one = rd.lyapunov_spectrum(Linear(jnp.diag(jnp.array([3.0, 0.5, 0.4, 0.3]))), jnp.zeros(4), 64, num_transient=200)
    np.testing.assert_allclose(one.participation, np.ones(4), atol=1e-9)
    hadamard = jnp.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    rotated = hadamard @ jnp.diag(jnp.array([3.0, 0.5, 0.4, 0.3])) @ hadamard.T
    four = rd.lyapunov_spectrum(Linear(rotated), jnp.zeros(4), 64, num_transient=200)
    np.testing.assert_allclose(four.participation, np.full(4, 4.0), atol=1e-9)


def test_uncoupled_units_do_not_hide_the_fastest_one():
    # Coordinate axes are invariant here: a frame of the first two would never see the third.
    f = Linear(jnp.diag(jnp.array([0.5, 0.2, 3.0])))
    spectrum = rd.lyapunov_spectrum(f, jnp.zeros(3), 64, num_exponents=2, num_transient=100)
    np.testing.assert_allclose(spectrum.exponents, np.log([3.0, 0.5]), atol=1e-9)


def test_a_destroyed_direction_has_exponent_minus_infinity():
    constant = rd.lyapunov_spectrum(lambda x: 0 * x + 0.5, jnp.ones(3), 100)
    assert np.isneginf(constant.exponents).all()
    assert constant.converged, constant.message
    assert float(constant.kaplan_yorke_dimension) == 0
    assert float(constant.sum_rule_defect) == 0
    partly = rd.lyapunov_spectrum(
        lambda x: jnp.stack([1 - 2 * x[0] ** 2, jnp.zeros(())]), jnp.array([0.3, 0.1]), 20_000
    )
    assert abs(float(partly.exponents[0]) - LN2) < 4 * float(partly.stderr[0])
    assert np.isneginf(partly.exponents[1])
    assert float(partly.stderr[1]) == 0
    assert float(partly.kaplan_yorke_dimension) == 1
    assert np.isfinite(partly.kaplan_yorke_stderr)


def test_an_escaping_state_is_reported_with_its_step():
    spectrum = rd.lyapunov_spectrum(lambda x: x**2, jnp.array([10.0]), 50, num_transient=5)
    assert "not finite" in spectrum.message
    # 10^(2^t) leaves float64 (1.8e308) at t = 9, reached by step 8 counted from 0.
    assert int(spectrum.first_nonfinite) == 8
    assert np.isnan(spectrum.exponents).all()
    assert "at step 8" in str(spectrum)


def test_one_bad_member_does_not_touch_the_batch():
    def run(x0):
        return rd.lyapunov_spectrum(lambda x: 1 - 1.4 * x**2, x0, 40, qr_every=1)

    batch = jax.jit(jax.vmap(run))(jnp.array([[0.3], [5.0], [0.2]]))
    assert [text.split(":")[0] for text in batch.message][1] == "not finite"
    for i in (0, 2):
        alone = run(jnp.array([[0.3], [5.0], [0.2]])[i])
        np.testing.assert_allclose(batch.exponents[i], alone.exponents, rtol=1e-9)
    assert "batch" in str(batch)


def test_drift_is_noticed():
    # A slow approach to a fixed point: the growth rate of the first quarter is not that of the rest.
    f = lambda x: jnp.stack([x[0] * (1 - 0.01 * x[0] ** 2)])
    spectrum = rd.lyapunov_spectrum(f, jnp.array([5.0]), 200)
    assert "drifting" in spectrum.message
    assert rd.lyapunov_spectrum(lambda x: 0.5 * x, jnp.ones(1), 200).converged


@pytest.mark.slow
def test_a_batch_shares_its_schedule_and_agrees_with_single_runs():
    weights = jnp.stack([gaussian(8, g, 0) for g in (0.5, 2.0, 6.0)])
    x0 = jnp.linspace(-1, 1, 8)
    run = lambda w: rd.lyapunov_spectrum(TanhInside(w), x0, 40)
    batch = jax.vmap(run)(weights)
    assert np.unique(batch.mean_qr_interval).size == 1
    for i in range(3):
        single = run(weights[i])
        # Other intervals and another program: rounding, amplified by chaos for 40 steps.
        np.testing.assert_allclose(batch.exponents[i], single.exponents, atol=1e-6)
    # The orthonormalisation stays a branch under vmap; a select would decompose at every step.
    text = str(jax.make_jaxpr(jax.vmap(run))(weights))
    assert "cond[" in text
    assert "select_n" in text


def test_float32_says_what_to_expect():
    weight = gaussian(20, 2.0, 0)
    x0 = jnp.linspace(-1, 1, 20)
    double = rd.lyapunov_spectrum(TanhInside(weight), x0, 4000, num_transient=100)
    with jax.enable_x64(False):
        f = TanhInside(jnp.asarray(np.asarray(weight), jnp.float32))
        single = rd.lyapunov_spectrum(f, jnp.asarray(np.asarray(x0), jnp.float32), 4000, num_transient=100)
    assert single.exponents.dtype == jnp.float32
    # The orbits separate, so only statistics can agree.
    error = np.hypot(single.stderr, double.stderr)
    assert (np.abs(single.exponents - double.exponents) < 5 * error + 10 * single.rounding_error).all()
    assert float(single.rounding_error.max()) > 1e3 * float(double.rounding_error.max())


def test_saving_and_printing(tmp_path):
    spectrum = rd.lyapunov_spectrum(henon, jnp.array([0.1, 0.1]), 1000)
    back = rd.load(spectrum.save(tmp_path / "spectrum"))
    np.testing.assert_array_equal(back.exponents, spectrum.exponents)
    assert back.result == spectrum.result
    assert "Kaplan-Yorke" in str(back)
    lower, upper = back.confidence_interval(0.95)
    assert (lower < spectrum.exponents).all()
    assert (upper > spectrum.exponents).all()
    assert back.is_zero.shape == (2,)
