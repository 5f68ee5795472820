"""Systems against published exponents, sums of exponents, conserved energy, and SciPy's integrators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds

# Exponents are recomputed here, and none is taken on trust: the time of a step of twelve substeps, and the largest
# standard error. Of Chua's circuit and the neuron the contraction is far from even along an orbit.
FLOWS = [
    (ds.Lorenz63(), 0.1, 0.01),
    (ds.Rossler(), 0.5, 0.01),
    (ds.Duffing(), 0.4, 0.01),
    (ds.VanDerPol(), 0.2, 0.01),
    (ds.Chua(), 0.2, 0.05),
    (ds.HindmarshRose(), 0.6, 0.05),
]


def rk4_map(system, dt, num_substeps):
    """Fixed steps, for speed: the errors of an exponent over thousands of time units are those of statistics."""

    def step(_, x):
        h = dt / num_substeps
        k1 = system(x)
        k2 = system(x + h / 2 * k1)
        k3 = system(x + h / 2 * k2)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + system(x + h * k3))

    return lambda x: jax.lax.fori_loop(0, num_substeps, step, x)


@pytest.mark.parametrize(("system", "dt", "exactness"), FLOWS, ids=lambda v: type(v).__name__)
def test_flows_have_their_published_exponents(system, dt, exactness):
    with jax.enable_x64(True):
        x0 = system.start(jax.random.key(0))
        spectrum = rd.lyapunov_spectrum(rk4_map(system, dt, 12), x0, 40_000, num_transient=500, dt=dt)
        # Each way to compile the map follows an orbit of its own: what is known is a distribution.
        published = system.published
        known = len(published.exponents)
        error = np.abs(spectrum.exponents[:known] - np.array(published.exponents))
        assert (error <= 4 * spectrum.stderr[:known] + published.tolerance).all(), (error, spectrum.stderr)
        assert spectrum.stderr.max() < exactness
        if published.kaplan_yorke_dimension is not None:
            allowed = 4 * spectrum.kaplan_yorke_stderr + published.dimension_tolerance
            assert abs(spectrum.kaplan_yorke_dimension - published.kaplan_yorke_dimension) < allowed


@pytest.mark.parametrize("num_exponents", [1, pytest.param(32, marks=pytest.mark.slow)])
def test_forty_sites_have_the_published_exponent_and_dimension(num_exponents):
    system = ds.Lorenz96()
    with jax.enable_x64(True):
        x0 = system.start(jax.random.key(0))
        spectrum = rd.lyapunov_spectrum(
            rk4_map(system, 0.05, 1), x0, 30_000, num_exponents=num_exponents, num_transient=500, qr_every=4, dt=0.05
        )
        published = system.published
        assert spectrum.stderr[0] < 0.03
        assert abs(spectrum.exponents[0] - published.exponents[0]) < 4 * spectrum.stderr[0] + published.tolerance
        if num_exponents > 1:
            assert (
                abs(spectrum.kaplan_yorke_dimension - published.kaplan_yorke_dimension) < published.dimension_tolerance
            )


def test_exponents_of_the_double_pendulum_come_in_pairs():
    """Of a Hamiltonian flow, whatever its orbit: each with its negative, and two are zero (time, energy)."""
    system = ds.DoublePendulum()
    with jax.enable_x64(True):
        x0 = system.start(jax.random.key(0))
        spectrum = rd.lyapunov_spectrum(rk4_map(system, 0.2, 4), x0, 20_000, dt=0.2)
        assert spectrum.exponents[0] > 0.05
        np.testing.assert_allclose(spectrum.exponents + spectrum.exponents[::-1], 0, atol=4 * spectrum.stderr.max())
        # They approach zero as ln(t) / t.
        np.testing.assert_allclose(spectrum.exponents[1:3], 0, atol=3 * np.log(4000) / 4000)


@pytest.mark.parametrize("system", [ds.Henon(), ds.Ikeda()], ids=lambda s: type(s).__name__)
def test_maps_have_their_published_exponents(system):
    with jax.enable_x64(True):
        x0 = system.start(jax.random.key(1))
        spectrum = rd.lyapunov_spectrum(system, x0, 40_000, num_transient=500)
    exponents = np.asarray(spectrum.exponents)
    # Five standard errors of this run, beside the digits that were printed.
    atol = 5 * float(spectrum.stderr[0]) + system.published.tolerance
    assert atol < 0.04
    np.testing.assert_allclose(exponents, system.published.exponents, atol=atol)
    assert abs(spectrum.kaplan_yorke_dimension - system.published.kaplan_yorke_dimension) < 0.01
    # The determinant is the same everywhere, so the sum is exact.
    exact = np.log(0.3) if isinstance(system, ds.Henon) else 2 * np.log(0.9)
    np.testing.assert_allclose(exponents.sum(), exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("system", "trace"),
    [
        (ds.Lorenz63(), -(10 + 1 + 8 / 3)),
        (ds.Lorenz96(7), -7.0),
        (ds.Duffing(), -0.05),
        (ds.DoublePendulum(), 0.0),
    ],
    ids=lambda v: type(v).__name__,
)
def test_the_divergence_is_constant(system, trace):
    with jax.enable_x64(True):
        x = system.start(jax.random.key(2)) + 0.3
        np.testing.assert_allclose(jnp.trace(jax.jacfwd(system)(x)), trace, atol=1e-12)


def test_chua_has_three_equilibria_and_stays_on_its_double_scroll():
    with jax.enable_x64(True):
        # From m1 x + (m0 - m1) = -x: x = (m1 - m0) / (1 + m1) = 3/2.
        points = jnp.array([[0.0, 0.0, 0.0], [1.5, 0.0, -1.5], [-1.5, 0.0, 1.5]])
        np.testing.assert_allclose(jax.vmap(ds.Chua())(points), np.zeros((3, 3)), atol=1e-14)
        states = rd.trajectory(rk4_map(ds.Chua(), 0.2, 12), ds.Chua().start(jax.random.key(0)), 4000)
    # Both scrolls are visited, and nothing leaves.
    assert 2 < np.abs(states[:, 0]).max() < 4
    assert 0.2 < np.mean(np.asarray(states[1000:, 0]) > 0) < 0.8


def test_lorenz_equilibria_stand_still():
    with jax.enable_x64(True):
        system = ds.Lorenz63()
        np.testing.assert_allclose(jax.vmap(system)(system.equilibria), np.zeros((3, 3)), atol=1e-12)


def test_the_double_pendulum_obeys_newton_and_keeps_its_energy():
    """Accelerations of both masses against the Lagrangian equations of motion as textbooks print them."""
    with jax.enable_x64(True):
        system = ds.DoublePendulum(gravity=9.81)
        x = jnp.array([0.7, -1.9, 1.1, 0.4])
        velocity = lambda x: system(x)[:2]
        a1, a2 = np.asarray(jax.jvp(velocity, (x,), (system(x),))[1])
        t1, t2 = map(float, x[:2])
        w1, w2 = map(float, velocity(x))
        # Of two equal masses on rods of length 1 in gravity 9.81.
        first = 2 * a1 + a2 * np.cos(t1 - t2) + w2**2 * np.sin(t1 - t2) + 2 * 9.81 * np.sin(t1)
        second = a2 + a1 * np.cos(t1 - t2) - w1**2 * np.sin(t1 - t2) + 9.81 * np.sin(t2)
        np.testing.assert_allclose([first, second], 0, atol=1e-10)
        np.testing.assert_allclose(jax.grad(system.energy)(x) @ system(x), 0, atol=1e-12)


def test_the_period_of_van_der_pol():
    """That of SciPy's integrator, by the times of upward crossings of zero."""
    system = ds.VanDerPol()
    crossing = lambda t, x: x[0]
    crossing.direction = 1
    solution = solve_ivp(lambda t, x: [x[1], (1 - x[0] ** 2) * x[1] - x[0]], (0, 60), [2.0, 0.0], events=crossing,
                         rtol=1e-10, atol=1e-12)  # fmt: skip
    period = np.diff(solution.t_events[0])[-1]
    series = ds.sample_system(system, 8, dt=period / 2, num_transient=16, starts=[[2.0, 0.0]], key=jax.random.key(0))
    # Half a period later the cycle is where it was, mirrored.
    signs = (-1.0) ** np.arange(8)[:, None]
    np.testing.assert_allclose(signs * series.values[0], np.broadcast_to(series.values[0, 0], (8, 2)), atol=1e-6)


