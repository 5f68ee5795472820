"""The best straight line through tanh on an interval, with a rigorous bound of how far tanh strays from it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.dynamics.proofs import elementary_functions as elementary
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.affine_forms import AffineForm, as_interval, from_interval, linear_image
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point


def tanh(x: AffineForm) -> AffineForm:
    """tanh of a form: the secant over its range, shifted halfway towards the curve.

    The error is a quarter of the second derivative times the squared half-width, four times less than that of the
    mean value form, whose slope varies over the whole range.
    """
    box = as_interval(x)
    slope = _secant_slope(box)
    remainder = _remainder(slope, box)
    # tanh(x) = slope * center + slope * (x - center) + remainder
    offset = from_interval(ia.add(ia.mul(point(slope), point(x.center)), remainder))
    return linear_image([slope], [x], offset)


def logistic(x: AffineForm) -> AffineForm:
    """`1 / (1 + exp(-x)) = 1/2 + tanh(x / 2) / 2`; halves are exact."""
    half = AffineForm(0.5 * x.center, None if x.generators is None else 0.5 * x.generators, 0.5 * x.spread)
    y = tanh(half)
    offset = from_interval(ia.add(point(0.5 * y.center), point(jnp.full_like(y.center, 0.5))))
    return linear_image([jnp.full_like(y.center, 0.5)], [y], offset)


def _secant_slope(box: Interval) -> Float[Array, "..."]:
    """A slope between 0 and 1; any would be sound, the secant's keeps the remainder small."""
    width = box.hi - box.lo
    middle = 0.5 * box.lo + 0.5 * box.hi
    secant = (jnp.tanh(box.hi) - jnp.tanh(box.lo)) / jnp.maximum(width, 1e-6)
    tangent = 1 - jnp.tanh(middle) ** 2
    return jnp.clip(jnp.where(width > 1e-6, secant, tangent), 0.0, 1.0)


def _remainder(slope: Float[Array, "..."], box: Interval) -> Interval:
    """`tanh(x) - slope * x` over the box. It is odd, so each half-line is looked at as x >= 0."""
    on_right = _remainder_where_concave(slope, jnp.maximum(box.lo, 0.0), jnp.maximum(box.hi, 0.0))
    mirrored = _remainder_where_concave(slope, jnp.maximum(-box.hi, 0.0), jnp.maximum(-box.lo, 0.0))
    on_left = ia.neg(mirrored)
    only_right, only_left = box.lo >= 0, box.hi <= 0
    both = ia.hull(on_right, on_left)
    remainder = ia.where(only_right, on_right, ia.where(only_left, on_left, both))
    unknown = jnp.isnan(box.lo) | jnp.isnan(box.hi)
    return ia.invalid_where(unknown, remainder)


def _remainder_where_concave(slope: Float[Array, "..."], lo: Float[Array, "..."], hi: Float[Array, "..."]) -> Interval:
    """`h(x) = tanh(x) - slope * x` for 0 <= lo <= x <= hi, where it is concave.

    It is least at an end, and below every tangent: that at (about) its maximum, where tanh(x)^2 = 1 - slope, is tight.
    """
    below = jnp.sqrt(jnp.maximum(1 - slope, 0.0))
    top = jnp.clip(jnp.arctanh(jnp.minimum(below, 1 - 1e-16)), lo, hi)
    at_lo, at_top, at_hi = (_remainder_at(slope, end) for end in (lo, top, hi))
    value = elementary.tanh(point(top))
    rise = ia.sub(ia.sub(point(jnp.ones_like(top)), ia.square(value)), point(slope))
    to_hi = ia.mul(rise, ia.sub(point(hi), point(top)))
    to_lo = ia.mul(rise, ia.sub(point(lo), point(top)))
    above = jnp.maximum(jnp.maximum(to_hi.hi, to_lo.hi), 0.0)
    upper = ia.add(at_top, point(above)).hi
    return Interval(jnp.minimum(at_lo.lo, at_hi.lo), upper)


def _remainder_at(slope: Float[Array, "..."], x: Float[Array, "..."]) -> Interval:
    return ia.sub(elementary.tanh(point(x)), ia.mul(point(slope), point(x)))
