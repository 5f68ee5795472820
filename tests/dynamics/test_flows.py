"""Flows as maps, and their exponents per unit time."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")


def stuart_landau(x):
    """dz/dt = (1 + 2 pi i) z - |z|^2 z: a circle of period one."""
    rotation = jnp.array([[1.0, -2 * np.pi], [2 * np.pi, 1.0]])
    return rotation @ x - (x @ x) * x


def lorenz(x):
    return jnp.stack([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])


LORENZ = rd.time_map(lorenz, 0.1)


def test_a_linear_flow_is_a_matrix_exponential():
    matrix = np.array([[-0.5, 2.0, 0.0], [-2.0, -0.5, 0.3], [0.0, 0.1, -1.0]])
    f = rd.time_map(lambda x: jnp.asarray(matrix) @ x, 0.7)
    x0 = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(f(x0), expm(0.7 * matrix) @ x0, atol=1e-7)  # tolerance 1e-9 per step, some tens of steps
    np.testing.assert_allclose(jax.jit(jax.jacfwd(f))(x0), expm(0.7 * matrix), atol=1e-7)
    np.testing.assert_allclose(f.vector(x0), matrix @ x0)


def test_reverse_mode_with_the_adjoint_for_it():
    f = rd.time_map(stuart_landau, 0.3, adjoint=diffrax.DirectAdjoint())
    x0 = jnp.array([0.5, 0.2])
    forwards = jax.jacfwd(rd.time_map(stuart_landau, 0.3))
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(x0), jax.jit(forwards)(x0), atol=1e-12)


def test_an_input_is_held():
    f = rd.time_map(lambda x, u: u - x, np.log(2))
    np.testing.assert_allclose(f(jnp.zeros(1), jnp.ones(1)), [0.5], atol=1e-8)


def test_single_precision():
    with jax.enable_x64(False):
        x = rd.time_map(stuart_landau, 0.5)(jnp.array([0.5, 0.2], jnp.float32))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(
        x, rd.time_map(stuart_landau, 0.5)(jnp.array([0.5, 0.2])), atol=1e-4
    )  # rtol 1e-5 per step


def test_an_explosion_in_finite_time_is_nan_and_reported():
    f = rd.time_map(lambda x: x**2, 0.3)  # from 1 it reaches infinity at t = 1
    assert np.isnan(rd.trajectory(f, jnp.ones(1), 4)[-1]).all()
    spectrum = rd.lyapunov_spectrum(f, jnp.ones(1), 10, dt=0.3)
    assert "not finite" in spectrum.message
    assert int(spectrum.first_nonfinite) == 3


def test_a_limit_cycle_has_one_zero_exponent():
    spectrum = rd.lyapunov_spectrum(
        rd.time_map(stuart_landau, 0.1), jnp.array([1.0, 0.3]), 300, num_transient=300, dt=0.1
    )
    np.testing.assert_allclose(spectrum.exponents, [0, -2], atol=1e-4)
    assert spectrum.is_zero.tolist() == [True, False]


@pytest.mark.slow
def test_lorenz():
    spectrum = rd.lyapunov_spectrum(LORENZ, jnp.array([1.0, 1.0, 20.0]), 4000, num_transient=100, dt=0.1)
    # Sprott's tables, Viswanath (1998): .9056, 0, -14.5723. Four standard errors.
    assert (np.abs(spectrum.exponents - jnp.array([0.9056, 0.0, -14.5723])) < 4 * spectrum.stderr + 1e-4).all()
    assert (spectrum.stderr < 0.03).all()
    # The divergence is constant: the sum is exact up to the tolerance of the integration.
    np.testing.assert_allclose(spectrum.sum, -41 / 3, atol=1e-5)
    assert spectrum.is_zero.tolist() == [False, True, False]
    assert abs(float(spectrum.kaplan_yorke_dimension) - 2.062) < 4 * float(spectrum.kaplan_yorke_stderr) + 5e-4


@pytest.mark.slow
def test_lorenz_to_three_digits():
    spectrum = rd.lyapunov_spectrum(LORENZ, jnp.array([1.0, 1.0, 20.0]), 800_000, num_transient=1000, dt=0.1)
    # Another rounding is another trajectory; over so many steps its averages have a standard error below 0.0007.
    np.testing.assert_allclose(spectrum.exponents[0], 0.9056, atol=0.002)
    np.testing.assert_allclose(spectrum.exponents[1], 0, atol=0.001)
    np.testing.assert_allclose(spectrum.exponents[2], -14.5723, atol=0.002)
    np.testing.assert_allclose(spectrum.sum, -41 / 3, atol=1e-5)
    np.testing.assert_allclose(spectrum.kaplan_yorke_dimension, 2.062, atol=0.001)


def test_at_an_equilibrium_no_exponent_is_zero():
    spectrum = rd.lyapunov_spectrum(
        rd.time_map(lambda x: -jnp.array([1.0, 3.0]) * x, 0.1), jnp.ones(2), 300, num_transient=100, dt=0.1
    )
    np.testing.assert_allclose(spectrum.exponents, [-1, -3], atol=1e-6)
    assert not spectrum.is_zero.any()


def test_a_row_that_is_not_finite_costs_its_batch_nothing():
    # The other rows would wait for its refused steps, hundreds of them in every step of the map.
    calls = []

    def decay(x):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    alone = jax.vmap(rd.time_map(decay, 0.5))(jnp.ones((2, 1)))
    jax.effects_barrier()
    finite = len(calls)
    calls.clear()
    batch = jax.vmap(rd.time_map(decay, 0.5))(jnp.array([[1.0], [jnp.nan]]))
    jax.effects_barrier()
    np.testing.assert_array_equal(batch[0], alone[0])
    assert np.isnan(batch[1]).all()
    assert 0 < len(calls) <= 1.1 * finite
