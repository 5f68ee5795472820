"""Orthonormal frames of tangent vectors: pushed forward by the derivative of a map, orthonormalised on the way.

A frame is a matrix (N, k) whose columns are tangent vectors at the current state.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

_CHOLESKY_ON_CPU = (16, 192)
"""On the CPU, LAPACK's Householder QR is no slower than two Cholesky QRs for fewer or more columns than this
(benchmarks/lyapunov.py). On accelerators it is, for any number."""


_MOST_PASSES = 6
"""Of Cholesky QR: three reach rounding from any condition below 1 / eps, one more after each breakdown."""


def random_frame(num_units: int, num_vectors: int, dtype: Any, seed: int = 0) -> Float[Array, "N k"]:
    """A fixed orthonormal frame in general position; another `seed` gives an independent one.

    Coordinate axes would be the natural choice, but they can be invariant under a map (uncoupled units), and then
    the first k of them need not grow towards the k fastest directions.
    """
    return jnp.asarray(_frame_on_host(num_units, num_vectors, seed), dtype)


@lru_cache(maxsize=4)
def _frame_on_host(num_units, num_vectors, seed):
    # With NumPy: a frame is drawn once, and a program that is run once takes longer to compile than to run.
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((num_units, num_vectors)))[0]


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
    return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(jax.lax.linalg.lu(jacobian)[0]))))


@jax.custom_jvp
def orthonormalize(
    vectors: Float[Array, "N k"],
) -> tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]:
    r"""QR decomposition V = Q R with a positive diagonal of R.

    **Returns:** `(Q, ln diag R, condition)`. The condition of column i is the cancellation that the projection onto the
    complement of the earlier columns suffered, so ln R_ii carries a rounding error of about eps times it: |v_i| / R_ii,
    or less where q_i lives on rows that are smaller than |v_i|, for a rounding error is as small as its row.
    Where it is 1 / eps, R_ii is nothing but rounding: see `is_destroyed`.

    Cholesky QR twice (Yamamoto et al. 2015, "Roundoff error analysis of the CholeskyQR2 algorithm") is made of
    matrix products and triangular solves. It is exact to rounding when the first pass left an almost orthonormal Q.
    That is measured, on the Gram matrix of the second pass: when it is the identity to half of the digits, the second
    factorisation is replaced by its first-order expansion, and when it is far from it, by Householder QR.

    The derivative of a saturated network is diag(d) W with d over many decades. Householder QR is then as accurate in
    the small rows as in the large ones when the rows are sorted by falling size (Cox & Higham 1998, "Stability of
    Householder QR factorization for weighted least squares problems").

    The derivative is that of the decomposition, whichever way it was computed:
    with M = Q^T dV R^-1, d ln R_ii = M_ii and dQ = (1 - Q Q^T) dV R^-1 + Q (L - L^T), L the strict lower triangle of M.
    """
    if _CHOLESKY_ON_CPU[0] <= vectors.shape[1] <= _CHOLESKY_ON_CPU[1]:
        return _cholesky_qr_twice(vectors)
    return jax.lax.platform_dependent(vectors, cpu=householder_qr, default=_cholesky_qr_twice)


@orthonormalize.defjvp
def _orthonormalize_jvp(primals, tangents):
    (vectors,), (vectors_dot,) = primals, tangents
    q, log_diagonal, condition = orthonormalize(vectors)
    scale = _column_scale(vectors)  # keeps R away from over- and underflow
    r = jnp.triu(q.T @ (vectors / scale))
    # A destroyed direction has no growth rate to differentiate, and nothing of it may reach the columns before it.
    destroyed = is_destroyed(condition, vectors.shape[0]) | jnp.isneginf(log_diagonal)
    r = r + jnp.diag(jnp.where(destroyed, 1 - jnp.diagonal(r), 0))
    whitened = jax.lax.linalg.triangular_solve(r, vectors_dot / scale, left_side=False, lower=False)
    whitened = jnp.where(destroyed, 0, whitened)
    m = q.T @ whitened
    lower = jnp.tril(m, -1)
    q_dot = whitened + q @ (lower - lower.T - m)
    return (q, log_diagonal, condition), (q_dot, jnp.diagonal(m), jnp.zeros_like(condition))


@jax.custom_jvp
def nearly_orthonormalize(
    vectors: Float[Array, "N k"], exact: Bool[Array, ""] | bool = False
) -> tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]:
    r"""`orthonormalize` for a frame that is carried on: V = Q R to rounding, but Q orthonormal to about 1e-4 only.

    One pass of Cholesky QR. With Q = U S, U orthonormal and S upper triangular near 1, the next decomposition finds
    R' S^-1 in place of R', and S R in place of R was found here: the factors S cancel in the product of all R, whose
    diagonal is exact once the *last* frame is orthonormal. So only sums of ln R_ii up to a call of `orthonormalize` are
    rates; a single one of them is off by 1e-4.

    How far Q is from orthonormal is measured with four fixed random vectors z, E|Q^T Q z - z|^2 = |Q^T Q - 1|_F^2, and
    what is further than eps^(1/4), or broke down, is decomposed by `orthonormalize` (under `vmap` the whole batch). So
    is everything where `exact` says that each R_ii is wanted. The derivative is that of `orthonormalize`.
    """

    def skip(vectors):
        return jnp.asarray(0), (vectors, jnp.zeros_like(vectors[0]), jnp.zeros_like(vectors[0]))

    # `orthonormalize` stands in the program once, for both ways to it: it is what takes long to compile.
    good, found = jax.lax.cond(exact, skip, _cholesky_qr_once, vectors)
    keep, again = (lambda vectors, found: found), (lambda vectors, found: orthonormalize(vectors))
    return jax.lax.cond(shared_min(good) == 1, keep, again, vectors, found)


@nearly_orthonormalize.defjvp
def _nearly_orthonormalize_jvp(primals, tangents):
    return jax.jvp(orthonormalize, primals[:1], tangents[:1])


def _cholesky_qr_once(vectors):
    """1 where Q is orthonormal to eps^(1/4), else 0, and the decomposition."""
    scale = _column_scale(vectors)
    scaled = vectors / scale
    gram = _gram(scaled)
    factor = _cholesky(gram)
    q = _solve_right(scaled, factor)
    good = jnp.where(_squared_defect(q) <= float(jnp.finfo(q.dtype).eps) ** 0.5, 1, 0)
    diagonal = jnp.diagonal(factor)
    return good, (q, jnp.log(diagonal) + jnp.log(scale), jnp.sqrt(jnp.diagonal(gram)) / diagonal)


def quick_qr(
    vectors: Float[Array, "N k"], exact: Bool[Array, ""]
) -> tuple[Bool[Array, ""], tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]]:
    """Whether Cholesky QR was good enough, and what it found: what `orthonormalize` finds where `exact`, and
    `nearly_orthonormalize` elsewhere. Their other ways take several times as long to compile: this is for a loop that
    can stop, and let them do what is left. Without a derivative, and for one frame, not a batch.

    As many passes as it takes, each R times those before. A factorisation that breaks down is repeated with a shift
    (Fukaya et al. 2020, "Shifted Cholesky QR for computing the QR factorization of ill-conditioned matrices").
    """
    eps = float(jnp.finfo(vectors.dtype).eps)
    scale = _column_scale(vectors)
    scaled = vectors / scale
    if vectors.shape[1] <= _CHOLESKY_ON_CPU[1]:
        converged, q, log_diagonal = _cholesky_passes(scaled, exact, _MOST_PASSES)
    else:
        # One pass costs less than Householder QR, two cost more.
        one = lambda scaled: _cholesky_passes(scaled, False, 1)
        none = lambda scaled: (jnp.asarray(False), scaled, jnp.zeros_like(scaled[0]))
        first = jax.lax.cond(exact, none, one, scaled)
        converged, q, log_diagonal = jax.lax.platform_dependent(
            first,
            scaled,
            exact,
            cpu=lambda first, scaled, exact: jax.lax.cond(first[0], lambda scaled: first, _by_householder, scaled),
            default=lambda first, scaled, exact: _cholesky_passes(scaled, exact, _MOST_PASSES),
        )
    length, diagonal = jnp.linalg.norm(scaled, axis=0), jnp.exp(log_diagonal)
    # Each row of Q was solved for by itself, so its rounding errors are relative to the row here too.
    condition = jax.lax.cond(
        jnp.max(length / diagonal) <= eps**-0.5,
        lambda q: length / diagonal,
        lambda q: _seen(scaled, length, q) * length / diagonal,
        q,
    )
    return converged & (jnp.max(condition) <= eps**-0.5), (q, log_diagonal + jnp.log(scale), condition)


def _cholesky_passes(scaled, exact, most):
    num_units, num_vectors = scaled.shape
    eps = float(jnp.finfo(scaled.dtype).eps)
    shift = 11 * (num_units + num_vectors + 1) * eps  # of the squared norm: theirs, with their bound on the rounding

    def is_done(before, defect):
        return jnp.where(exact, before <= 1e-2, defect <= eps**0.5)

    def one_pass(carry):
        q, log_diagonal, _, defect, k = carry
        gram = _gram(q)
        # Only after a breakdown is there no defect to know.
        shifted = jnp.where(jnp.isnan(defect), shift * jnp.trace(gram), 0)
        factor = _cholesky(gram + shifted * jnp.eye(num_vectors, dtype=q.dtype))
        new = _solve_right(q, factor)
        found = _squared_defect(new)
        broken = ~jnp.isfinite(found)
        return (
            jnp.where(broken, q, new),
            log_diagonal + jnp.where(broken, 0, jnp.log(jnp.diagonal(factor))),
            defect,
            jnp.where(broken, jnp.nan, found),
            k + 1,
        )

    unknown = jnp.full((), jnp.inf, scaled.dtype)
    start = (scaled, jnp.zeros_like(scaled[0]), unknown, unknown, 0)
    unfinished = lambda carry: (carry[4] < most) & ~is_done(*carry[2:4])
    q, log_diagonal, before, defect, _ = jax.lax.while_loop(unfinished, one_pass, start)
    return is_done(before, defect), q, log_diagonal


def _by_householder(scaled):
    q, diagonal = _sorted_householder(scaled)
    return jnp.asarray(True), q, jnp.log(diagonal)


def _squared_defect(q):
    """About |Q^T Q - 1|_F^2, from four fixed vectors."""
    probes = _probes(q.shape[1], q.dtype)
    return jnp.max(jnp.sum((q.T @ (q @ probes) - probes) ** 2, axis=0))


def _probes(size: int, dtype: Any) -> Float[Array, "k 4"]:
    return jnp.asarray(np.random.default_rng(0).choice((-1.0, 1.0), (size, 4)), dtype)


def is_destroyed(condition: Float[Array, " k"], num_units: int) -> Bool[Array, " k"]:
    """Where R_ii consists of rounding errors alone: to the precision of the numbers, the direction was mapped to 0.

    That is what dead units, units without outgoing weights and saturated slopes do, all of them at one step of the map.
    Over several steps without orthonormalisation a direction is lost to the others in the same way, and alive.
    """
    return condition * num_units * jnp.finfo(condition.dtype).eps >= 1


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
        return householder_qr(vectors)

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


def householder_qr(
    vectors: Float[Array, "N k"],
) -> tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]:
    """`orthonormalize` by LAPACK with the rows sorted by size, whatever they are like; without a derivative rule."""
    scale = _column_scale(vectors)
    scaled = vectors / scale
    q, diagonal = _sorted_householder(scaled)
    length = jnp.linalg.norm(scaled, axis=0)
    # A zero column has nothing to cancel: its growth is exactly 0 and ln 0 = -inf is the truth.
    condition = jnp.where(length > 0, jnp.maximum(1, _seen(scaled, length, q) * length / diagonal), 1)
    return q, jnp.log(diagonal) + jnp.log(scale), condition


def _sorted_householder(scaled):
    """Q and the diagonal of R, positive, by LAPACK on the rows by falling size."""
    order = jnp.argsort(-jnp.max(jnp.abs(scaled), axis=1))
    q, r = jnp.linalg.qr(scaled[order])
    q = jnp.zeros_like(q).at[order].set(q)
    diagonal = jnp.diagonal(r)
    return q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype), jnp.abs(diagonal)


def _seen(scaled, length, q):
    """How much of a column's rounding errors its q sees: that of row n is relative to the row, in the columns that took
    part so far, and as large as its mean square share of them."""
    num_units, num_vectors = scaled.shape
    shares = (scaled / jnp.where(length > 0, length, 1)) ** 2
    so_far = jnp.triu(jnp.ones((num_vectors, num_vectors), scaled.dtype))  # a product compiles faster than a cumsum
    shares = shares @ so_far / jnp.arange(1, num_vectors + 1, dtype=shares.dtype)
    return jnp.minimum(1, jnp.sqrt(num_units * jnp.sum(q**2 * shares, axis=0)))


def _gram(vectors):
    """V^T V. With its left factor laid out anew, XLA's CPU backend takes a third of the time."""
    return jax.lax.optimization_barrier(vectors.T) @ vectors


def _cholesky(gram):
    return jax.lax.linalg.cholesky(gram, symmetrize_input=False)


def _solve_right(vectors, lower):
    """`vectors` L^-T, on the right: the layout for which the triangular solve is fastest."""
    return jax.lax.linalg.triangular_solve(lower, vectors, left_side=False, lower=True, transpose_a=True)
