"""Covariant Lyapunov vectors: what defines them, and cases where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon

import rnndyn as rd

pytestmark = pytest.mark.usefixtures("x64")

henon = Henon()


def network(x):
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(8, 8)) * 2.5 / np.sqrt(8))
    return weight @ jnp.tanh(x)


def equivariance(f, clv):
    """Sines of the angles between DF v_i(t) and v_i(t + 1)."""
    pushed = np.asarray(jax.jit(jax.vmap(lambda x, v: jax.jacfwd(f)(x) @ v))(clv.states, clv.vectors))[:-1]
    pushed = pushed / np.linalg.norm(pushed, axis=1, keepdims=True)
    later = np.asarray(clv.vectors)[1:]
    return np.linalg.norm(pushed - later * np.sign(np.sum(pushed * later, axis=1))[:, None], axis=1)


@pytest.mark.parametrize(("f", "x0"), [(henon, [0.1, 0.1]), (network, np.linspace(-1, 1, 8))])
def test_equivariance_and_exponents(f, x0):
    num_steps = 2000
    clv = rd.covariant_lyapunov_vectors(f, jnp.array(x0), num_steps, num_transient=500, num_backward=500)
    assert equivariance(f, clv).max() < 1e-6
    assert clv.convergence_error.max() < 1e-6
    np.testing.assert_allclose(np.linalg.norm(clv.vectors, axis=1), 1, atol=1e-12)
    spectrum = rd.lyapunov_spectrum(f, jnp.array(x0), num_steps, num_transient=500, qr_every=1)
    # Growth along covariant and along orthonormal vectors over the same window differs by a bounded term over T: by the
    # logarithm of the smallest angle met at its two ends.
    np.testing.assert_allclose(clv.exponents, spectrum.exponents, atol=20 / num_steps)
    # The first covariant vector is the first of the frame: the same growth to rounding.
    np.testing.assert_allclose(clv.exponents[0], spectrum.exponents[0], atol=1e-9)


def test_of_a_linear_map_they_are_the_eigenvectors():
    # Far from normal: orthonormal frames do not contain the second and third eigenvector.
    basis = np.array([[1.0, 1.0, 0.5], [0.0, 0.3, 1.0], [0.0, 0.0, 0.8]])
    basis /= np.linalg.norm(basis, axis=0)
    matrix = jnp.asarray(basis @ np.diag([2.0, -0.9, 0.3]) @ np.linalg.inv(basis))
    clv = rd.covariant_lyapunov_vectors(lambda x: matrix @ x, jnp.zeros(3), 10)
    aligned = np.abs(np.einsum("tni,ni->ti", clv.vectors, basis))
    np.testing.assert_allclose(aligned, 1, atol=1e-10)
    np.testing.assert_allclose(clv.local_exponents, np.tile(np.log([2.0, 0.9, 0.3]), (10, 1)), atol=1e-9)
    expected = np.arccos(
        np.abs(basis[:, 0] @ np.cross(basis[:, 1], basis[:, 2])) / np.linalg.norm(np.cross(basis[:, 1], basis[:, 2]))
    )
    # The angle of the first vector with the plane of the others is the complement of that with its normal.
    np.testing.assert_allclose(clv.angles(1), np.full(10, np.pi / 2 - expected), atol=1e-9)
    np.testing.assert_allclose(clv.hyperbolicity(1), np.pi / 2 - expected, atol=1e-9)


def test_the_cat_map_is_hyperbolic_and_the_henon_map_is_not():
    cat = rd.covariant_lyapunov_vectors(
        lambda x: jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ x % 1, jnp.array([0.1, 0.3]), 2000
    )
    np.testing.assert_allclose(cat.angles(), np.full(2000, np.pi / 2), atol=1e-9)  # a symmetric Jacobian
    short, long = (rd.covariant_lyapunov_vectors(henon, jnp.array([0.1, 0.1]), n) for n in (500, 20_000))
    assert float(long.hyperbolicity()) < float(short.hyperbolicity())  # tangencies come ever closer
    assert float(long.hyperbolicity()) < 0.01


def test_poor_convergence_is_reported():
    clv = rd.covariant_lyapunov_vectors(network, jnp.linspace(-1, 1, 8), 50, num_transient=5, num_backward=5)
    assert clv.convergence_error.max() > 1e-2


@pytest.mark.slow
def test_driven_and_fewer_vectors():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(650, 8)))
    driven = lambda x, u: network(x) + u
    options = {"inputs": inputs, "num_transient": 300, "num_backward": 300}
    few = rd.covariant_lyapunov_vectors(driven, jnp.zeros(8), 50, num_exponents=3, **options)
    full = rd.covariant_lyapunov_vectors(driven, jnp.zeros(8), 50, **options)
    assert few.vectors.shape == (50, 8, 3)
    np.testing.assert_allclose(np.abs(np.sum(few.vectors * full.vectors[:, :, :3], axis=1)), 1, atol=1e-6)


def test_subspace_angle():
    # Two planes in 4 dimensions with principal angles 1e-9 and 1.2: arccos of the cosine would lose the small one.
    angle = lambda *bases: rd.subspace_angle(*(jnp.asarray(basis, float) for basis in bases))
    first = np.eye(4)[:, :2]
    small, large = 1e-9, 1.2
    second = np.array([[np.cos(small), 0], [0, np.cos(large)], [np.sin(small), 0], [0, np.sin(large)]])
    second = second @ np.array([[1.0, 2.0], [0.5, -1.0]])
    np.testing.assert_allclose(angle(first, second), small, rtol=1e-5)
    np.testing.assert_allclose(angle(first[:, :1], np.eye(4)[:, 2:3]), np.pi / 2)
    # A plane and a line in it.
    np.testing.assert_allclose(angle(first, np.array([[1.0], [1.0], [0.0], [0.0]])), 0, atol=1e-15)


def test_splitting_off_everything_is_refused():
    clv = rd.covariant_lyapunov_vectors(henon, jnp.array([0.1, 0.1]), 10)
    with pytest.raises(ValueError, match="num_unstable"):
        clv.angles(2)
