"""The QR decomposition of a frame that one step of a map pushed, with the small growth rates too."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnndyn.dynamics.growth._graded_qr import graded_qr
from rnndyn.dynamics.numerics.frames import (
    householder_qr,
    nearly_orthonormalize,
    orthonormalize,
    push_frame,
    shared_min,
)


def step_qr(
    f: Callable,
    x: Float[Array, " N"],
    args: tuple,
    frame: Float[Array, "N k"],
    vectors: Float[Array, "N k"],
    one_step: Bool[Array, ""] | bool = True,
    exact: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, "N k"], Float[Array, " k"], Float[Array, " k"]]:
    r"""`orthonormalize(vectors)` for `vectors` = DF(x, *args) @ `frame`; ln R_ii is -inf where the step destroys a
    direction.

    Where rounding left less than half of the digits of some R_ii, DF itself is decomposed, $DF = P D T$ with P
    orthogonal, D diagonal and T well conditioned, by a QR decomposition with pivoting that sees the scales of rows and
    of columns. Then $DF\,Q = P (D T Q)$, the rows of the bracket are accurate however small they are, and its QR keeps
    that. So diag(d) W and W diag(d) with d over many decades (saturated units, in a rate or in a current equation)
    cost no digits, and the rank of DF is known: R_ii is 0 beyond it and only there.

    - `one_step`: whether `vectors` is one step away from `frame`; if not, only the first way is open.
    - `exact`: whether each R_ii is wanted; if not, sums of ln R_ii up to the next exact decomposition are rates, and
        the decomposition costs half (`nearly_orthonormalize`).

    Derivatives are those of `orthonormalize`.
    """
    plain = orthonormalize(vectors) if exact is True else nearly_orthonormalize(vectors, exact)
    lost = one_step & ~(jnp.max(plain[2]) <= jnp.finfo(vectors.dtype).eps ** -0.5) & jnp.all(jnp.isfinite(vectors))

    def decompose(x, frame, plain):
        del plain
        jacobian = push_frame(f, x, args, jnp.eye(x.size, dtype=x.dtype))[1]
        p, log_d, t = graded_qr(jacobian, jnp.zeros(x.size, x.dtype))
        top = jnp.max(log_d)
        rows = jnp.exp(log_d - jnp.where(jnp.isneginf(top), 0, top))[:, None] * (t @ frame)
        q, log_diagonal, condition = householder_qr(rows)
        # A column of zeros beyond the rank grows by exactly nothing.
        return p @ q, log_diagonal + top, jnp.where(jnp.isneginf(log_diagonal), 1, condition)

    def keep(x, frame, plain):
        return plain

    # One answer for a batch, so that it stays a branch.
    any_lost = shared_min(jnp.where(lost, 0, 1)) == 0
    values = jax.lax.stop_gradient((x, frame, plain))
    better = jax.lax.cond(any_lost, decompose, keep, *values)
    q, log_diagonal, condition = jax.lax.stop_gradient(
        jax.tree.map(lambda new, old: jnp.where(lost, new, old), better, values[2])
    )
    destroyed = jnp.isneginf(log_diagonal)
    shift = jnp.where(destroyed, 0, log_diagonal - values[2][1])
    return (
        plain[0] + jax.lax.stop_gradient(q - values[2][0]),
        jnp.where(destroyed, -jnp.inf, plain[1] + shift),
        condition,
    )
