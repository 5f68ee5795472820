"""Orthonormal frames of tangent vectors: pushed forward by the derivative of a map, orthonormalised on the way.

A frame is a matrix (N, k) whose columns are tangent vectors at the current state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

_CHOLESKY_ON_CPU = (16, 192)
"""On the CPU, LAPACK's Householder QR is no slower than two Cholesky QRs for fewer or more columns than this
(benchmarks/lyapunov.py). On accelerators it is, for any number."""


def random_frame(num_units: int, num_vectors: int, dtype: Any) -> Float[Array, "N k"]:
    """A fixed orthonormal frame in general position.

    Coordinate axes would be the natural choice, but they can be invariant under a map (uncoupled units), and then
    the first k of them need not grow towards the k fastest directions.
    """
    gaussian = jax.random.normal(jax.random.key(0), (num_units, num_vectors), dtype)
    return jnp.linalg.qr(gaussian)[0]


def push_frame(
    f: Callable, x: Float[Array, " N"], args: tuple, frame: Float[Array, "N k"]
) -> tuple[Float[Array, " N"], Float[Array, "N k"]]:
    """`f(x, *args)` and D_x f(x, *args) applied to every column; a dense layer in `f` becomes one matrix product."""

    def column(v):
        return jax.jvp(lambda y: f(y, *args), (x,), (v,))

    return jax.vmap(column, in_axes=1, out_axes=(None, 1))(frame)


def log_abs_det(f: Callable, x: Float[Array, " N"], args: tuple) -> Float[Array, ""]:
    """ln |det D_x f(x, *args)| from the dense Jacobian, by an LU decomposition."""
    jacobian = push_frame(f, x, args, jnp.eye(x.size, dtype=x.dtype))[1]
    return jnp.linalg.slogdet(jacobian)[1]


@jax.custom_jvp
def orthonormalize(
    vectors: Float[Array, "N k"],
) -> tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]:
    r"""QR decomposition V = Q R with a positive diagonal of R.

    **Returns:** `(Q, ln diag R, condition)`. The condition of column i is |v_i| / R_ii >= 1: the cancellation that
    the projection onto the complement of the earlier columns suffered, so ln R_ii carries a rounding error of about
    eps times it.

    Cholesky QR twice (Yamamoto et al. 2015, "Roundoff error analysis of the CholeskyQR2 algorithm") is made of
    matrix products and triangular solves. It is exact to rounding when the first pass left an almost orthonormal Q.
    That is measured, on the Gram matrix of the second pass: when it is the identity to half of the digits, the second
    factorisation is replaced by its first-order expansion, and when it is far from it, by Householder QR.

    The derivative is that of the decomposition, whichever way it was computed:
    with M = Q^T dV R^-1, d ln R_ii = M_ii and dQ = (1 - Q Q^T) dV R^-1 + Q (L - L^T), L the strict lower triangle of M.
    """
    if _CHOLESKY_ON_CPU[0] <= vectors.shape[1] <= _CHOLESKY_ON_CPU[1]:
        return _cholesky_qr_twice(vectors)
    return jax.lax.platform_dependent(vectors, cpu=_householder_qr, default=_cholesky_qr_twice)


@orthonormalize.defjvp
def _orthonormalize_jvp(primals, tangents):
    (vectors,), (vectors_dot,) = primals, tangents
    q, log_diagonal, condition = orthonormalize(vectors)
    scale = _column_scale(vectors)  # keeps R away from over- and underflow
    r = jnp.triu(q.T @ (vectors / scale))
    whitened = jax.lax.linalg.triangular_solve(r, vectors_dot / scale, left_side=False, lower=False)
    m = q.T @ whitened
    lower = jnp.tril(m, -1)
    q_dot = whitened + q @ (lower - lower.T - m)
    return (q, log_diagonal, condition), (q_dot, jnp.diagonal(m), jnp.zeros_like(condition))


def triangular_factor(q: Float[Array, "N k"], vectors: Float[Array, "N k"]) -> Float[Array, "k k"]:
    """The R of V = Q R, given V and its Q."""
    return jnp.triu(q.T @ vectors)


@custom_vmap
def shared_min(value: Int[Array, ""]) -> Int[Array, ""]:
    """`value`, or under `vmap` the least of the batch.

    The answer is one for the batch, so a branch taken on it stays a branch; on a batched value it would become a
    select that computes every side.
    """
    return value


@shared_min.def_vmap
def _shared_min_vmap(axis_size, in_batched, value):
    del axis_size
    return shared_min(jnp.min(value, axis=0) if in_batched[0] else value), False


def _column_scale(vectors):
    largest = jnp.max(jnp.abs(vectors), axis=0)
    return jnp.where(largest > 0, largest, 1)


def _cholesky_qr_twice(vectors):
    scale = _column_scale(vectors)
    scaled = vectors / scale
    gram = _gram(scaled)
    first = _cholesky(gram)
    q = _solve_right(scaled, first)
    gram_q = _gram(q)
    error = gram_q - jnp.eye(gram_q.shape[0], dtype=q.dtype)
    size = jnp.max(jnp.sum(jnp.abs(error), axis=0))

    def finish(q, second_diagonal):
        diagonal = jnp.diagonal(first) * second_diagonal
        return q, jnp.log(diagonal) + jnp.log(scale), jnp.sqrt(jnp.diagonal(gram)) / diagonal

    def householder(q, error, gram_q):
        del q, error, gram_q
        return _householder_qr(vectors)

    def second_pass(q, error, gram_q):
        del error
        second = _cholesky(gram_q)
        return finish(_solve_right(q, second), jnp.diagonal(second))

    def correction(q, error, gram_q):
        del gram_q
        # chol(I + E) = I + tril(E, -1) + diag(E) / 2 + O(E^2)
        half = jnp.tril(error, -1) + jnp.diag(jnp.diagonal(error) / 2)
        return finish(q - q @ half.T, 1 + jnp.diagonal(error) / 2)

    # A first-order second pass is exact to rounding when the square of the error is; below 1/2 the second Cholesky
    # factor is well conditioned. NaN, from a first factorisation that failed, is in neither.
    way = jnp.where(size < jnp.sqrt(jnp.finfo(q.dtype).eps), 2, jnp.where(size < 0.5, 1, 0))
    return jax.lax.switch(shared_min(way), [householder, second_pass, correction], q, error, gram_q)


def _householder_qr(vectors):
    scale = _column_scale(vectors)
    scaled = vectors / scale
    q, r = jnp.linalg.qr(scaled)
    diagonal = jnp.diagonal(r)
    q = q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype)
    diagonal = jnp.abs(diagonal)
    # A zero column has nothing to cancel: its growth is exactly 0 and ln 0 = -inf is the truth.
    length = jnp.linalg.norm(scaled, axis=0)
    condition = jnp.where(length > 0, length / diagonal, 1)
    return q, jnp.log(diagonal) + jnp.log(scale), condition


def _gram(vectors):
    """V^T V. With its left factor laid out anew, XLA's CPU backend takes a third of the time."""
    return jax.lax.optimization_barrier(vectors.T) @ vectors


def _cholesky(gram):
    return jax.lax.linalg.cholesky(gram, symmetrize_input=False)


def _solve_right(vectors, lower):
    """`vectors` L^-T, on the right: the layout for which the triangular solve is fastest."""
    return jax.lax.linalg.triangular_solve(lower, vectors, left_side=False, lower=True, transpose_a=True)
