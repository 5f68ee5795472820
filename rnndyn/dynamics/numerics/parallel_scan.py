"""Linear recursions along time, all steps at once: affine maps and Kalman filters under an associative scan."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST
"""Products of many matrices: what a GPU drops of float32 by default would be multiplied over the sequence."""


def affine_recursion(matrices: Float[Array, "T N *M"], offsets: Float[Array, "T N"]) -> Float[Array, "T N"]:
    r"""All $\delta_t = A_t \delta_{t-1} + b_t$ with $\delta_0 = 0$, t = 1 ... T.

    Affine maps compose to affine maps, and composing is associative: about 2 log2 T rounds, O(T) compositions.
    `matrices` (T, N, N), or (T, N) where they are diagonal. Differentiable in everything; a derivative with respect to
    the offsets is one recursion more, forwards for `jvp` and backwards in time for `vjp`.

    G. E. Blelloch (1990), "Prefix sums and their applications".
    """
    # The scan itself is linear in the offsets only as a whole: without this its transpose would keep every round.
    return jax.lax.custom_linear_solve(
        lambda d: d - _apply(matrices, _later(d)),
        offsets,
        solve=lambda _, b: _affine_scan(matrices, b),
        transpose_solve=lambda _, c: _transposed(matrices, c),
    )


def affine_recursion_in_steps(matrices: Float[Array, "T N *M"], offsets: Float[Array, "T N"]) -> Float[Array, "T N"]:
    """The same one step after the other: where products of many matrices leave the range of the numbers."""

    def step(d: Array, matrix_and_offset: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, offset = matrix_and_offset
        d = _apply(matrix[None], d[None])[0] + offset
        return d, d

    return jax.lax.scan(step, jnp.zeros_like(offsets[0]), (matrices, offsets))[1]


def damped_recursion(
    matrices: Float[Array, "T N N"], offsets: Float[Array, "T N"], damping: Float[Array, ""]
) -> Float[Array, "T N"]:
    r"""The increments of least $\sum_t |\delta_t - A_t \delta_{t-1} - b_t|^2 + \mu\, |\delta_t|^2$, $\delta_0 = 0$.

    They are the means of a Kalman smoother: of a walk $\delta_t = A_t \delta_{t-1} + b_t + w_t$ with unit noise, that
    is observed to be 0 with variance 1/μ. Filter and smoother are associative scans; a step of the Levenberg-Marquardt
    method on the sequence. With μ -> 0 it is `affine_recursion`.

    S. Särkkä & Á. F. García-Fernández (2021), "Temporal parallelization of Bayesian smoothers", IEEE Trans. Automat.
    Control 66; X. Gonzalez et al. (2024), "Towards scalable and stable parallelization of nonlinear RNNs", NeurIPS.
    """
    num, size = offsets.shape
    identity = jnp.eye(size, dtype=offsets.dtype)
    # With Q = 1 and R = 1/μ the gain of an observation, Q / (Q + R), is one number.
    gain = damping / (1 + damping)
    is_first = (jnp.arange(num) == 0)[:, None, None]
    matrices = jnp.where(is_first, 0, matrices)  # the state before the first is known
    transposed = jnp.swapaxes(matrices, 1, 2)
    elements = (
        (1 - gain) * matrices,
        (1 - gain) * offsets,
        jnp.broadcast_to((1 - gain) * identity, matrices.shape),
        -gain * _apply(transposed, offsets),
        gain * _product(transposed, matrices),
    )
    _, means, covariances, _, _ = jax.lax.associative_scan(_join_filters, elements)
    # Backwards: m_t = x_t + G_t (m_{t+1} - A_{t+1} x_t - b_{t+1}), an affine recursion in reversed time.
    after, of_after = matrices[1:], offsets[1:]
    spread = _product(after, covariances[:-1])
    predicted = _product(spread, jnp.swapaxes(after, 1, 2)) + identity
    gains = jnp.swapaxes(jnp.linalg.solve(predicted, spread), 1, 2)
    shifts = means[:-1] - _apply(gains, _apply(after, means[:-1]) + of_after)
    maps = jnp.concatenate([gains, jnp.zeros_like(matrices[:1])])[::-1]
    return _affine_scan(maps, jnp.concatenate([shifts, means[-1:]])[::-1])[::-1]


def _join_filters(i: Any, j: Any) -> Any:
    """Two stretches of a Kalman filter as one; `i` is the earlier."""
    (a_i, b_i, c_i, eta_i, j_i), (a_j, b_j, c_j, eta_j, j_j) = i, j
    identity = jnp.eye(a_i.shape[-1], dtype=a_i.dtype)
    mix = identity + _product(c_i, j_j)
    # a_j mix^-1, and a_i^T (1 + j_j c_i)^-1 = (mix^-1 a_i)^T, since both c and j are symmetric.
    left = jnp.swapaxes(jnp.linalg.solve(jnp.swapaxes(mix, -1, -2), jnp.swapaxes(a_j, -1, -2)), -1, -2)
    right = jnp.swapaxes(jnp.linalg.solve(mix, a_i), -1, -2)
    return (
        _product(left, a_i),
        _apply(left, b_i + _apply(c_i, eta_j)) + b_j,
        _product(_product(left, c_i), jnp.swapaxes(a_j, -1, -2)) + c_j,
        _apply(right, eta_j - _apply(j_j, b_i)) + eta_i,
        _product(_product(right, j_j), a_i) + j_i,
    )


def _affine_scan(matrices: Array, offsets: Array) -> Array:
    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        (a, b), (c, d) = first, second
        return _product(c, a) if matrices.ndim == 3 else c * a, _apply(c, b) + d

    return jax.lax.associative_scan(join, (matrices, offsets))[1]


def _transposed(matrices: Array, cotangents: Array) -> Array:
    """$y_t = c_t + A_{t+1}^\\top y_{t+1}$: the recursion of the transposed factors, from the end."""
    factors = jnp.swapaxes(matrices, 1, 2) if matrices.ndim == 3 else matrices
    factors = jnp.concatenate([factors[1:], jnp.zeros_like(factors[:1])])
    return _affine_scan(factors[::-1], cotangents[::-1])[::-1]


def _later(rows: Array) -> Array:
    """Row t becomes row t + 1; the first is 0."""
    return jnp.concatenate([jnp.zeros_like(rows[:1]), rows[:-1]])


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _apply(matrices: Array, vectors: Array) -> Array:
    if matrices.ndim == vectors.ndim:
        return matrices * vectors
    return jnp.matmul(matrices, vectors[..., None], precision=_HIGHEST)[..., 0]
