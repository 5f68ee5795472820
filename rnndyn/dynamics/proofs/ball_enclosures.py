"""Enclosures of a function and of its Jacobian over ellipsoids, tighter than over the boxes around them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import Dual, Trouble, is_real
from rnndyn.dynamics.proofs._evaluation import evaluate_equation, only_moves
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.intervals import LARGEST_BATCHED, Enclosure


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

    Every intermediate quantity q is known twice: by interval arithmetic, and by the mean value theorem as
    $q(c) \pm r \sup |\nabla_y q|_2$, for which the tangents are there anyway. For a weighted sum of the state the
    latter is the range itself, $w \cdot c \pm r |Q' w|_2$, where the box around the ellipsoid would give up to
    $\sqrt N$ times more.
    """

    def one(center: Array, factor: Array, radius: Array, *args: Array) -> Enclosure:
        return _enclose_ball(lambda x: f(x, *args), center, factor, radius)

    items = tuple(jnp.asarray(a) for a in (centers, factors, radii, *args))
    # As for boxes: XLA's CPU backend multiplies batches of large matrices slowly.
    return jax.lax.map(lambda item: one(*item), items) if centers.shape[1] > LARGEST_BATCHED else jax.vmap(one)(*items)


def _enclose_ball(f: Callable, center: Array, factor: Array, radius: Array) -> Enclosure:
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(center.shape, center.dtype))
    tangent = point(factor.T)
    reach = _reach(tangent, radius)
    around = Dual(ia.ball(center, reach), tangent)
    trouble = Trouble()
    pairs = _evaluate_in_ball(closed.jaxpr, closed.consts, [(Dual(point(center), None), around)], radius, trouble)
    if len(pairs) != 1:
        raise ValueError(f"f: expected a function that returns one array, got {len(pairs)}.")
    at_center, over = pairs[0]
    value = at_center.value if isinstance(at_center, Dual) else point(jnp.asarray(at_center))
    if isinstance(over, Dual) and over.tangent is not None:
        jacobian = over.tangent.map(lambda t: jnp.moveaxis(t, 0, -1))
    else:
        jacobian = point(jnp.zeros((*value.shape, center.size)))
    return Enclosure(value, jacobian, trouble.any_jump(), trouble.any_undefined())


def _evaluate_in_ball(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[tuple[Any, Any]], radius: Array, trouble: Trouble
) -> list[tuple[Any, Any]]:
    """Evaluate a jaxpr at the centre and over the ball together; pairs of both go in and come out."""
    env: dict[Any, tuple[Any, Any]] = {}

    def read(var: Any) -> tuple[Any, Any]:
        if isinstance(var, jax.extend.core.Literal):
            value = jnp.asarray(var.val)
            return value, value
        return env[var]

    env.update(zip(jaxpr.constvars, ((c, c) for c in consts)))
    env.update(zip(jaxpr.invars, args))
    for eqn in jaxpr.eqns:
        operands = [read(var) for var in eqn.invars]
        body = called(eqn)
        if body is not None:
            outs = _evaluate_in_ball(body.jaxpr, body.consts, operands, radius, trouble)
        else:
            # What the centre meets, the ball meets too.
            at_center = evaluate_equation(eqn, [pair[0] for pair in operands], Trouble())
            over = evaluate_equation(eqn, [pair[1] for pair in operands], trouble)
            outs = [(c, o if only_moves(eqn) else _narrowed(c, o, radius)) for c, o in zip(at_center, over)]
        env.update(zip(eqn.outvars, outs))
    return [read(var) for var in jaxpr.outvars]


def _narrowed(at_center: Any, over: Any, radius: Array) -> Any:
    if not isinstance(over, Dual) or over.tangent is None or not is_real(over.value.lo):
        return over
    center = at_center.value if isinstance(at_center, Dual) else point(at_center)
    reach = _reach(over.tangent, radius)
    by_mean_value = ia.widen(center.lo - reach, center.hi + reach)
    return Dual(ia.intersect(over.value, by_mean_value), over.tangent)


def _reach(tangent: Interval, radius: Array) -> Array:
    """Upper bounds of |t·y| over |y|_2 <= radius, for every member t of the tangents (leading axis)."""
    size = ia.magnitude(tangent)
    squares = ia.total(point(size * size * (1 + 4 * UNIT_ROUNDOFF)), (0,)).hi
    # Squares below the smallest normal number vanish: sqrt(N) 1.5e-154 at the most.
    return radius * (jnp.sqrt(squares) * (1 + 8 * UNIT_ROUNDOFF) + 1e-150) * (1 + 8 * UNIT_ROUNDOFF) + 1e-290
