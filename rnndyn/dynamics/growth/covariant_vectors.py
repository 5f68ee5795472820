"""Covariant Lyapunov vectors: the directions that the dynamics itself keeps apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth._arguments import check_dt, check_growth_arguments
from rnndyn.dynamics.growth._step_qr import step_qr
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.frames import orthonormalize, push_frame, random_frame, triangular_factor
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums
from rnndyn.results import Judged, first_verdict

_SETTLED = 1e-3
"""The sine of an angle that still counts as none: local growth rates, linear in it, are then known to about 1e-3."""


def covariant_lyapunov_vectors(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    *,
    inputs: ArrayLike | None = None,
    num_exponents: int | None = None,
    num_transient: int = 200,
    num_backward: int = 200,
    dt: ArrayLike = 1.0,
) -> "CovariantLyapunovVectors":
    r"""The covariant Lyapunov vectors along a trajectory.

    $$DF(x_t)\, v_i(t) = \gamma_i(t)\, v_i(t+1), \qquad |v_i(t)| = 1, \qquad
    \lambda_i = \langle \ln \gamma_i \rangle / dt$$

    Unlike the orthonormal frames of the exponents' algorithm they are mapped onto each other, forwards and backwards
    in time, and do not depend on a scalar product: they span the stable and unstable subspaces (Oseledets splitting).
    Frames $Q_t$ with $DF(x_t) Q_t = Q_{t+1} R_{t+1}$ are stored on the way forward, and the coefficients
    $C_t = R_{t+1}^{-1} C_{t+1}$ (columns normalised) of the vectors $V_t = Q_t C_t$ are found on the way back.

    **Arguments:**

    - `f`, `x0`, `num_steps`, `num_exponents`, `dt`: as in `lyapunov_spectrum`.
    - `num_transient`: steps before the window, over which state and frame converge.
    - `num_backward`: steps after the window, over which the backward iteration converges.
    - `inputs`: one row per step, (num_transient + num_steps + num_backward, ...).

    **Returns:** a `CovariantLyapunovVectors`; its `convergence_error` tells whether both stretches were long enough.
    They converge like $e^{-(\lambda_i - \lambda_{i+1}) n}$, so equal exponents (complex multipliers) never separate.
    Where a step destroys a direction (a singular map) its vector is in the kernel, $DF(x_t) v_i(t) = 0$, and its
    exponent -inf; several of them are some basis of it.

    **Raises:** `ValueError` for wrong shapes or counts.

    Memory O(T N k), T = num_steps + num_backward. Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        F. Ginelli, P. Poggi, A. Turchi, H. Chaté, R. Livi & A. Politi (2007), "Characterizing dynamics with covariant
        Lyapunov vectors", Phys. Rev. Lett. 99.
    """
    check_at_least("num_backward", num_backward, 0)
    f, x0, inputs, num_exponents = check_growth_arguments(
        f, x0, num_steps, num_transient + num_backward, inputs, num_exponents
    )
    check_dt(dt)
    return _covariant(f, x0, inputs, num_steps, num_exponents, num_transient, num_backward, jnp.asarray(dt, x0.dtype))


class CovariantLyapunovVectors(Judged):
    """Covariant Lyapunov vectors at T consecutive states, k of them in the order of falling growth.

    States `(T, N)`, unit vectors `(T, N, k)`, growth in nats per step, or per unit time where `dt` was given; the
    evidence is `convergence_error`, from two independent random starts (F. Ginelli et al. 2007). Where the
    trajectory leaves the floating-point range every number is NaN, and `result` says so.
    """

    states: Float[Array, "T N"]
    """The states $x_t$ of the window, the transient left out."""
    vectors: Float[Array, "T N k"]
    """Column i at time t is the unit vector $v_i(t)$, up to its sign; DF takes it to a multiple of the next one."""
    local_exponents: Float[Array, "T k"]
    """$\\ln \\gamma_i(t) / dt$: the growth of each vector over the step from $x_t$, nats per step or per unit time."""
    exponents: Float[Array, " k"]
    """Their means over the window, in the same unit."""
    stderr: Float[Array, " k"]
    """Standard errors of the exponents (batch means)."""
    convergence_error: Float[Array, " k"]
    """The sine of the angle between two answers from independent random starts, 0 to 1: the larger of that of the
    orthonormal vectors at the start of the window and that of the covariant vectors at its end."""

    @property
    def result(self) -> Any:
        """Whether the vectors can be believed, a `GrowthVerdict`: `unsettled` for a `convergence_error` above 1e-3."""
        error = np.max(np.asarray(self.convergence_error), axis=-1)
        return first_verdict(
            (np.isnan(error) | np.isnan(np.asarray(self.exponents)).any(axis=-1), GrowthVerdict.not_finite),
            (error > _SETTLED, GrowthVerdict.unsettled),
            otherwise=GrowthVerdict.converged,
        )

    def angles(self, num_unstable: int | None = None) -> Float[Array, " T"]:
        """The smallest angle between the span of the first `num_unstable` vectors and that of the others, in radians.

        **Arguments:**

        - `num_unstable`: how many vectors the first subspace takes, from 1 to k - 1; by default the number of positive
          exponents. A neutral direction (flows) counts with the others.

        **Raises:** `ValueError` when one of the subspaces would be empty.
        """
        if num_unstable is None:
            num_unstable = int(np.sum(np.asarray(self.exponents) > 0))
        num_vectors = self.vectors.shape[-1]
        if not 1 <= num_unstable < num_vectors:
            raise ValueError(
                f"num_unstable: of {num_vectors} vectors, 1 to {num_vectors - 1} can be on the first side, got "
                f"{num_unstable}."
            )
        vectors = jnp.asarray(self.vectors)
        return _angles(vectors[:, :, :num_unstable], vectors[:, :, num_unstable:])

    def hyperbolicity(self, num_unstable: int | None = None) -> Float[Array, ""]:
        """The least of `angles`: near zero the window holds an almost-tangency of stable and unstable directions.

        A hyperbolic attractor keeps it away from zero however long the window is.
        """
        return jnp.min(self.angles(num_unstable))


def subspace_angle(first: Float[Array, "N a"], second: Float[Array, "N b"]) -> Float[Array, ""]:
    r"""The smallest principal angle between the column spans of two matrices, in radians.

    $$\theta = \min_{u \in \operatorname{span} A,\; v \in \operatorname{span} B} \arccos \frac{|u \cdot v|}{|u|\,|v|}$$

    **Arguments:**

    - `first`: A, (N, a), of full column rank.
    - `second`: B, (N, b), of full column rank.

    **Returns:** the angle, between 0 (the spans share a direction) and $\pi / 2$ (they are orthogonal); NaN where the
    matrices hold NaN.

    **Raises:** `ValueError` for matrices of different height, or wider than high.

    With orthonormal bases it is $\arctan(\sigma / |Q_1^T Q_2 w|)$, where $\sigma$ is the smallest singular value of
    $(1 - Q_1 Q_1^T) Q_2$ and w its right singular vector: accurate for small angles, which the cosine is not, and for
    large ones, which the sine is not. Of a rank-deficient matrix the missing directions are filled in arbitrarily.
    Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        Å. Björck & G. H. Golub (1973), "Numerical methods for computing angles between linear subspaces", Mathematics
        of Computation 27.
    """
    for name, matrix in (("first", first), ("second", second)):
        if np.ndim(matrix) != 2 or not 1 <= np.shape(matrix)[1] <= np.shape(matrix)[0] == np.shape(first)[0]:
            raise ValueError(
                f"{name}: expected (N, k) with k <= N columns and the N of first, got shape {np.shape(matrix)}."
            )
    return _angle(first, second)


# One program: operation by operation, QR and SVD would be compiled as 35 of them for each shape.
@jax.jit
def _angle(first: Array, second: Array) -> Array:
    q1, q2 = orthonormalize(first)[0], orthonormalize(second)[0]
    inside = q1.T @ q2
    outside = q2 - q1 @ inside
    _, sines, directions = jnp.linalg.svd(outside, full_matrices=False)
    closest = directions[-1]
    return jnp.arctan2(sines[-1], jnp.linalg.norm(inside @ closest))


_angles = jax.jit(jax.vmap(subspace_angle))
"""As one program: without it every operation of the decompositions is compiled by itself."""


@compiled
def _covariant(f, x0, inputs, num_steps, num_exponents, num_transient, num_backward, dt):
    frame = random_frame(x0.size, num_exponents, x0.dtype)
    transient = None if inputs is None else inputs[:num_transient]
    rest = None if inputs is None else inputs[num_transient:]

    def warm_up(carry, u):
        x, frames = carry
        x, vectors = push_frame(f, x, () if inputs is None else (u,), jnp.concatenate(list(frames), axis=1))
        return (x, jax.vmap(lambda v: orthonormalize(v)[0])(jnp.stack(jnp.split(vectors, 2, axis=1)))), None

    # A second frame shows whether the transient was long enough. It is drawn anew: one that spans the same space, such
    # as the first in another order, would be as wrong as the first and agree with it.
    both = jnp.stack([frame, random_frame(x0.size, num_exponents, x0.dtype, seed=1)])
    (x, frames), _ = jax.lax.scan(warm_up, (x0, both), transient, length=num_transient)
    forward_error = _sine(frames[0], frames[1])

    def record(carry, u):
        x, frame = carry
        x_next, vectors = push_frame(f, x, () if inputs is None else (u,), frame)
        next_frame, log_diagonal, _ = step_qr(f, x, () if inputs is None else (u,), frame, vectors)
        factor = triangular_factor(next_frame, vectors)
        factor = factor + jnp.diag(jnp.exp(log_diagonal) - jnp.diagonal(factor))
        destroyed = jnp.isneginf(log_diagonal)
        return (x_next, next_frame), (x, frame, factor, destroyed)

    length = num_steps + num_backward
    _, (states, frames, factors, destroyed) = jax.lax.scan(record, (x, frames[0]), rest, length=length)

    def back(coefficients, step):
        factor, destroyed = step
        # R^-1 has no entries for a direction that is mapped to 0. The limit of a vanishing R_ii has: the column that
        # ends in it is the kernel vector R c = 0, c_i = 1, and those before it do not see it.
        size = jnp.max(jnp.abs(factor))
        tiny = jnp.finfo(factor.dtype).eps ** 2 * jnp.where(size > 0, size, 1)
        factor = jnp.where(destroyed[:, None], jnp.diag(jnp.where(destroyed, tiny, 0)), factor)
        before = jax.lax.linalg.triangular_solve(factor, coefficients, left_side=True, lower=False)
        before, log_lengths = _unit_columns(before)
        return before, (before, jnp.where(destroyed, -jnp.inf, -log_lengths))

    # Two independent upper triangular starts with unit columns.
    upper = jnp.triu(jax.random.normal(jax.random.key(1), (2, num_exponents, num_exponents), x0.dtype), 1)
    starts = jax.vmap(lambda u: _unit_columns(jnp.eye(num_exponents, dtype=x0.dtype) + u)[0])(upper)
    after = (factors[num_steps:], destroyed[num_steps:])
    ends = jax.vmap(lambda start: jax.lax.scan(back, start, after, reverse=True)[0])(starts)
    backward_error = _sine(ends[0], ends[1])
    _, (coefficients, log_growth) = jax.lax.scan(
        back, ends[0], (factors[:num_steps], destroyed[:num_steps]), reverse=True
    )

    local = log_growth / dt
    blocks, block = block_sums(jnp.where(jnp.isneginf(local), 0, local))
    return CovariantLyapunovVectors(
        states=states[:num_steps],
        vectors=frames[:num_steps] @ coefficients,
        local_exponents=local,
        exponents=local.mean(axis=0),
        stderr=jnp.asarray(batch_means(blocks / block)[0]),
        convergence_error=jnp.maximum(forward_error, backward_error),
    )


def _unit_columns(matrix):
    scale = jnp.max(
        jnp.abs(matrix), axis=0
    )  # after a destroyed direction 1 / eps^2, whose square float32 does not hold
    unit = matrix / scale
    lengths = jnp.linalg.norm(unit, axis=0)
    return unit / lengths, jnp.log(lengths) + jnp.log(scale)


def _sine(first, second):
    """Sines of the angles between equally numbered unit columns, whatever their signs."""
    signs = jnp.where(jnp.sum(first * second, axis=0) < 0, -1, 1)
    half = jnp.linalg.norm(first - signs * second, axis=0) / 2  # sin of half the angle
    return 2 * half * jnp.sqrt(jnp.maximum(0, 1 - half**2))