def test_mackey_glass_against_small_euler_steps():
    with jax.enable_x64(True):
        system = ds.MackeyGlass(num_delay=170)
        x0 = jnp.full(171, 1.2)
        ours = np.asarray(rd.trajectory(system, x0, 1000))[:, -1]
    # The same equation in plain Python, with Euler steps twenty times as short.
    per_step, number = 20, 170 * 20
    h, past = 0.1 / per_step, [1.2] * (number + 1)
    for k in range(1000 * per_step):
        delayed = past[k]
        past.append(past[-1] + h * (0.2 * delayed / (1 + delayed**10) - 0.1 * past[-1]))
    # Euler's error is of the order of its step, 0.005, times the slope of the solution's slope.
    np.testing.assert_allclose(ours, np.array(past[number + per_step :: per_step])[:1000], atol=5e-3)


def test_mackey_glass_has_the_dimension_of_farmer():
    with jax.enable_x64(True):
        system = ds.MackeyGlass()
        spectrum = rd.lyapunov_spectrum(
            system, system.start(jax.random.key(0)), 20_000, num_exponents=4, num_transient=4000, qr_every=10,
            dt=system.time_step,
        )  # fmt: skip
    # One is positive, one zero, and the rest contract.
    assert spectrum.exponents[0] > 0.003
    assert abs(spectrum.exponents[1]) < 0.002
    assert abs(spectrum.kaplan_yorke_dimension - system.published.kaplan_yorke_dimension) < 0.1


