"""Lyapunov spectra of recurrent networks, driven and autonomous."""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

DATA = Path(__file__).parents[2] / "data"

pytestmark = pytest.mark.usefixtures("x64")


def spectrum_with_warm_up(cell, inputs, x0, **options):
    """The protocol of the reference: 100 warm-up steps, then the whole input from its start with the warmed frame."""
    f = rd.as_driven_map(cell)
    rows = jnp.asarray(np.concatenate([inputs[:100], inputs]), float)
    return rd.lyapunov_spectrum(
        f, jnp.asarray(x0, float), 1000, inputs=rows, num_transient=100, frame=jnp.eye(f.state_size), **options
    )


def assert_agrees(exponents, expected):
    """Each exponent that is apart from its neighbours to 1e-6; within a close group the sum of the group."""
    exponents, expected = np.asarray(exponents), np.asarray(expected)
    # Neighbours closer than this swap or mix in rounding: their order is decided by the last digits.
    edges = np.flatnonzero(np.diff(expected) < -1e-3) + 1
    for group, reference in zip(np.split(exponents, edges), np.split(expected, edges)):
        np.testing.assert_allclose(group.mean(), reference.mean(), atol=1e-6)


# The stored exponents come from an independent NumPy program with Householder QR at every step.
@pytest.mark.parametrize("qr_every", [1, None])
def test_driven_network_of_64_units(qr_every):
    data = np.load(DATA / "lyapunov_rnn_64.npz")
    cell = rd.VanillaCell.from_weights(
        *(np.asarray(data[k], float) for k in ("driven_W_ih", "driven_W_hh")), np.zeros(64)
    )
    spectrum = spectrum_with_warm_up(cell, data["driven_inputs"], data["driven_h0"], qr_every=qr_every)
    assert_agrees(spectrum.exponents, data["driven_exponents"])
    assert float(spectrum.sum_rule_defect) < 1e-10


def test_chaotic_network_of_64_units_agrees_within_its_error():
    data = np.load(DATA / "lyapunov_rnn_64.npz")
    weights = (np.asarray(data[k], float) for k in ("chaotic_W_ih", "chaotic_W_hh"))
    cell = rd.VanillaCell.from_weights(*weights, np.zeros(64))
    spectrum = spectrum_with_warm_up(cell, data["chaotic_inputs"], data["chaotic_h0"])
    # The orbits separate; both runs have this error, and four of its standard deviations are allowed.
    assert (np.abs(spectrum.exponents - data["chaotic_exponents"]) < 4 * np.sqrt(2) * spectrum.stderr).all()


@pytest.mark.slow
def test_driven_lstm_of_64_units_has_128_exponents():
    data = np.load(DATA / "lyapunov_lstm_64.npz")
    weights = (np.asarray(data[k], float) for k in ("driven_W_ih", "driven_W_hh"))
    cell = rd.LSTMCell.from_weights(*weights, np.zeros(256))
    x0 = np.concatenate([data["driven_h0"], np.zeros(64)])
    spectrum = spectrum_with_warm_up(cell, data["driven_inputs"], x0)
    assert spectrum.exponents.shape == (128,)
    assert_agrees(spectrum.exponents, data["driven_exponents"])
    assert float(spectrum.sum_rule_defect) < 1e-10


