"""Interval rules of smooth operations: arithmetic, linear algebra and elementary functions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn.dynamics.proofs import elementary_functions as elementary
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import Dual, Trouble, add_up, broadcast, dual
from rnndyn.dynamics.proofs._primitives import parameter
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

# --- arithmetic and linear algebra


def neg(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    x = dual(operand)
    return Dual(ia.neg(x.value), None if x.tangent is None else ia.neg(x.tangent))


def add(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = broadcast(left, right)
    value = ia.add(x.value, y.value)
    if x.tangent is None or y.tangent is None:
        return Dual(value, y.tangent if x.tangent is None else x.tangent)
    return Dual(value, ia.add(x.tangent, y.tangent))


def sub(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = broadcast(left, right)
    value = ia.sub(x.value, y.value)
    if y.tangent is None:
        return Dual(value, x.tangent)
    return Dual(value, ia.neg(y.tangent) if x.tangent is None else ia.sub(x.tangent, y.tangent))


def mul(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = broadcast(left, right)
    parts = [ia.mul(b.value, a.tangent) for a, b in ((x, y), (y, x)) if a.tangent is not None]
    return Dual(ia.mul(x.value, y.value), add_up(parts))


def div(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = broadcast(left, right)
    value = ia.div(x.value, y.value)
    trouble.undefined.append(jnp.any(ia.contains_zero(y.value)))
    parts = [] if x.tangent is None else [ia.div(x.tangent, y.value)]
    if y.tangent is not None:
        parts.append(ia.mul(ia.neg(ia.div(value, y.value)), y.tangent))
    return Dual(value, add_up(parts))


def _dot_general(trouble: Trouble, eqn: Any, left: Any, right: Any) -> Dual:
    x, y = dual(left), dual(right)
    dimensions = parameter(eqn, "dimension_numbers")
    value = ia.dot_general(x.value, y.value, dimensions, accurate=True)
    parts = []
    if x.tangent is not None:
        parts.append(_along(lambda t: ia.dot_general(t, y.value, dimensions), x.tangent))
    if y.tangent is not None:
        parts.append(_along(lambda t: ia.dot_general(x.value, t, dimensions), y.tangent))
    return Dual(value, add_up(parts))


def _reduce_sum(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    x = dual(operand)
    axes = tuple(parameter(eqn, "axes"))
    value = ia.total(x.value, axes)
    return Dual(value, None if x.tangent is None else ia.total(x.tangent, tuple(axis + 1 for axis in axes)))


def _along(function: Callable[[Interval], Interval], tangent: Interval) -> Interval:
    """Apply a linear interval function to every direction."""
    if tangent.is_exact:
        out = jax.vmap(lambda t: function(point(t)))(tangent.lo)
    else:
        out = jax.vmap(function)(tangent)
    return out


# --- elementary functions


def _smooth(value: Callable, slope: Callable, domain: Callable | None = None) -> Callable:
    """A rule from the function and its derivative `slope(x, y)` at `y = value(x)`."""

    def rule(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
        x = dual(operand)
        y = value(x.value)
        tangent = None if x.tangent is None else ia.mul(slope(x.value, y), x.tangent)
        if domain is not None:
            outside = ~domain(x.value)
            trouble.undefined.append(jnp.any(outside))
            tangent = None if tangent is None else ia.invalid_where(outside, tangent)
        return Dual(y, tangent)

    return rule


def _one(x: Interval) -> Interval:
    return point(jnp.ones_like(x.lo))


def _scaled(factor: float | int, x: Interval) -> Interval:
    return ia.mul(point(jnp.full_like(x.lo, factor)), x)


def _positive(x: Interval) -> Array | np.ndarray:
    return x.lo > 0


def _tanh_slope(x: Interval, y: Interval) -> Interval:
    slope = ia.sub(_one(y), ia.square(y))
    return Interval(jnp.clip(slope.lo, 0.0, 1.0), jnp.clip(slope.hi, 0.0, 1.0))


def _logistic_slope(x: Interval, y: Interval) -> Interval:
    """`y (1 - y)` on an interval of y: largest at 1/2, monotone on either side."""
    at_lo, at_hi = (ia.mul(point(end), ia.sub(_one(y), point(end))) for end in (y.lo, y.hi))
    peak_inside = (y.lo <= 0.5) & (y.hi >= 0.5)
    ends = ia.hull(at_lo, at_hi)
    return Interval(jnp.clip(ends.lo, 0.0, 0.25), jnp.where(peak_inside, 0.25, jnp.clip(ends.hi, 0.0, 0.25)))


def _rsqrt(x: Interval) -> Interval:
    return ia.div(_one(x), elementary.sqrt(x))


def _integer_pow(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    exponent = parameter(eqn, "y")
    domain = None if exponent >= 0 else lambda x: ~ia.contains_zero(x)
    rule = _smooth(lambda x: ia.power(x, exponent), lambda x, _: _scaled(exponent, ia.power(x, exponent - 1)), domain)
    return rule(trouble, eqn, operand)


def _polynomial(trouble: Trouble, eqn: Any, x: Any, *coefficients: Any) -> Dual:
    """`c_0 + c_1 x + c_2 x^2 + ...` in Horner's form."""
    out = dual(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        out = add(trouble, eqn, mul(trouble, eqn, out, x), coefficient)
    return broadcast(out, x)[0]


def _pow(trouble: Trouble, eqn: Any, base: Any, exponent: Any) -> Dual:
    """`base ** exponent` for positive bases, as `exp(exponent * log(base))`."""
    logarithm = SMOOTH_RULES["log"](trouble, eqn, base)
    return SMOOTH_RULES["exp"](trouble, eqn, mul(trouble, eqn, exponent, logarithm))


def _tan(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    sine, cosine = (SMOOTH_RULES[name](trouble, eqn, operand) for name in ("sin", "cos"))
    x = dual(operand)
    value = div(trouble, eqn, Dual(sine.value, None), Dual(cosine.value, None)).value
    slope = ia.add(_one(value), ia.square(value))
    return Dual(value, None if x.tangent is None else ia.mul(slope, x.tangent))


def _bell(factor: float) -> Callable[[Interval, Interval], Interval]:
    """The slope `factor exp(-x^2)` of the error functions; 2 / sqrt(pi) is rounded."""
    return lambda x, _: _scaled(factor, elementary.exp(ia.neg(ia.square(x))))


square = _smooth(ia.square, lambda x, _: _scaled(2.0, x))

SMOOTH_RULES: dict[str, Callable] = {
    "neg": neg,
    "add": add,
    "add_any": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "dot_general": _dot_general,
    "reduce_sum": _reduce_sum,
    "square": square,
    "one_minus_square": _smooth(lambda x: ia.sub(_one(x), ia.square(x)), lambda x, _: _scaled(-2.0, x)),
    "integer_pow": _integer_pow,
    "pow": _pow,
    "polynomial": _polynomial,
    "sqrt": _smooth(elementary.sqrt, lambda x, y: ia.div(_one(y), _scaled(2.0, y)), lambda x: x.lo >= 0),
    "rsqrt": _smooth(_rsqrt, lambda x, y: ia.div(y, _scaled(-2.0, x)), _positive),
    "exp": _smooth(elementary.exp, lambda x, y: y),
    "expm1": _smooth(elementary.expm1, lambda x, _: elementary.exp(x)),
    "log": _smooth(elementary.log, lambda x, _: ia.div(_one(x), x), _positive),
    "log1p": _smooth(elementary.log1p, lambda x, _: ia.div(_one(x), ia.add(_one(x), x)), lambda x: x.lo > -1),
    "tanh": _smooth(elementary.tanh, _tanh_slope),
    "logistic": _smooth(elementary.logistic, _logistic_slope),
    "sin": _smooth(elementary.sin, lambda x, _: elementary.cos(x)),
    "cos": _smooth(elementary.cos, lambda x, _: ia.neg(elementary.sin(x))),
    "tan": _tan,
    "atan": _smooth(elementary.atan, lambda x, _: ia.div(_one(x), ia.add(_one(x), ia.square(x)))),
    "sinh": _smooth(elementary.sinh, lambda x, _: elementary.cosh(x)),
    "cosh": _smooth(elementary.cosh, lambda x, _: elementary.sinh(x)),
    "asinh": _smooth(elementary.asinh, lambda x, _: ia.div(_one(x), elementary.sqrt(ia.add(_one(x), ia.square(x))))),
    "exp2": _smooth(elementary.exp2, lambda x, y: ia.mul(elementary.log_of_two(), y)),
    "log2": _smooth(elementary.log2, lambda x, _: ia.div(_one(x), ia.mul(elementary.log_of_two(), x)), _positive),
    "erf": _smooth(elementary.erf, _bell(2 / math.sqrt(math.pi))),
    "erfc": _smooth(elementary.erfc, _bell(-2 / math.sqrt(math.pi))),
}
