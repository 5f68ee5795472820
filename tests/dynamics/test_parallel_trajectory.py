"""All steps at once: against closed forms and NumPy loops, with derivatives, and refused where the orbit is chaotic."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Logistic

import rnndyn as rd
from rnndyn.dynamics.numerics.parallel_scan import affine_recursion, affine_recursion_in_steps, damped_recursion

T, N, IN = 24, 4, 2
METHODS = ("newton", "diagonal", "damped")


class Driven(eqx.Module):
    """tanh(W x + V u)."""

    w: np.ndarray
    v: np.ndarray

    def __call__(self, x, u):
        return jnp.tanh(self.w @ x + self.v @ u)


def driven(gain, seed=0):
    rng = np.random.default_rng(seed)
    return Driven(gain * rng.normal(size=(N, N)) / np.sqrt(N), rng.normal(size=(N, IN)))


def looped(f, x0, inputs):
    states = [np.asarray(x0)]
    for u in inputs:
        states.append(np.tanh(f.w @ states[-1] + f.v @ u))
    return np.stack(states[1:])


ROWS = np.random.default_rng(5).normal(size=(T, IN))
X0 = np.random.default_rng(6).normal(size=N)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_states_are_those_of_a_loop(method):
    f = driven(0.8)
    found = rd.parallel_trajectory(f, X0, T, ROWS, method=method)
    # 256 units of rounding of the residual, amplified by the sum of products of contracting Jacobians.
    np.testing.assert_allclose(found.states, looped(f, X0, ROWS), atol=1e-12)
    assert found.result == rd.ParallelVerdict.converged
    assert 1 < found.num_iterations <= T + 1
    assert found.residual <= 256 * np.finfo(float).eps
    assert found.exponent + 2 * found.exponent_stderr < 0
    assert f"iterations {int(found.num_iterations)}" in str(found)


@pytest.mark.usefixtures("x64")
def test_a_linear_map_takes_one_iteration_and_a_known_exponent():
    found = rd.parallel_trajectory(lambda x: jnp.asarray([0.5, 0.8]) * x, np.ones(2), 100)
    assert found.num_iterations == 1
    np.testing.assert_allclose(found.states, np.array([0.5, 0.8]) ** np.arange(1, 101)[:, None], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.exponent, np.log(0.8), atol=1e-6)  # the tangent has turned after 25 steps


@pytest.mark.usefixtures("x64")
def test_the_solution_does_not_hang_on_the_guess_and_a_good_one_needs_no_iteration():
    f = driven(0.8)
    exact = looped(f, X0, ROWS)
    assert rd.parallel_trajectory(f, X0, T, ROWS, guess=exact).num_iterations == 0
    far = rd.parallel_trajectory(f, X0, T, ROWS, guess=100 * ROWS.repeat(2, axis=1))
    np.testing.assert_allclose(far.states, exact, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_the_loop_in_both_modes_and_to_second_order():
    f, rows, x0 = driven(0.8), jnp.asarray(ROWS), jnp.asarray(X0)
    weights = np.random.default_rng(7).normal(size=(T, N))

    @eqx.filter_jit
    def derivatives(f, x0, rows, parallel):
        loss = lambda p: jnp.sum(weights * rd.trajectory(p[0], p[1], T, p[2], parallel=parallel) ** 2)
        primals = jax.tree.map(jnp.asarray, (f, x0, rows))
        direction = jax.tree.map(jnp.cos, primals)
        gradient = jax.grad(loss)(primals)
        return (
            gradient,
            jax.jvp(loss, (primals,), (direction,))[1],
            jax.jvp(jax.grad(loss), (primals,), (direction,))[1],
        )

    for at_once, stepped in zip(
        jax.tree.leaves(derivatives(f, x0, rows, True)), jax.tree.leaves(derivatives(f, x0, rows, False))
    ):
        scale = np.abs(np.asarray(stepped)).max()
        np.testing.assert_allclose(at_once, stepped, atol=1e-11 * scale)  # rounding over the sequence


@pytest.mark.usefixtures("x64")
def test_batches_of_states_and_weights():
    fs = [driven(0.8, seed) for seed in range(3)]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fs)
    states = eqx.filter_vmap(lambda f: rd.trajectory(f, X0, T, ROWS, parallel=True))(many)
    np.testing.assert_allclose(states, [looped(f, X0, ROWS) for f in fs], atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_chaotic_orbit_is_iterated_or_refused_and_says_why():
    chaotic = Logistic()
    x0 = np.array([0.3])
    with pytest.warns(UserWarning, match="exponent over the first steps is above 0"):
        found = rd.parallel_trajectory(chaotic, x0, 96)
    assert found.result == rd.ParallelVerdict.chaotic
    assert found.num_iterations == 0
    np.testing.assert_array_equal(found.states, rd.trajectory(chaotic, x0, 96))
    np.testing.assert_allclose(found.exponent, np.log(2), atol=4 * found.exponent_stderr)
    with pytest.raises(ValueError, match="largest exponent over the first steps is above 0"):
        rd.parallel_trajectory(chaotic, x0, 96, if_chaotic="raise")
    with pytest.raises(RuntimeError, match="largest exponent over the first steps is above 0"):
        jax.block_until_ready(jax.jit(lambda x: rd.parallel_trajectory(chaotic, x, 96, if_chaotic="raise").states)(x0))
    # x -> 4 x (1 - x) doubles errors: nothing but the first iterations' worth of states is right.
    with pytest.warns(UserWarning, match="no convergence in 20 iterations"):
        tried = rd.parallel_trajectory(chaotic, x0, 96, if_chaotic="continue", max_steps=20)
    assert tried.result == rd.ParallelVerdict.out_of_steps
    np.testing.assert_array_equal(tried.states, found.states)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["newton", "diagonal"])
def test_as_many_iterations_as_steps_are_always_enough(method):
    # Chaotic, and bounded: a guess that is far off stays finite.
    f = driven(6.0)
    found = rd.parallel_trajectory(f, X0, T, ROWS, method=method, if_chaotic="continue", max_steps=T + 1)
    assert found.result == rd.ParallelVerdict.converged
    assert 6 < found.num_iterations <= T + 1
    np.testing.assert_allclose(found.states[:12], looped(f, X0, ROWS)[:12], atol=1e-8)  # rounding, grown over 12 steps


@pytest.mark.usefixtures("x64")
def test_recursions_against_loops_and_least_squares():
    rng = np.random.default_rng(0)
    length = 7
    a, b = rng.normal(size=(length, 3, 3)), rng.normal(size=(length, 3))
    expected, d = [], np.zeros(3)
    for matrix, offset in zip(a, b):
        d = matrix @ d + offset
        expected.append(d)
    for solve in (affine_recursion, affine_recursion_in_steps):
        np.testing.assert_allclose(solve(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-11)
    diagonal = np.stack([np.diagonal(m) for m in a])
    one_by_one = [affine_recursion(jnp.asarray(diagonal[:, [k]]), jnp.asarray(b[:, [k]]))[:, 0] for k in range(3)]
    of_matrices = affine_recursion(jnp.asarray(diagonal[:, :, None] * np.eye(3)), jnp.asarray(b))
    np.testing.assert_allclose(np.stack(one_by_one, 1), of_matrices, rtol=1e-12)
    # |L d - b|^2 + mu |d|^2 with L = 1 - (A one step back), solved as dense least squares.
    blocks = np.eye(3 * length)
    for t in range(1, length):
        blocks[3 * t : 3 * t + 3, 3 * t - 3 : 3 * t] = -a[t]
    for damping in (1e-3, 0.5, 30.0):
        dense = np.concatenate([blocks, np.sqrt(damping) * np.eye(3 * length)])
        least = np.linalg.lstsq(dense, np.concatenate([b.ravel(), np.zeros(3 * length)]))[0]
        found = damped_recursion(jnp.asarray(a), jnp.asarray(b), jnp.asarray(damping))
        np.testing.assert_allclose(found.ravel(), least, atol=1e-9)


def test_float32_stays_float32():
    f = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), driven(0.8))
    found = rd.parallel_trajectory(f, jnp.asarray(X0, jnp.float32), T, jnp.asarray(ROWS, jnp.float32))
    assert found.states.dtype == jnp.float32
    assert found.result == rd.ParallelVerdict.converged
    np.testing.assert_allclose(found.states, looped(driven(0.8), X0, ROWS), atol=1e-4)  # 256 units of 6e-8, amplified


def test_bad_input():
    f = driven(0.8)
    for options, match in (
        ({"method": "picard"}, "method: expected one of"),
        ({"if_chaotic": "ignore"}, "if_chaotic: expected one of"),
        ({"tol": 0.0}, "tol: expected a positive"),
        ({"max_steps": 0}, "max_steps"),
        ({"guess": ROWS}, "guess: expected states of shape"),
    ):
        with pytest.raises(ValueError, match=match):
            rd.parallel_trajectory(f, X0, T, ROWS, **options)
