"""The spectrum is differentiable."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rnndyn as rd
from rnndyn.dynamics.numerics.frames import orthonormalize

pytestmark = pytest.mark.usefixtures("x64")


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


class Tanh(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ jnp.tanh(x)


def gaussian(num_units, gain, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_units, num_units)) * gain / np.sqrt(num_units))


def exponents(f, num_units, num_steps, **options):
    return rd.lyapunov_spectrum(f, jnp.linspace(-1, 1, num_units), num_steps, **options).exponents


def test_linear_network():
    weight = gaussian(6, 1.0, 0)
    # sum lambda = ln |det W| at any T: the gradient is W^-T.
    gradient = jax.jit(jax.grad(lambda w: exponents(Linear(w), 6, 20).sum()))(weight)
    np.testing.assert_allclose(gradient, np.linalg.inv(weight).T, rtol=1e-8, atol=1e-8)
    # W -> s W adds ln s to every exponent.
    scaled = lambda s: exponents(Linear(jnp.exp(s) * weight), 6, 20)
    scale = jax.jit(jax.jacfwd(scaled))(0.0)
    np.testing.assert_allclose(scale, np.ones(6), atol=1e-10)
    backward = jax.jit(jax.jacrev(scaled))(0.0)
    np.testing.assert_allclose(backward, np.ones(6), atol=1e-10)


@pytest.mark.parametrize("num_exponents", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 6))])
def test_against_finite_differences(num_exponents):
    weight = gaussian(6, 1.5, 1)
    run = lambda w: exponents(Tanh(w), 6, 15, num_exponents=num_exponents, num_transient=5, qr_every=2)
    # Steps of 1e-6: the third derivative of a chaotic trajectory is large, and its truncation error grows with eps^2.
    check_grads(jax.jit(run), (weight,), order=1, modes=("fwd", "rev"), rtol=1e-5, atol=1e-6, eps=1e-6)


@pytest.mark.parametrize("remat_every", [5, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 23, 100))])
def test_recomputing_gives_the_same_gradient(remat_every):
    weight = gaussian(6, 1.5, 1)
    # Not under `jit`, as it is written at a prompt.
    gradient = lambda **options: jax.grad(lambda w: exponents(Tanh(w), 6, 23, **options)[0])(weight)
    np.testing.assert_allclose(gradient(remat_every=remat_every), gradient(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_recomputing_saves_memory():
    weight = gaussian(32, 1.5, 1)

    def peak(remat_every):
        gradient = jax.jit(jax.grad(lambda w: exponents(Tanh(w), 32, 400, remat_every=remat_every)[0]))
        return gradient.lower(weight).compile().memory_analysis().temp_size_in_bytes

    assert peak(20) < 0.25 * peak(None)


@pytest.mark.slow
def test_gradient_commutes_with_batches():
    weights = jnp.stack([gaussian(5, g, 2) for g in (0.8, 1.5, 3.0)])
    run = lambda w: exponents(Tanh(w), 5, 12, qr_every=1)[:2].sum()
    one = jax.jit(jax.grad(run))
    batched = jax.jit(jax.vmap(one))(weights)
    summed = jax.jit(jax.grad(lambda ws: jax.vmap(run)(ws).sum()))(weights)
    for i in range(3):
        np.testing.assert_allclose(batched[i], one(weights[i]), rtol=1e-9)
    np.testing.assert_allclose(summed, batched, rtol=1e-9)


# A square one, a tall one, one wide enough for the Cholesky way, one so ill conditioned that it needs Householder's.
@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (20, 18)])
@pytest.mark.parametrize("grading", [0.0, 2.0])
def test_orthonormalisation(shape, grading):
    noise = np.random.default_rng(5).normal(size=shape)
    first = noise[:, :1] @ np.ones((1, shape[1])) * 10**grading  # nearly parallel columns
    vectors = jnp.asarray(noise + (grading > 0) * first)
    q, log_diagonal, condition = orthonormalize(vectors)
    np.testing.assert_allclose(q.T @ q, np.eye(shape[1]), atol=1e-13)
    expected = np.log(np.abs(np.diagonal(np.linalg.qr(vectors)[1])))
    np.testing.assert_allclose(log_diagonal, expected, atol=1e-13 * float(condition.max()))
    lengths = np.linalg.norm(vectors, axis=0)
    # |v_i| / R_ii, or less where q_i lives on smaller rows: chance makes some of them a few times smaller.
    assert np.all(condition <= np.maximum(1, lengths / np.exp(expected)) * (1 + 1e-10))
    assert np.all(condition >= 0.2 * lengths / np.exp(expected))
    run = jax.jit(lambda v: orthonormalize(v)[:2])
    check_grads(run, (vectors,), order=1, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e12])
def test_every_way_of_orthonormalising_is_orthonormal_to_rounding(condition):
    # The first-order second pass, the second Cholesky factorisation and Householder's reflections, in that order.
    rng = np.random.default_rng(6)
    left, right = (np.linalg.qr(rng.normal(size=(24, 24)))[0] for _ in range(2))
    vectors = jnp.asarray(left * np.geomspace(1, 1 / condition, 24) @ right)
    q, log_diagonal, _ = orthonormalize(vectors)
    np.testing.assert_allclose(q.T @ q, np.eye(24), atol=1e-13)
    np.testing.assert_allclose(log_diagonal.sum(), -np.log(condition) * 12, atol=1e-13 * condition + 1e-12)


def test_scales_far_apart_stay_in_range():
    vectors = jnp.asarray(np.random.default_rng(7).normal(size=(20, 18))) * jnp.geomspace(1e-200, 1e200, 18)
    q, log_diagonal, _ = orthonormalize(vectors)
    np.testing.assert_allclose(q.T @ q, np.eye(18), atol=1e-13)
    assert np.isfinite(log_diagonal).all()
