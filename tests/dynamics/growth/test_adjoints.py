"""Backpropagated vectors, Jacobian products and memory."""

from fractions import Fraction

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")


class Network(eqx.Module):
    """x <- J tanh(x) + B u."""

    weight: jax.Array
    weight_in: jax.Array

    def __call__(self, x, u):
        return self.weight @ jnp.tanh(x) + self.weight_in @ u


class Autonomous(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ jnp.tanh(x)


def gaussian(num_units, gain, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_units, num_units)) * gain / np.sqrt(num_units))


def setting():
    rng = np.random.default_rng(1)
    network = Network(gaussian(6, 1.5, 0), jnp.asarray(rng.normal(size=(6, 2))))
    return network, jnp.asarray(rng.normal(size=6)), jnp.asarray(rng.normal(size=(30, 2)))


def test_they_are_the_gradients_that_autodiff_finds():
    network, x0, inputs = setting()
    loss = lambda xs: jnp.sum(xs[::7] ** 2) + xs[-1, 0] * xs[3, 1]

    def total(network, x0, kicks):
        """The loss when the states x_1, ..., x_T are kicked."""

        def step(x, row):
            u, kick = row
            x = network(x, u) + kick
            return x, x

        return loss(jax.lax.scan(step, x0, (inputs, kicks))[1])

    by_network, by_x0, by_kick = jax.grad(total, argnums=(0, 1, 2))(network, x0, jnp.zeros((30, 6)))
    result = rd.adjoints(network, x0, inputs, loss)
    np.testing.assert_allclose(result.vectors, np.concatenate([by_x0[None], by_kick]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.parameter_gradient["weight"], by_network.weight, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.parameter_gradient["weight_in"], by_network.weight_in, rtol=1e-10, atol=1e-12)
    contributions = rd.parameter_contributions(network, inputs, result)
    for name, gradient in result.parameter_gradient.items():
        np.testing.assert_allclose(contributions[name].sum(axis=0), gradient, rtol=1e-10, atol=1e-12)
        norms = np.linalg.norm(contributions[name].reshape(30, -1), axis=1)
        np.testing.assert_allclose(result.contribution_norms[name], norms, rtol=1e-10, atol=1e-14)


def test_states_are_those_of_the_trajectory():
    network, x0, inputs = setting()
    result = rd.adjoints(network, x0, inputs, lambda xs: xs[-1].sum())
    np.testing.assert_allclose(result.states[1:], rd.trajectory(network, x0, 30, inputs), rtol=1e-12)


@pytest.mark.parametrize("gain", [4.0, 2.0, 0.9])
def test_gradients_grow_like_the_largest_exponent(gain):
    # Mikhaeil, Monfared & Durstewitz (2022): the same number, once forwards in tangent space, once backwards.
    f, x0, num_steps = Autonomous(gaussian(50, gain, 3)), jnp.linspace(-1, 1, 50), 3000
    x0 = rd.trajectory(f, x0, 1, num_transient=300)[0]
    spectrum = rd.lyapunov_spectrum(f, x0, num_steps, num_exponents=1)
    result = rd.adjoints(f, x0, None, lambda xs: xs[-1].sum(), num_steps=num_steps)
    # The two differ by the angle between two vectors at the ends, a bounded number, over T.
    np.testing.assert_allclose(result.growth_rate, spectrum.exponents[0], atol=10 / num_steps)
    first, last = result.log_norms[0], result.log_norms[-1]
    np.testing.assert_allclose((first - last) / num_steps, result.growth_rate, rtol=1e-9)
    assert np.isfinite(result.log_norms).all()
    if gain == 4.0:
        assert float(first) > 710  # the gradient itself is beyond float64, its logarithm is not


def test_a_loss_that_does_not_depend_on_the_states():
    network, x0, inputs = setting()
    result = rd.adjoints(network, x0, inputs, lambda xs: jnp.zeros(()))
    assert np.isneginf(result.log_norms).all()
    np.testing.assert_array_equal(result.vectors, np.zeros((31, 6)))
    np.testing.assert_array_equal(result.parameter_gradient["weight"], np.zeros((6, 6)))


def test_an_adjoint_of_a_flow():
    f = rd.time_map(lambda x: jnp.stack([x[1], -x[0]]), np.pi / 2, adjoint=diffrax.DirectAdjoint())
    result = rd.adjoints(f, jnp.array([1.0, 0.0]), None, lambda xs: xs[-1, 0], num_steps=1)
    # A quarter turn takes (x, v) to (v, -x), so d x_1 / d (x_0, v_0) = (0, 1).
    np.testing.assert_allclose(result.vectors[0], [0, 1], atol=1e-7)


def test_singular_values_of_a_short_product():
    f, x0 = Autonomous(gaussian(7, 2.0, 4)), jnp.linspace(-1, 1, 7)
    result = rd.jacobian_product_spectrum(f, x0, [3, 1], num_transient=10)
    states = np.concatenate([[x0], rd.trajectory(f, x0, 13)])
    product = np.eye(7)
    for lag in (1, 2, 3):
        product = np.asarray(jax.jacfwd(f)(jnp.asarray(states[9 + lag]))) @ product
        if lag in (1, 3):
            row = list(result.lags).index(lag)
            np.testing.assert_allclose(
                result.log_singular_values[row], np.log(np.linalg.svd(product)[1]), rtol=1e-9, atol=1e-10
            )


def test_singular_values_far_below_rounding():
    # 2 x 2 matrices in exact arithmetic: sigma_1 sigma_2 = |det|, sigma_1^2 + sigma_2^2 = trace(A^T A).
    entries = [[2, 1], [1, 1]], [[3, 1], [2, 1]], [[1, 2], [3, 5]]
    lag = 60
    product = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]]
    inputs = []
    for t in range(lag):
        a = entries[t % 3]
        inputs.append(a)
        product = [[sum(a[i][k] * product[k][j] for k in range(2)) for j in range(2)] for i in range(2)]
    squares = sum(entry**2 for row in product for entry in row)
    log_det = 0.0  # every factor has determinant +-1
    log_first = 0.5 * (np.log(float(squares / Fraction(10) ** 60)) + 60 * np.log(10))  # sigma_2 adds 1e-120 to it
    f = lambda x, u: u @ x
    result = rd.jacobian_product_spectrum(f, jnp.ones(2), [lag], inputs=jnp.asarray(inputs, float))
    np.testing.assert_allclose(result.log_singular_values[0], [log_first, log_det - log_first], rtol=1e-12)
    assert log_first > 70  # sigma_2 is 1e-60 of sigma_1: a plain singular value decomposition would see noise
    np.testing.assert_allclose(result.finite_time_exponents[0, 0], log_first / lag, rtol=1e-12)


