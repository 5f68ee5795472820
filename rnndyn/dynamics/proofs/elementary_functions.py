"""Interval extensions of elementary functions, from what XLA computes at the endpoints.

The relative errors assumed of XLA are measured by a test; see `docs/certificates.md`.
"""

import math

import jax
import jax.numpy as jnp

from rnndyn.dynamics.proofs.interval_arithmetic import (
    Interval,
    add,
    blur,
    div,
    intersect,
    invalid_where,
    magnitude,
    mul,
    neg,
    point,
    sub,
)

LIBM_ERROR = 2.0**-48
"""Relative error assumed of `exp`, `expm1`, `log`, `tanh`, `sin`, `cos`, `erf`, `atan` and `asinh`: 32 unit roundoffs.
At most 7.3 were measured on XLA's CPU backend over 2e7 arguments (tanh near 16); a test repeats the measurement."""

ERFC_ERROR = 2.0**-42
"""Relative error assumed of `erfc`: 2048 unit roundoffs, for 511 measured (near 23, from the rounding of x^2)."""

_LARGE = 1e308
# Beyond this the argument of sin or cos is not located well enough within its period.
_LARGEST_ANGLE = 1e8


def exp(x: Interval) -> Interval:
    # An overflowed lower endpoint is only known to be large.
    ends = Interval(jnp.minimum(jnp.exp(x.lo), _LARGE), jnp.exp(x.hi))
    return _clip(blur(ends, LIBM_ERROR), 0.0, jnp.inf)


def expm1(x: Interval) -> Interval:
    ends = Interval(jnp.minimum(jnp.expm1(x.lo), _LARGE), jnp.expm1(x.hi))
    return _clip(blur(ends, LIBM_ERROR), -1.0, jnp.inf)


def log(x: Interval) -> Interval:
    """The logarithm; nothing is known where the argument may not be positive."""
    return invalid_where(~(x.lo > 0), _increasing(x, jnp.log))


def log1p(x: Interval) -> Interval:
    """`log(1 + x)`. XLA's own loses seven bits near -0.4, so it is not used."""
    shifted = add(point(jnp.ones_like(x.lo)), x)
    # Close to zero 1 + x forgets the digits of x, and x / (1 + x) <= log(1 + x) <= x says more.
    lower = div(point(x.lo), add(point(jnp.ones_like(x.lo)), point(x.lo))).lo
    near_zero = Interval(lower, x.hi)
    return intersect(log(shifted), near_zero)


def tanh(x: Interval) -> Interval:
    return _clip(_increasing(x, jnp.tanh), -1.0, 1.0)


def logistic(x: Interval) -> Interval:
    """`1 / (1 + exp(-x))`, through `exp` alone."""
    one = point(jnp.ones_like(x.lo))
    return _clip(div(one, add(one, exp(neg(x)))), 0.0, 1.0)


def sqrt(x: Interval) -> Interval:
    """The square root; nothing is known where the argument may be negative."""
    return invalid_where(~(x.lo >= 0), _clip(_increasing(x, jnp.sqrt), 0.0, jnp.inf))


def sin(x: Interval) -> Interval:
    return _sinusoid(x, jnp.sin, 0.25)


def cos(x: Interval) -> Interval:
    return _sinusoid(x, jnp.cos, 0.0)


def atan(x: Interval) -> Interval:
    return _increasing(x, jnp.arctan)


def asinh(x: Interval) -> Interval:
    return _increasing(x, jnp.arcsinh)


def sinh(x: Interval) -> Interval:
    """`(expm1(x) - expm1(-x)) / 2`, without cancellation; XLA's own loses several bits."""

    def at(end):
        return _half(sub(expm1(point(end)), expm1(point(-end))))

    return Interval(at(x.lo).lo, at(x.hi).hi)


def cosh(x: Interval) -> Interval:
    """`(exp(x) + exp(-x)) / 2`, least at zero."""
    at_lo, at_hi = (_half(add(exp(point(end)), exp(point(-end)))) for end in (x.lo, x.hi))
    lo = jnp.where((x.lo <= 0) & (x.hi >= 0), 1.0, jnp.maximum(jnp.minimum(at_lo.lo, at_hi.lo), 1.0))
    return Interval(lo, jnp.maximum(at_lo.hi, at_hi.hi))


def log_of_two() -> Interval:
    """log 2 = 0.69314718055994530941..., between two neighbouring floats."""
    return Interval(jnp.asarray(0.6931471805599453), jnp.asarray(0.6931471805599454))


def exp2(x: Interval) -> Interval:
    """`exp(x log 2)`; XLA's own is off by hundreds of unit roundoffs."""
    return exp(mul(log_of_two(), x))


def log2(x: Interval) -> Interval:
    """`log(x) / log 2`; nothing is known where the argument may not be positive."""
    return div(log(x), log_of_two())


def erf(x: Interval) -> Interval:
    return _clip(_increasing(x, jax.lax.erf), -1.0, 1.0)


def erfc(x: Interval) -> Interval:
    """`1 - erf(x)`, and in the tail, where that cancels, XLA's own with its larger error."""
    near = sub(point(jnp.ones_like(x.lo)), erf(x))
    far = blur(Interval(jax.lax.erfc(x.hi), jax.lax.erfc(x.lo)), ERFC_ERROR)
    return _clip(intersect(near, far), 0.0, 2.0)


# --- helpers


def _half(x: Interval) -> Interval:
    return Interval(0.5 * x.lo, 0.5 * x.hi)


def _clip(x: Interval, lower: float, upper: float) -> Interval:
    return Interval(jnp.clip(x.lo, lower, upper), jnp.clip(x.hi, lower, upper))


def _increasing(x: Interval, function) -> Interval:
    return blur(Interval(function(x.lo), function(x.hi)), LIBM_ERROR)


def _sinusoid(x: Interval, function, phase: float) -> Interval:
    """A sine or cosine whose maxima lie at turns `phase + k`, its minima half a turn later (k any integer)."""
    ends = blur(_hull_of(function(x.lo), function(x.hi)), LIBM_ERROR)
    # In turns, with a slack far above the rounding of the division: an extremum that may be inside counts as inside.
    slack = 1e-15 * (1 + magnitude(x))
    first, last = x.lo / (2 * math.pi) - slack, x.hi / (2 * math.pi) + slack
    has_maximum = jnp.ceil(first - phase) <= last - phase
    has_minimum = jnp.ceil(first - phase - 0.5) <= last - phase - 0.5
    far = ~(magnitude(x) < _LARGEST_ANGLE)
    lo = jnp.where(has_minimum | far, -1.0, jnp.maximum(ends.lo, -1.0))
    hi = jnp.where(has_maximum | far, 1.0, jnp.minimum(ends.hi, 1.0))
    return invalid_where(jnp.isnan(x.lo) | jnp.isnan(x.hi), Interval(lo, hi))


def _hull_of(a, b) -> Interval:
    return Interval(jnp.minimum(a, b), jnp.maximum(a, b))
