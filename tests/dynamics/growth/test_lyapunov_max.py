"""The largest exponent in two ways, local exponents, and the 0-1 test as an independent verdict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")

henon = Henon()


def test_both_ways_agree_with_each_other_and_with_the_spectrum():
    x0 = jnp.array([0.1, 0.1])
    both = rd.max_lyapunov_exponent(henon, x0, 20_000, num_transient=100)
    spectrum = rd.lyapunov_spectrum(henon, x0, 20_000, num_transient=100)
    np.testing.assert_allclose(both.exponent, spectrum.exponents[0], atol=1e-3)  # another first vector: O(1 / T)
    assert both.agree
    # The separation is 1.5e-8; curvature and rounding cost as much per step, far less than the error bar of 3e-3.
    np.testing.assert_allclose(both.two_trajectory_exponent, both.exponent, atol=1e-6)
    assert 1e-4 < float(both.stderr) < 1e-2
    assert float(both.discrepancy_stderr) < 1e-6


def test_a_wrong_derivative_is_noticed():
    @jax.custom_jvp
    def f(x):
        return 1 - 1.9 * x**2

    f.defjvp(lambda primals, tangents: (f(primals[0]), -3.0 * primals[0] * tangents[0]))  # should be -3.8
    assert not rd.max_lyapunov_exponent(f, jnp.array([0.3]), 2000).agree


def test_driven_and_per_unit_time():
    inputs = jnp.concatenate([jnp.full((10, 1), 7.0), jnp.full((30, 1), 0.5)])
    both = rd.max_lyapunov_exponent(lambda x, u: u * x, jnp.ones(1), 30, inputs=inputs, num_transient=10, dt=0.1)
    np.testing.assert_allclose(both.exponent, np.log(0.5) / 0.1, rtol=1e-12)
    np.testing.assert_allclose(both.two_trajectory_exponent, np.log(0.5) / 0.1, rtol=1e-6)


def test_inside_jit_and_vmap():
    exponent = jax.jit(jax.vmap(lambda x: rd.max_lyapunov_exponent(lambda y: 0.5 * y, x, 10).exponent))
    np.testing.assert_allclose(exponent(jnp.ones((2, 1))), np.log(0.5), rtol=1e-12)


def test_a_constant_map_and_an_escaping_one():
    constant = rd.max_lyapunov_exponent(lambda x: 0 * x, jnp.ones(2), 20)
    assert np.isneginf(constant.exponent)
    assert np.isneginf(constant.two_trajectory_exponent)
    assert np.isnan(rd.max_lyapunov_exponent(lambda x: x**2, jnp.array([10.0]), 50).exponent)


def test_in_single_precision():
    with jax.enable_x64(False):
        both = rd.max_lyapunov_exponent(henon, jnp.array([0.1, 0.1], jnp.float32), 20_000)
    assert both.exponent.dtype == jnp.float32
    assert both.agree
    np.testing.assert_allclose(both.exponent, 0.41922, atol=4 * float(both.stderr))


def test_local_exponents_of_the_logistic_map():
    local = rd.local_exponents(Logistic(), jnp.array([0.3]), 500)
    np.testing.assert_allclose(local.exponents, np.log(np.abs(4 - 8 * local.states)), atol=1e-12)


# The logistic map, chaotic and in cycles, and two signals that are regular by construction.
@pytest.mark.parametrize(
    ("signal", "chaotic"),
    [
        pytest.param(lambda: logistic(4.0), True, id="r = 4"),
        pytest.param(lambda: logistic(3.97), True, id="r = 3.97"),
        pytest.param(lambda: logistic(3.83), False, id="cycle of three"),
        pytest.param(lambda: logistic(3.55), False, id="cycle of eight"),
        pytest.param(
            lambda: jnp.sin(np.sqrt(2) * jnp.arange(2000)) + jnp.cos(jnp.arange(2000)), False, id="quasiperiodic"
        ),
        pytest.param(lambda: jnp.ones(2000), False, id="constant"),
    ],
)
def test_zero_one_test(signal, chaotic):
    verdict = rd.zero_one_test(signal(), num_frequencies=50)
    assert bool(verdict.is_chaotic) == chaotic
    assert verdict.is_clear


def logistic(r):
    return rd.trajectory(Logistic(r), jnp.array([0.3]), 2000, num_transient=1000)[:, 0]
