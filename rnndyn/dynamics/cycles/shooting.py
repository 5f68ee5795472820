"""Newton's method for all points of a cycle at once, with the cyclic block structure of its linear systems."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rnndyn.dynamics.numerics.newton_method import LinearModel, NewtonMethod, singular_shift
from rnndyn.dynamics.numerics.sequence_map import SequenceMap


class MultipleShooting(NewtonMethod):
    """`NewtonMethod` on a `SequenceMap`; a step costs O(P N^3) instead of O((P N)^3)."""

    def __init__(self, sequence_map: SequenceMap, *, max_steps: int, period: ArrayLike | None = None):
        angles = None if period is None else jnp.tile(jnp.asarray(period), sequence_map.active.size)
        super().__init__(sequence_map, linear_solver="dense", max_steps=max_steps, period=angles)
        self.sequence_map = sequence_map

    def _linear_model(self, x: Array, g: Array) -> LinearModel:
        jacobians = self.sequence_map.jacobians(x)
        shape = jacobians.shape[:2]
        row_sum = jnp.max(jnp.sum(jnp.abs(jacobians), axis=2))
        defects = jnp.roll(g.reshape(shape), -1, axis=0)

        def product(v: Array) -> Array:
            images = jnp.einsum("pij,pj->pi", jacobians, v.reshape(shape))
            return jnp.roll(images, 1, axis=0).ravel() - v

        gradient = jnp.einsum("pij,pi->pj", jacobians, defects).ravel() - g
        # The same shift as in Newton's method for one point: a continuum of cycles gets a step, and none gets NaN.
        shift = singular_shift(row_sum, x.dtype)
        step = solve_cyclic(jacobians, defects, shift).ravel()
        # The factors of the elimination are not kept: a chord would cost as much as a step.
        return LinearModel(step, gradient, product, row_sum, None)


MAX_SEGMENT = 6
"""Up to so many links are condensed to one before the elimination. A product of six Jacobians of norm 100 still leaves
a Newton step four digits; the elimination of one unknown costs about seven products."""


def solve_cyclic(
    jacobians: Float[Array, "P N N"], rhs: Float[Array, "P N"], shift: Array | float = 0.0
) -> Float[Array, "P N"]:
    r"""Solve $s_{i+1} - J_i s_i = b_i$, indices modulo P, in O(P N^3).

    Up to `MAX_SEGMENT` equations at a time are condensed to one by multiplying their Jacobians, and what is left is
    solved by `eliminate_cyclic`. `shift` is added to the diagonal of its last block.
    """
    num_links, size = rhs.shape
    num_segments = -(-num_links // MAX_SEGMENT)
    length = -(-num_links // num_segments)
    # Links s_{i+1} = s_i fill up the last segment.
    missing = num_segments * length - num_links
    identities = jnp.broadcast_to(jnp.eye(size, dtype=rhs.dtype), (missing, size, size))
    links = jnp.concatenate([jacobians, identities]).reshape(num_segments, length, size, size)
    offsets = jnp.concatenate([rhs, jnp.zeros((missing, size), rhs.dtype)]).reshape(num_segments, length, size)

    product, offset = links[:, 0], offsets[:, 0]
    for j in range(1, length):
        product = links[:, j] @ product
        offset = jnp.einsum("kij,kj->ki", links[:, j], offset) + offsets[:, j]
    points = [eliminate_cyclic(product, offset, shift)]
    for j in range(length - 1):
        points.append(jnp.einsum("kij,kj->ki", links[:, j], points[-1]) + offsets[:, j])
    return jnp.stack(points, axis=1).reshape(-1, size)[:num_links]


def eliminate_cyclic(
    jacobians: Float[Array, "P N N"], rhs: Float[Array, "P N"], shift: Array | float
) -> Float[Array, "P N"]:
    """Solve the equations of `solve_cyclic` by orthogonal elimination.

    Unknowns are eliminated one after the other by Householder reflections of two block rows, which stays stable however
    fast the product of the Jacobians grows or decays; forming that product does not (S. J. Wright 1992, *Stable
    parallel algorithms for two-point boundary value problems*).
    """
    _, size, _ = jacobians.shape
    identity = jnp.eye(size, dtype=jacobians.dtype)

    def eliminate(carry: tuple[Array, ...], row: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        # The pending row  first s_0 + last s_i = b  and the row  -J_i s_i + s_{i+1} = b_i  lose s_i from the second.
        first, last, b = carry
        jacobian, b_i = row
        q, r = jnp.linalg.qr(jnp.concatenate([last, -jacobian]), mode="complete")
        upper, lower = q[:size].T, q[size:].T
        of_first, of_b = upper @ first, upper @ b + lower @ b_i
        kept = (r[:size], of_first[:size], lower[:size], of_b[:size])
        return (of_first[size:], lower[size:], of_b[size:]), kept

    (first, last, b), kept = jax.lax.scan(eliminate, (-jacobians[0], identity, rhs[0]), (jacobians[1:], rhs[1:]))
    s_0 = jnp.linalg.solve(first + last + shift * identity, b)

    def substitute(s_next: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        r, of_first, of_next, b = row
        s = jax.scipy.linalg.solve_triangular(r, b - of_first @ s_0 - of_next @ s_next)
        return s, s

    _, rest = jax.lax.scan(substitute, s_0, kept, reverse=True)
    return jnp.concatenate([s_0[None], rest])
