import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Logistic

import rnndyn as rd

logistic = Logistic()


class Sum(eqx.Module):
    def __call__(self, x, u):
        return x + u


@pytest.mark.usefixtures("x64")
def test_follows_the_closed_form_of_the_logistic_map():
    # x_t = sin^2(2^t a). Errors double every step: 10 steps leave 1e-13.
    states = rd.trajectory(logistic, jnp.array([np.sin(0.3) ** 2]), 10)
    np.testing.assert_allclose(states[:, 0], np.sin(0.3 * 2.0 ** np.arange(1, 11)) ** 2, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_transient_is_left_out():
    x0 = jnp.array([0.3])
    np.testing.assert_array_equal(rd.trajectory(logistic, x0, 5, num_transient=7), rd.trajectory(logistic, x0, 12)[7:])


def test_inputs_drive_the_map_row_by_row():
    inputs = np.arange(6, dtype=np.float32)[:, None]
    states = rd.trajectory(lambda x, u: x + u, np.zeros(1, np.float32), 4, inputs, num_transient=2)
    np.testing.assert_array_equal(states[:, 0], np.cumsum(inputs)[2:])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("num_steps", "num_transient"), [(5000, 0), (3000, 4095), (1, 4096), (4096, 5)])
def test_blocks_are_joined_where_they_meet(num_steps, num_transient):
    # x_t = x_0 + sum of the inputs up to t, exactly: whole numbers. A block has 4096 rows.
    inputs = np.random.default_rng(0).integers(-5, 6, (num_transient + num_steps, 2)).astype(float)
    states = rd.trajectory(Sum(), np.array([1.0, 2.0]), num_steps, inputs, num_transient=num_transient)
    assert isinstance(states, jax.Array)
    np.testing.assert_array_equal(states, np.array([1, 2]) + np.cumsum(inputs, axis=0)[num_transient:])


def test_blocks_and_a_scan_are_one_orbit():
    weight = 0.9 * np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    f, x0 = lambda x: jnp.tanh(weight @ x), np.ones(3, np.float32)
    np.testing.assert_allclose(
        rd.trajectory(f, x0, 20, num_transient=3),
        jax.jit(lambda x: rd.trajectory(f, x, 20, num_transient=3))(x0),
        atol=1e-5,  # float32, contracted or expanded for 23 steps
    )
    gradient = jax.grad(lambda a: rd.trajectory(lambda x: a * x, x0, 4)[-1, 0])(2.0)  # the constant alone is traced
    np.testing.assert_allclose(gradient, 4 * 2.0**3)


def test_gradients_and_batches():
    weight = jnp.eye(3) * 0.5
    run = jax.jit(jax.vmap(lambda x: rd.trajectory(lambda y: weight @ y, x, 3)))
    assert run(jnp.ones((4, 3))).shape == (4, 3, 3)
    gradient = jax.grad(lambda x: rd.trajectory(lambda y: weight @ y, x, 3)[-1].sum())(jnp.ones(3))
    np.testing.assert_allclose(gradient, 0.125)


def test_bad_input():
    with pytest.raises(ValueError, match="inputs: expected 5 rows"):
        rd.trajectory(lambda x, u: x + u, np.zeros(1), 5, np.zeros((4, 1)))
    with pytest.raises(ValueError, match="num_steps"):
        rd.trajectory(logistic, np.zeros(1), 0)
    with pytest.raises(ValueError, match="x0: expected floating-point"):
        rd.trajectory(logistic, np.zeros(1, int), 3)
    with pytest.raises(ValueError, match="f: expected it to keep the dtype"):
        rd.trajectory(lambda x: x.astype(jnp.float16), np.zeros(1), 3)
