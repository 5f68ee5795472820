"""Fixed points of a piecewise-linear network from its linear regions: all in a box, or those that states lead to."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnndyn.dynamics.linear_regions.enumeration import enumerate_cycles
from rnndyn.dynamics.numerics.newton import rounding_floor


@dataclasses.dataclass(frozen=True)
class RegionFixedPoints:
    """What is known of the fixed points in a box.

    - `points`: isolated fixed points inside their linear regions, in lexicographic order, `(K, N)`.
    - `errors`: bounds on their distance from the exact ones, `(K,)`.
    - `undecided_lower`, `undecided_upper`: corners `(M, N)` of boxes that may hold others: a small one around each
        point on a border between regions; the whole box where there are families or the search was not exhaustive.
    - `lower`, `upper`: the box `(N,)`.
    - `reason`: why there are undecided boxes; empty where there are none.
    """

    points: np.ndarray
    errors: np.ndarray
    undecided_lower: np.ndarray
    undecided_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    reason: str


def has_linear_regions(f: Callable) -> bool:
    """Whether `f` is a map made of a piecewise-linear cell with its input held."""
    return hasattr(getattr(f, "cell", None), "relu_form") and hasattr(f, "input")


def region_fixed_points(
    f: Any, lower: ArrayLike | None = None, upper: ArrayLike | None = None, **options: Any
) -> RegionFixedPoints:
    """The fixed points of `f`, a map for which `has_linear_regions`, in the box `lower <= x <= upper`.

    Without corners the box is all of the space, as far as the proof reaches. `options` go to `enumerate_cycles`.
    """
    cycles = enumerate_cycles(f.cell, f.input, 1, **options)[1]
    points, errors = cycles.points[:, 0], cycles.errors[:, None]
    size = points.shape[1]
    reach = cycles.radius if cycles.proved else np.inf
    low, high = (
        np.array(np.broadcast_to(sign * reach if bound is None else np.asarray(bound, float), size), float)
        for sign, bound in ((-1, lower), (1, upper))
    )
    reasons = []
    if not cycles.proved:
        reasons.append("there are too many linear regions to exclude each: the points are a sample. Raise max_tests.")
    elif np.max(np.abs([low, high])) > reach:
        reasons.append(f"the box is larger than the proof, which holds for |z| < {reach:.3g}.")
    if cycles.families:
        dimensions = sorted({family.dimension for family in cycles.families})
        reasons.append(f"there are families of fixed points, of dimension {', '.join(map(str, dimensions))}.")
    whole = bool(reasons)
    inside = np.all((points + errors >= low) & (points - errors <= high), axis=1)
    on_border = inside & cycles.is_on_border
    if on_border.any():
        reasons.append(f"{on_border.sum()} points lie on a border between linear regions and exist up to rounding.")
    undecided_lower, undecided_upper = (points - errors)[on_border], (points + errors)[on_border]
    if whole:
        undecided_lower, undecided_upper = low[None], high[None]
    listed = np.flatnonzero(inside & ~cycles.is_on_border)
    listed = listed[np.lexsort(points[listed].T[::-1])]
    return RegionFixedPoints(
        points[listed], errors[listed, 0], undecided_lower, undecided_upper, low, high, " ".join(reasons)
    )


class RegionSolutions(NamedTuple):
    """Where K states led.

    - `points`: the fixed point of the last region that was solved, `(K, N)`; NaN where the next one has none.
    - `in_region`: whether it lies in its region, and so is a fixed point of the map.
    - `residuals`: the largest component of |F(x) - x| at the points.
    - `num_solves`: how many regions were solved.
    """

    points: Float[Array, "K N"]
    in_region: Bool[Array, " K"]
    residuals: Float[Array, " K"]
    num_solves: Int[Array, " K"]


@eqx.filter_jit
def region_newton(
    f: Callable[[Array], Array], states: Float[Array | np.ndarray, "K N"], *, max_solves: int | Array = 50
) -> RegionSolutions:
    r"""Solve for the fixed point of the linear region of each state, and go on from there if it lies in another.

    In the region of x a piecewise-linear map is affine, $z \mapsto F(x) + DF(x) (z - x)$, with the fixed point

    $$ z = x + (I - DF(x))^{-1} (F(x) - x). $$

    If z is in the same region it is a fixed point of the map; if not, the region of z is solved next.

    **Arguments:**

    - `f`: a piecewise-linear map `(N,) -> (N,)`, a ReLU network in any form; its regions are read off its derivative.
    - `states`: where to start, `(K, N)`.
    - `max_solves`: the most regions to solve for each state; with 1, only that of the state itself.

    **Returns:** `RegionSolutions`. `in_region` false means that the hops ran out (they may go in a circle) or that a
    region has no single fixed point, and says nothing about the map.

    Nothing decreases from hop to hop, unlike in a globalised Newton method: $|F(x) - x|$ has minima on the borders
    between regions where such a method stalls and this one passes. Whether the solution is in its region is judged by
    the map, $F(z) = z$ up to rounding. A pure function of one compiled program for each f and shape.

    Reference: L. Eisenmann, Z. Monfared, N. Göring & D. Durstewitz (2023), *Bifurcations and loss jumps in RNN
    training*; L. Brugnano & V. Casulli (2008), *Iterative solution of piecewise linear systems*.
    """
    states = jnp.asarray(states)
    identity = jnp.eye(states.shape[1], dtype=states.dtype)

    def measure(x: Array, scale: Array) -> tuple[Array, Array, Array]:
        image, jacobian = f(x), jax.jacfwd(f)(x)
        residual = jnp.max(jnp.abs(image - x))
        floor = rounding_floor(x, scale, jnp.max(jnp.sum(jnp.abs(jacobian), axis=1)))
        step = jnp.linalg.solve(identity - jacobian, image - x)
        return step, residual, residual <= floor

    def one(x: Array) -> RegionSolutions:
        scale = jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(f(x))))

        def unfinished(state: tuple) -> Array:
            _, step, _, done, count = state
            return ~done & (count < max_solves) & jnp.all(jnp.isfinite(step))

        def hop(state: tuple) -> tuple:
            x, step, _, _, count = state
            return (x + step, *measure(x + step, scale), count + 1)

        step, residual, _ = measure(x, scale)
        # A state that is a fixed point already is solved once too, for its last digits.
        start = (x, step, residual, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        end, step, residual, done, count = jax.lax.while_loop(unfinished, hop, start)
        has_none = ~done & ~jnp.all(jnp.isfinite(step))
        return RegionSolutions(jnp.where(has_none, jnp.nan, end), done, residual, count)

    return jax.vmap(one)(states)