def test_two_unit_lstm_of_laurent_and_von_brecht():
    gates = {
        "i": [[-1, -4], [-3, -2]],
        "f": [[-2, 6], [0, -6]],
        "g": [[-1, -6], [6, -9]],
        "o": [[4, 1], [-9, -7]],
    }
    weight_hh = np.concatenate([np.array(gates[name], float) for name in "ifgo"])
    f = rd.as_map(rd.LSTMCell.from_weights(np.zeros((8, 1)), weight_hh, np.zeros(8)))
    spectrum = rd.lyapunov_spectrum(f, jnp.full(4, 0.5), 300_000, num_transient=1000)
    # Measured by an independent NumPy program, which knows them to 4e-4, 4e-4, 9e-4 and 1.2e-3.
    expected = [0.1701589, -0.3848622, -1.6770937, -4.6252668]
    error = np.hypot(spectrum.stderr, [3.5e-4, 3.5e-4, 8.7e-4, 1.2e-3])
    assert (np.abs(spectrum.exponents - np.array(expected)) < 4 * error).all()
    # Bursts of contraction (saturated gates) cost digits in single steps; what that leaves is far below the error bars.
    assert (spectrum.rounding_error < 1e-2 * spectrum.stderr).all()


class DiscreteNetwork(eqx.Module):
    """x <- J tanh(x)."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight @ jnp.tanh(x)


class EulerNetwork(eqx.Module):
    """One Euler step of dx/dt = -x + J tanh(x)."""

    weight: jax.Array
    dt: float = eqx.field(static=True)

    def __call__(self, x):
        return x + self.dt * (self.weight @ jnp.tanh(x) - x)


def largest_exponents(make, num_units, gains, num_seeds, num_steps, num_transient, dt=1.0):
    """The largest exponent for every gain, averaged over networks."""

    def one(gain, seed):
        weight_key, state_key = jax.random.split(jax.random.key(seed))
        weight = gain * jax.random.normal(weight_key, (num_units, num_units)) / jnp.sqrt(num_units)
        x0 = jax.random.normal(state_key, (num_units,))
        f = make(weight * (1 - jnp.eye(num_units)))
        return rd.lyapunov_spectrum(
            f, x0, num_steps, num_exponents=1, num_transient=num_transient, dt=dt, qr_every=5
        ).exponents[0]

    gains, seeds = jnp.asarray(gains), jnp.arange(num_seeds)
    return jax.lax.map(lambda g: jax.vmap(lambda s: one(g, s))(seeds), gains)


@pytest.mark.slow
def test_discrete_networks_approach_mean_field_theory():
    # lambda_1 = 1/2 ln(g^2 E sech^4(sqrt(q) z)), q = g^2 E tanh^2(sqrt(q) z) (Molgedey, Schuchhardt & Schuster 1992).
    theory = np.array([0.06521721, 0.31024932])
    exponents = largest_exponents(DiscreteNetwork, 300, [1.5, 3.0], 4, 1500, 300)
    error = np.std(exponents, axis=1, ddof=1) / np.sqrt(4)
    # At N = 300 the largest exponent lies .01 to .04 below the limit of large networks; four errors of the average.
    gap = theory - np.mean(exponents, axis=1)
    assert (gap > -4 * error).all()
    assert (gap < 0.04 + 4 * error).all()


# Dynamic mean-field theory (Sompolinsky, Crisanti & Sommers 1988): lambda_1 for N -> infinity, per time constant.
MEAN_FIELD = {1.5: 0.0467465, 2.0: 0.1124602, 4.0: 0.3415389, 5.0: 0.4338836}


@pytest.mark.slow
def test_continuous_networks_approach_mean_field_theory():
    theory = np.array(list(MEAN_FIELD.values()))
    dt = 0.05
    options = {"num_seeds": 4, "num_steps": 8000, "num_transient": 2000, "dt": dt}
    make = functools.partial(EulerNetwork, dt=dt)
    small, large = (
        theory - np.mean(largest_exponents(make, n, list(MEAN_FIELD), **options), axis=1) for n in (100, 800)
    )
    # Finite networks lie below the theory by an amount that falls with N: .03 at N = 400 and .02 at N = 1600 (g = 4).
    assert (np.abs(large) < 0.04).all()
    assert np.abs(large).sum() < np.abs(small).sum()


def test_the_mean_exponent_of_an_euler_network_is_exact():
    # With zero diagonal the trace of the flow's Jacobian is -N: the exponents average to -1 as dt -> 0. At finite dt
    # the mean is <ln |det((1 - dt) + dt J diag(sech^2 x))|> / (N dt), from the states alone.
    dt, num_units = 0.1, 40
    weight = 4 * np.random.default_rng(0).normal(size=(num_units, num_units)) / np.sqrt(num_units)
    np.fill_diagonal(weight, 0)
    f = EulerNetwork(jnp.asarray(weight), dt)
    x0 = jnp.asarray(np.random.default_rng(1).normal(size=num_units))
    spectrum = rd.lyapunov_spectrum(f, x0, 2000, num_transient=100, dt=dt)
    states = np.asarray(rd.trajectory(f, x0, 2100))[99:-1]
    jacobians = (1 - dt) * np.eye(num_units) + dt * weight / np.cosh(states)[:, None, :] ** 2
    expected = np.linalg.slogdet(jacobians)[1].mean() / dt
    np.testing.assert_allclose(spectrum.sum, expected, atol=1e-10 / dt)
    np.testing.assert_allclose(spectrum.exponents.mean(), -1, atol=0.1)  # O(dt)
    assert float(spectrum.mean_qr_interval) > 5


@pytest.mark.slow
def test_the_demo_of_engelken_wolf_and_abbott():
    # x <- (1 - dt) x + dt J tanh(x), g = 4, N = 100, dt = .1, zero diagonal. Two networks measured by an independent
    # program: lambda_1 = .088 +- .088, lambda_50 = -1.048, D_KY = 3.7; the scatter between networks is large.
    dt = 0.1

    def one(seed):
        weight = 4 * jax.random.normal(jax.random.key(seed), (100, 100)) / 10
        f = EulerNetwork(weight * (1 - jnp.eye(100)), dt)
        return rd.lyapunov_spectrum(f, jnp.ones(100), 5000, num_transient=1000, dt=dt, qr_every=10)

    spectra = [one(seed) for seed in range(4)]
    exponents = np.array([s.exponents for s in spectra])
    np.testing.assert_allclose(exponents.mean(axis=0)[49], -1.048, atol=0.05)
    assert (np.abs(exponents[:, 0] - 0.088) < 4 * 0.125).all()
    assert all(float(s.sum_rule_defect) < 1e-9 for s in spectra)


def test_a_thousand_units_are_feasible():
    """Against a plain NumPy loop with a QR factorisation at every step."""
    weight = np.random.default_rng(0).normal(size=(1000, 1000)) * 2 / np.sqrt(1000)
    frame = np.eye(1000, 5)
    spectrum = rd.lyapunov_spectrum(
        DiscreteNetwork(jnp.asarray(weight)), jnp.ones(1000), 40, num_exponents=5, num_transient=40, frame=frame
    )
    x, logarithms = np.ones(1000), []
    for _ in range(80):
        rates = np.tanh(x)
        frame, triangle = np.linalg.qr(weight @ ((1 - rates**2)[:, None] * frame))
        x = weight @ rates
        logarithms.append(np.log(np.abs(np.diagonal(triangle))))
    # Rounding grows by a factor of e^13 over the orbit.
    expected = np.sort(np.mean(logarithms[40:], axis=0))[::-1]
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-8)


@pytest.mark.gpu
def test_on_the_gpu():
    f = DiscreteNetwork(jax.random.normal(jax.random.key(0), (32, 32)) * 2 / jnp.sqrt(32))
    on_gpu = rd.lyapunov_spectrum(f, jnp.ones(32), 200, qr_every=1)
    with jax.default_device(jax.devices("cpu")[0]):
        moved = jax.device_put(f, jax.devices("cpu")[0])
        on_cpu = rd.lyapunov_spectrum(moved, jnp.ones(32), 200, qr_every=1)
    np.testing.assert_allclose(on_gpu.exponents, on_cpu.exponents, atol=1e-3)  # before the orbits separate much
