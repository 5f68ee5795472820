"""The image of a ball times a ball, in any coordinates, by the mean value form of every operation of a map."""

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
from rnndyn.dynamics.proofs._evaluation import evaluate_equation
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point


class SetImage(eqx.Module):
    """What `image_of_set` knows of a map on the sets c + A z, |z_1..u| <= 1, |z_u+1..N| <= 1 (Euclidean norms).

    **Fields:**

    - `center`: encloses f(c) for every c, shape (N,).
    - `derivative`: encloses Df(c + A z) A for every c and z, shape (N, N). f(c + A z) - f(c) = T z with a T in it.
    - `is_known`: nothing stands against it: no jump, and no operation that may leave its domain.
    """

    center: Interval
    derivative: Interval
    is_known: Bool[Any, ""]


@compiled
def image_of_set(
    f: Callable,
    center: Float[Array | np.ndarray, " N"],
    blur: Float[Array | np.ndarray, " N"],
    axes: Float[Array | np.ndarray, "N N"],
    num_first: int,
) -> SetImage:
    """Enclose a map and its derivative on the product of two balls, c + A z with |z_1..u| <= 1, |z_u+1..N| <= 1.

    Every operation of the jaxpr of f is evaluated at the centre and over the set, and its value over the set is
    intersected with the mean value form q(0) + |T_1| + |T_2|, in which T encloses the derivative of the quantity along
    z. A sum of N weighted states, wide by sum_k |W_ik| r_k in a box, is so wide by the norms of a row of W A only:
    smaller by the square root of N, and exact for a linear layer.

    **Arguments:**

    - `f`: a map of a float64 vector (N,), made of the operations that `docs/certificates.md` lists.
    - `center`, `blur`, `axes`: c, known within `blur`, and A.
    - `num_first`: u, the coordinates of the first ball.

    **Raises:** as `interval_value`. Call it in `interval_precision`.
    """
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(center.shape, center.dtype))
    axes = jnp.asarray(axes)
    middle = ia.ball(jnp.asarray(center), jnp.asarray(blur))
    along = point(axes.T)
    reach = _reach(along, num_first)
    start = _Pair(Dual(middle, None), Dual(ia.widen(middle.lo - reach, middle.hi + reach), along))
    trouble = Trouble()
    (out,) = _evaluate_about(closed.jaxpr, closed.consts, [start], num_first, trouble)
    at, over = dual(out.at), dual(out.over)
    tangent = point(jnp.zeros((axes.shape[1], *over.value.shape))) if over.tangent is None else over.tangent
    derivative = tangent.map(lambda t: jnp.moveaxis(t, 0, -1))
    known = jnp.all(jnp.isfinite(derivative.lo) & jnp.isfinite(derivative.hi)) & jnp.all(jnp.isfinite(at.value.lo))
    return SetImage(at.value, derivative, known & ~trouble.any_undefined())


class _Pair(NamedTuple):
    """A quantity at the centre of the set, and over all of it; plain arrays where it depends on neither."""

    at: Any
    over: Any


def _evaluate_about(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], num_first: int, trouble: Trouble) -> list:
    """`evaluate_jaxpr` in both places at once; loops and branches are taken as one operation."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, args))

    def read(var: Any) -> Any:
        return jnp.asarray(var.val) if isinstance(var, jax.extend.core.Literal) else env[var]

    for eqn in jaxpr.eqns:
        operands = [read(var) for var in eqn.invars]
        body = called(eqn)
        if body is not None:
            outs = _evaluate_about(body.jaxpr, body.consts, operands, num_first, trouble)
        else:
            at = evaluate_equation(eqn, [_side(x, "at") for x in operands], Trouble())
            over = evaluate_equation(eqn, [_side(x, "over") for x in operands], trouble)
            outs = [_Pair(a, _tightened(a, o, num_first)) for a, o in zip(at, over)]
        env.update(zip(eqn.outvars, outs))
    return [x if isinstance(x, _Pair) else _Pair(x, x) for x in map(read, jaxpr.outvars)]


def _side(x: Any, which: str) -> Any:
    return getattr(x, which) if isinstance(x, _Pair) else x


def _tightened(at: Any, over: Any, num_first: int) -> Any:
    """The quantity over the set, cut down to its mean value form."""
    if not isinstance(over, Dual) or over.tangent is None or not is_real(over.value.lo):
        return over
    reach, here = _reach(over.tangent, num_first), dual(at).value
    form = ia.widen(here.lo - reach, here.hi + reach)
    return Dual(ia.intersect(over.value, form), over.tangent)


def _reach(tangent: Interval, num_first: int) -> Array:
    """|T_1| + |T_2|, an upper bound of |T z| over the set, for every entry of a quantity."""
    size = ia.magnitude(tangent)
    parts = (size[:num_first], size[num_first:])
    # Squares that underflow are below 1e-300 together; N + 4 roundings of sum, square, root and the last sum.
    relative = 1 + 4 * (len(size) + 8) * ia.UNIT_ROUNDOFF
    return sum(jnp.sqrt(jnp.sum(part**2, axis=0) + 1e-300) for part in parts if len(part)) * relative  # pyright: ignore
