"""Interval rules of operations with kinks, jumps and truth values.

At a kink the tangent holds Clarke's generalised derivative. Where a function may jump inside the box its tangent is
unknown (NaN), so that nothing is proved from it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import (
    Dual,
    Trouble,
    broadcast,
    dual,
    is_real,
    is_truth,
    predicate,
    tangent_or_zero,
    zero_or_jump,
    zeros,
)
from rnndyn.dynamics.proofs._primitives import parameter
from rnndyn.dynamics.proofs._smooth_rules import neg
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

# --- kinks


def _abs(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    x = dual(operand).value
    lo = jnp.where(ia.contains_zero(x), 0.0, jnp.minimum(jnp.abs(x.lo), jnp.abs(x.hi)))
    invalid = jnp.isnan(x.lo) | jnp.isnan(x.hi)
    value = ia.invalid_where(invalid, Interval(lo, ia.magnitude(x)))
    slope = Interval(jnp.where(x.lo >= 0, 1.0, -1.0), jnp.where(x.hi <= 0, -1.0, 1.0))
    tangent = dual(operand).tangent
    return Dual(value, None if tangent is None else ia.mul(slope, tangent))


def _max(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = broadcast(left, right)
    value = Interval(jnp.maximum(x.value.lo, y.value.lo), jnp.maximum(x.value.hi, y.value.hi))
    if x.tangent is None and y.tangent is None:
        return Dual(value, None)
    dx, dy = tangent_or_zero(x, y), tangent_or_zero(y, x)
    either = ia.hull(dx, dy)
    tangent = ia.where(x.value.lo > y.value.hi, dx, ia.where(y.value.lo > x.value.hi, dy, either))
    return Dual(value, tangent)


def _min(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    return neg(trouble, eqn, _max(trouble, eqn, neg(trouble, eqn, left), neg(trouble, eqn, right)))


def _clamp(trouble: Trouble, eqn: Any, lower: Any, x: Any, upper: Any) -> Dual:
    return _max(trouble, eqn, lower, _min(trouble, eqn, x, upper))


def reduce_max(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    return max_over(dual(operand), tuple(parameter(eqn, "axes")))


def reduce_min(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    return neg(trouble, eqn, reduce_max(trouble, eqn, neg(trouble, eqn, operand)))


def max_over(x: Dual, axes: tuple[int, ...]) -> Dual:
    """The largest entry along some axes."""
    value = Interval(jnp.max(x.value.lo, axes), jnp.max(x.value.hi, axes))
    if x.tangent is None:
        return Dual(value, None)
    beaten = x.value.hi < jnp.max(x.value.lo, axes, keepdims=True)
    behind = tuple(axis + 1 for axis in axes)
    tangent = Interval(
        jnp.min(jnp.where(beaten, jnp.inf, x.tangent.lo), behind),
        jnp.max(jnp.where(beaten, -jnp.inf, x.tangent.hi), behind),
    )
    return Dual(value, tangent)


# --- jumps


def _step(function: Callable) -> Callable:
    """A rule for a piecewise constant, increasing function; its slope is known only where it is constant."""

    def rule(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
        x = dual(operand)
        value = x.value.map(lambda end: function(end, eqn))
        return Dual(value, zero_or_jump(trouble, x.tangent, value.lo == value.hi))

    return rule


def _round(x: Array, eqn: Any) -> Array:
    return jax.lax.round(x, parameter(eqn, "rounding_method"))


def _rem(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    """`x - y trunc(x / y)`: linear while the truncated quotient stays the same."""
    if isinstance(right, Dual):
        raise NotImplementedError("f: a remainder whose divisor depends on the state has no interval rule.")
    x, y = broadcast(left, right)
    quotient = ia.div(x.value, y.value)
    lo, hi = jnp.trunc(quotient.lo), jnp.trunc(quotient.hi)
    linear = ia.sub(x.value, ia.mul(point(lo), y.value))
    size = jnp.abs(y.value.lo)
    anywhere = Interval(jnp.where(x.value.lo >= 0, 0.0, -size), jnp.where(x.value.hi <= 0, 0.0, size))
    decided = lo == hi
    if x.tangent is not None:
        trouble.jumps.append(jnp.any(~decided))
    value = ia.invalid_where(jnp.isnan(quotient.lo), ia.where(decided, linear, anywhere))
    return Dual(value, None if x.tangent is None else ia.invalid_where(~decided, x.tangent))


def select_n(trouble: Trouble, eqn: Any, which: Any, *cases: Any) -> Dual:
    duals = [dual(case) for case in cases]
    if not isinstance(which, Dual):
        which = Dual(point(which), None)
    first, last = (end.astype(jnp.int32) for end in (which.value.lo, which.value.hi))
    possible = [(first <= k) & (k <= last) for k in range(len(cases))]
    value = _hull_of_possible(possible, [d.value for d in duals])
    size = next((d.tangent.shape[0] for d in (*duals, which) if d.tangent is not None), None)
    if size is None:
        return Dual(value, None)
    if not is_real(value.lo):
        return Dual(value, zeros(size, value))
    tangents = [zeros(size, d.value) if d.tangent is None else d.tangent for d in duals]
    tangent = _hull_of_possible(possible, tangents)
    if which.tangent is None:  # open because of rounding alone: the choice is the same all over the box
        return Dual(value, tangent)
    undecided = jnp.broadcast_to(first != last, value.shape)
    trouble.jumps.append(jnp.any(undecided))
    return Dual(value, ia.invalid_where(undecided, tangent))


def _hull_of_possible(possible: Sequence[Array | np.ndarray], cases: list[Interval]) -> Interval:
    """The hull of the cases that may be chosen; one of them always is."""
    if jnp.issubdtype(cases[0].lo.dtype, jnp.bool_):
        lo = jnp.stack([~p | c.lo for p, c in zip(possible, cases)]).all(0)
        hi = jnp.stack([p & c.hi for p, c in zip(possible, cases)]).any(0)
        return Interval(lo, hi)
    if jnp.issubdtype(cases[0].lo.dtype, jnp.inexact):
        lowest, highest = -jnp.inf, jnp.inf
    else:
        lowest, highest = jnp.iinfo(cases[0].lo.dtype).min, jnp.iinfo(cases[0].lo.dtype).max
    los = [jnp.where(p, c.lo, highest) for p, c in zip(possible, cases)]
    his = [jnp.where(p, c.hi, lowest) for p, c in zip(possible, cases)]
    lo, hi = los[0], his[0]
    for a, b in zip(los[1:], his[1:]):
        lo, hi = jnp.minimum(lo, a), jnp.maximum(hi, b)
    return Interval(lo, hi)


# --- truth values: [true for all, true for some]

COMPARISONS = frozenset(["lt", "le", "gt", "ge", "eq", "ne", "xor"])


def compare(name: str, x: Dual, y: Dual, same: bool) -> Dual:
    """Written so that a NaN leaves the outcome open."""
    x, y = broadcast(x, y)
    a, b = (d.value.map(lambda end: end.astype(jnp.int32)) if is_truth(d.value.lo) else d.value for d in (x, y))
    if name in ("gt", "ge"):
        a, b, name = b, a, {"gt": "lt", "ge": "le"}[name]
    if same:
        known = (a.lo == a.lo) & (a.hi == a.hi)
        outcome = Interval(known, jnp.ones_like(known)) if name in ("le", "eq") else Interval(known & False, ~known)
    elif name == "lt":
        outcome = Interval(a.hi < b.lo, ~(a.lo >= b.hi))
    elif name == "le":
        outcome = Interval(a.hi <= b.lo, ~(a.lo > b.hi))
    else:
        equal = Interval((a.lo == b.hi) & (a.hi == b.lo), ~((a.hi < b.lo) | (b.hi < a.lo)))
        outcome = equal if name == "eq" else Interval(~equal.hi, ~equal.lo)
    return predicate([x, y], outcome)


def _is_finite(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    """Open where the bounds are not finite: the real number may be, beyond what they can say."""
    x = dual(operand)
    known = jnp.isfinite(x.value.lo) & jnp.isfinite(x.value.hi)
    return predicate([x], Interval(known, jnp.ones_like(known)))


def _logic(function: Callable) -> Callable:
    """A rule for an increasing function of predicates (`and`, `or`, and their reductions)."""

    def rule(trouble: Trouble, eqn: Any, *operands: Any) -> Dual:
        duals = [dual(x) for x in operands]
        value = Interval(function(eqn, *[d.value.lo for d in duals]), function(eqn, *[d.value.hi for d in duals]))
        return predicate(duals, value)

    return rule


def _not(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    x = dual(operand)
    return Dual(Interval(~x.value.hi, ~x.value.lo), x.tangent)


BRANCH_RULES: dict[str, Callable] = {
    "abs": _abs,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "reduce_max": reduce_max,
    "reduce_min": reduce_min,
    "sign": _step(lambda x, _: jnp.sign(x)),
    "floor": _step(lambda x, _: jnp.floor(x)),
    "ceil": _step(lambda x, _: jnp.ceil(x)),
    "round": _step(_round),
    "rem": _rem,
    "select_n": select_n,
    "and": _logic(lambda eqn, a, b: a & b),
    "or": _logic(lambda eqn, a, b: a | b),
    "not": _not,
    "is_finite": _is_finite,
    "reduce_and": _logic(lambda eqn, a: jnp.all(a, parameter(eqn, "axes"))),
    "reduce_or": _logic(lambda eqn, a: jnp.any(a, parameter(eqn, "axes"))),
}