def test_singular_values_of_a_long_product_tend_to_the_exponents():
    f, x0, lag = Autonomous(gaussian(9, 2.0, 5)), jnp.linspace(-1, 1, 9), 3000
    result = rd.jacobian_product_spectrum(f, x0, [lag])
    spectrum = rd.lyapunov_spectrum(f, x0, lag)
    np.testing.assert_allclose(result.finite_time_exponents[0], spectrum.exponents, atol=20 / lag)
    np.testing.assert_allclose(result.finite_time_exponents[0].sum(), spectrum.sum, atol=1e-9)


def test_singular_values_of_a_singular_product():
    f = lambda x: jnp.stack([2 * x[0] + x[1], x[0] + 0.5 * x[1]])
    result = rd.jacobian_product_spectrum(f, jnp.ones(2), [4])
    np.testing.assert_allclose(result.log_singular_values[0, 0], 4 * np.log(2.5), rtol=1e-12)
    assert float(result.log_singular_values[0, 1]) < -30  # nothing but rounding is left


def test_losses_that_are_alike_share_one_program():
    f, x0 = Autonomous(gaussian(6, 1.5, 0)), jnp.linspace(-1, 1, 6)
    of = lambda direction: rd.adjoints(f, x0, None, lambda states: direction @ states[-1], num_steps=10)
    first, second = np.random.default_rng(7).normal(size=(2, 6))
    of(first)
    with count_compilations() as count:
        adjoints = of(second)
    assert count() == 0
    # The gradient with respect to the last state is the direction itself.
    np.testing.assert_allclose(adjoints.log_norms[-1], np.log(np.linalg.norm(second)), rtol=1e-14)


def test_memory_of_a_linear_network():
    # x <- a Q x with Q orthogonal: every gradient falls by exactly a per step, and to 1/10 after ln(10) / -ln(a) steps.
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    f = lambda x: 0.9 * jnp.asarray(orthogonal) @ x
    memory = rd.memory_horizon(f, jnp.ones(6), 200, 50, factor=10.0, key=jax.random.key(0))
    np.testing.assert_allclose(memory.horizon, np.log(10) / -np.log(0.9), rtol=1e-10)
    np.testing.assert_allclose(memory.log_gradient, np.log(0.9) * np.arange(51), atol=1e-10)
    assert not memory.extrapolated
    short = rd.memory_horizon(f, jnp.ones(6), 200, 5, factor=10.0, key=jax.random.key(0))
    np.testing.assert_allclose(short.horizon, memory.horizon, rtol=1e-10)
    assert short.extrapolated


def test_memory_of_chaos_is_without_end():
    f = Autonomous(gaussian(50, 4.0, 3))
    memory = rd.memory_horizon(f, jnp.linspace(-1, 1, 50), 2000, 200, num_transient=300, key=jax.random.key(0))
    assert np.isinf(memory.horizon)
    exponent = rd.lyapunov_spectrum(f, jnp.linspace(-1, 1, 50), 2000, num_exponents=1, num_transient=300)
    error = np.hypot(float(memory.exponent_stderr), float(exponent.stderr[0]))
    assert abs(float(memory.exponent - exponent.exponents[0])) < 4 * error + 5 / 100  # and O(1 / lags)


def test_memory_that_is_destroyed_at_once():
    memory = rd.memory_horizon(lambda x: 0 * x, jnp.ones(3), 20, 5, key=jax.random.key(0))
    assert float(memory.horizon) == 1
