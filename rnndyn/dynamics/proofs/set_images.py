"""The images of balls and of products of two balls, in any coordinates, by the mean value form of every operation.

Every quantity q of a jaxpr is known twice: by interval arithmetic over the set, and by the mean value theorem as
q(c) ± sup |T z| over the set, T the derivatives of q along the coordinates z, which are there anyway. A sum of N
weighted states, wide by sum_k |W_ik| r_k in a box, is so wide by the norm of a row of W A only: smaller by the square
root of N, and exact for a linear layer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import Dual, Trouble, dual, is_real
from rnndyn.dynamics.proofs._evaluation import evaluate_equation, only_moves
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import LARGEST_BATCHED, Enclosure


class Sets(NamedTuple):
    """K sets c + A z, each the product of two balls: |z_1..u| <= 1, |z_u+1..N| <= 1 (Euclidean norms).

    - `centers`: c, known within `blurs`, (K, N); `axes`: A, (K, N, N).
    """

    centers: Float[Array | np.ndarray, "K N"]
    blurs: Float[Array | np.ndarray, "K N"]
    axes: Float[Array | np.ndarray, "K N N"]


class SetImage(eqx.Module):
    """What is known of a map on a set c + A z, the product of two balls; or, with a leading axis, on several.

    **Fields:**

    - `center`: encloses f(c) for every c, shape (N,).
    - `derivative`: encloses Df(c + A z) A for every c and z, shape (N, N). f(c + A z) - f(c) = T z with a T in it.
    - `is_known`: nothing stands against it: no jump, and no operation that may leave its domain.
    """

    center: Interval
    derivative: Interval
    is_known: Bool[Any, "..."]


@compiled
def images_of_sets(f: Callable, sets: Sets, num_first: int) -> SetImage:
    """Enclose a map and its derivative on products of two balls.

    **Arguments:**

    - `f`: a map of a float64 vector (N,), made of the operations that `docs/certificates.md` lists.
    - `sets`: K sets.
    - `num_first`: u, the coordinates of the first ball.

    **Returns:** a `SetImage` with a leading axis K.

    **Raises:** as `interval_value`. Call it in `interval_precision`.
    """

    def one(item: Sets) -> SetImage:
        closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(item.centers.shape, item.centers.dtype))
        about = evaluate_about(closed, ia.ball(item.centers, item.blurs), jnp.asarray(item.axes), two_balls(num_first))
        return SetImage(about.center, about.derivative, about.is_known)

    return jax.lax.map(one, jax.tree.map(jnp.asarray, sets))


@compiled
def enclose_balls(
    f: Callable,
    centers: Float[Array | np.ndarray, "K N"],
    factors: Float[Array | np.ndarray, "K N N"],
    radii: Float[Array | np.ndarray, " K"],
    *args: Float[Array | np.ndarray, "K ..."],
) -> Enclosure:
    r"""Enclose a function over K ellipsoids $\{c + Q y : |y|_2 \le r\}$.

    **Arguments:**

    - `f`: a function of (N,), or of (N,) and `args`, with values (M,), made of operations with interval rules.
    - `centers`, `factors`, `radii`: c, Q and r of each.
    - `args`: further arguments of f, known exactly, with a leading axis K.

    **Returns:** an `Enclosure`: `value` holds f(c), `jacobian` (M, N) holds Df(x) Q for every x of the ellipsoid, so
    that $f(c + Q y) - f(c + Q y')$ lies in [jacobian] (y - y').
    """

    def one(center: Array, factor: Array, radius: Array, *args: Array) -> Enclosure:
        closed = jax.make_jaxpr(lambda x: f(x, *args))(jax.ShapeDtypeStruct(center.shape, center.dtype))
        about = evaluate_about(closed, point(center), factor, one_ball(radius))
        return Enclosure(about.center, about.derivative, about.jumps, about.undefined)

    items = tuple(jnp.asarray(a) for a in (centers, factors, radii, *args))
    # As for boxes: XLA's CPU backend multiplies batches of large matrices slowly.
    return jax.lax.map(lambda item: one(*item), items) if centers.shape[1] > LARGEST_BATCHED else jax.vmap(one)(*items)


# --- the evaluation, for a jaxpr and a set of any shape


Reach = Callable[[Interval], Array]
"""Upper bounds of |T z| over the set, for every entry of a quantity with derivatives T (leading axis) along z."""


def two_balls(num_first: int) -> Reach:
    """|T_1| + |T_2| for the product of a ball of the first coordinates and one of the others."""

    def reach(tangent: Interval) -> Array:
        size = ia.magnitude(tangent)
        lengths = [_length(part) for part in (size[:num_first], size[num_first:]) if len(part)]
        return sum(lengths[1:], start=lengths[0]) * (1 + 4 * ia.UNIT_ROUNDOFF)

    return reach


def one_ball(radius: Array) -> Reach:
    """r |T| for a ball."""
    return lambda tangent: radius * _length(ia.magnitude(tangent)) * (1 + 8 * ia.UNIT_ROUNDOFF) + 1e-290


def _length(size: Array) -> Array:
    """Above the norms of columns. Squares that underflow are below 1e-300 together; N + 4 roundings, taken twice."""
    return jnp.sqrt(jnp.sum(size**2, axis=0) + 1e-300) * (1 + 4 * (len(size) + 8) * ia.UNIT_ROUNDOFF)


class About(NamedTuple):
    """A function at the centre of a set, `center` (M,), and its derivatives along z over all of it, (M, N)."""

    center: Interval
    derivative: Interval
    jumps: Bool[Any, ""]
    undefined: Bool[Any, ""]

    @property
    def is_known(self) -> Bool[Any, ""]:
        return is_finite(self.derivative) & is_finite(self.center) & ~self.undefined


def is_finite(x: Interval) -> Bool[Any, ""]:
    return jnp.all(jnp.isfinite(x.lo) & jnp.isfinite(x.hi))


def evaluate_about(closed: Any, middle: Interval, axes: Array, reach: Reach) -> About:
    """Evaluate a jaxpr of one vector at `middle` and over `middle` + axes z, z in the set that `reach` bounds."""
    along = point(axes.T)
    distance = reach(along)
    start = _Pair(Dual(middle, None), Dual(ia.widen(middle.lo - distance, middle.hi + distance), along))
    trouble = Trouble()
    outputs = _evaluate_about(closed.jaxpr, closed.consts, [start], reach, trouble)
    if len(outputs) != 1:
        raise ValueError(f"f: expected a function that returns one array, got {len(outputs)}.")
    at, over = dual(outputs[0].at), dual(outputs[0].over)
    tangent = point(jnp.zeros((axes.shape[1], *over.value.shape))) if over.tangent is None else over.tangent
    derivative = tangent.map(lambda t: jnp.moveaxis(t, 0, -1))
    return About(at.value, derivative, trouble.any_jump(), trouble.any_undefined())


class _Pair(NamedTuple):
    """A quantity at the centre of the set, and over all of it; plain arrays where it depends on neither."""

    at: Any
    over: Any


def _evaluate_about(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], reach: Reach, trouble: Trouble) -> list:
    """`evaluate_jaxpr` in both places at once; loops and branches are taken as one operation."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, args))

    def read(var: Any) -> Any:
        return jnp.asarray(var.val) if isinstance(var, jax.extend.core.Literal) else env[var]

    for eqn in jaxpr.eqns:
        operands = [read(var) for var in eqn.invars]
        body = called(eqn)
        if body is not None:
            outs = _evaluate_about(body.jaxpr, body.consts, operands, reach, trouble)
        else:
            # What the centre meets, the set meets too.
            at = evaluate_equation(eqn, [_side(x, "at") for x in operands], Trouble())
            over = evaluate_equation(eqn, [_side(x, "over") for x in operands], trouble)
            outs = [_Pair(a, o if only_moves(eqn) else _tightened(a, o, reach)) for a, o in zip(at, over)]
        env.update(zip(eqn.outvars, outs))
    return [x if isinstance(x, _Pair) else _Pair(x, x) for x in map(read, jaxpr.outvars)]


def _side(x: Any, which: str) -> Any:
    return getattr(x, which) if isinstance(x, _Pair) else x


def _tightened(at: Any, over: Any, reach: Reach) -> Any:
    """The quantity over the set, cut down to its mean value form."""
    if not isinstance(over, Dual) or over.tangent is None or not is_real(over.value.lo):
        return over
    distance, here = reach(over.tangent), dual(at).value
    form = ia.widen(here.lo - distance, here.hi + distance)
    return Dual(ia.intersect(over.value, form), over.tangent)