def test_samples_are_those_of_scipy():
    start = np.array([[1.0, 2.0, 20.0]])
    series = ds.sample_system(ds.Lorenz63(), 20, dt=0.1, num_transient=0, starts=start, key=jax.random.key(0))
    field = lambda t, x: [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
    solution = solve_ivp(field, (0, 2), start[0], t_eval=0.1 * np.arange(1, 21), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(series.values[0], solution.y.T, rtol=1e-6)
    assert series.dt == 0.1


def test_what_is_observed_and_the_noise():
    options = {"dt": 0.1, "num_series": 2, "num_transient": 10, "key": jax.random.key(3)}
    clean = ds.sample_system(ds.Lorenz63(), 400, **options)
    assert clean.values.shape == (2, 400, 3)
    assert not np.allclose(clean.values[0], clean.values[1])
    noisy = ds.sample_system(ds.Lorenz63(), 400, noise=0.05, observe=[0], **options)
    assert noisy.names == ("x0",)
    error = noisy.values[..., 0] - clean.values[..., 0]
    # 800 normal numbers: five standard errors of their deviation.
    np.testing.assert_allclose(error.std() / clean.values[..., 0].std(), 0.05, rtol=5 / np.sqrt(1600))


def test_bad_systems_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="starts"):
        ds.sample_system(lambda x: -x, 10, dt=0.1, key=key)
    with pytest.raises(ValueError, match="leaves for infinity"):
        ds.sample_system(ds.Henon(), 50, starts=[[10.0, 0.0]], key=key)
    with pytest.raises(ValueError, match="num_sites"):
        ds.Lorenz96(3)
    with pytest.raises(ValueError, match="delay"):
        ds.MackeyGlass(delay=-1.0)
