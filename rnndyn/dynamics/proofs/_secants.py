"""The best straight line through tanh on an interval, with a rigorous bound of how far tanh strays from it."""

from collections.abc import Sequence

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


def curves(names: Sequence[str], forms: Sequence[AffineForm]) -> list[AffineForm]:
    """tanh or logistic of several forms, each by its name, as one program on all of their entries.

    `1 / (1 + exp(-x)) = 1/2 + tanh(x / 2) / 2`; halves are exact.
    """
    scales = [0.5 if name == "logistic" else 1.0 for name in names]
    num_generators = max((0 if x.generators is None else x.generators.shape[0] for x in forms), default=0)

    def flat(x: AffineForm, scale: float) -> AffineForm:
        generators = jnp.zeros((num_generators, x.center.size)) if x.generators is None else x.generators
        generators = jnp.reshape(generators, (num_generators, -1))
        return AffineForm(scale * jnp.ravel(x.center), scale * generators, scale * jnp.ravel(x.spread))

    parts = [flat(x, scale) for x, scale in zip(forms, scales)]
    whole = AffineForm(
        jnp.concatenate([x.center for x in parts]),
        jnp.concatenate([x.generators for x in parts if x.generators is not None], axis=1),
        jnp.concatenate([x.spread for x in parts]),
    )
    y = tanh(whole)
    assert y.generators is not None
    out, first = [], 0
    for form, scale in zip(forms, scales):
        part = slice(first, first := first + form.center.size)
        generators = None
        if form.generators is not None:
            generators = jnp.reshape(y.generators[:, part], form.generators.shape)
        piece = AffineForm(jnp.reshape(y.center[part], form.shape), generators, jnp.reshape(y.spread[part], form.shape))
        out.append(piece if scale == 1 else _one_half_more(piece))
    return out


def _one_half_more(y: AffineForm) -> AffineForm:
    """`1/2 + y/2`."""
    half = jnp.full_like(y.center, 0.5)
    return linear_image([half], [y], from_interval(ia.add(point(0.5 * y.center), point(half))))


def _secant_slope(box: Interval) -> Float[Array, "..."]:
    """A slope between 0 and 1; any would be sound, the secant's keeps the remainder small."""
    width = box.hi - box.lo
    middle = 0.5 * box.lo + 0.5 * box.hi
    secant = (jnp.tanh(box.hi) - jnp.tanh(box.lo)) / jnp.maximum(width, 1e-6)
    tangent = 1 - jnp.tanh(middle) ** 2
    return jnp.clip(jnp.where(width > 1e-6, secant, tangent), 0.0, 1.0)


def _remainder(slope: Float[Array, "..."], box: Interval) -> Interval:
    """`tanh(x) - slope * x` over the box. It is odd, so each half-line is looked at as x >= 0, both at once."""
    lo = jnp.maximum(jnp.stack([box.lo, -box.hi]), 0.0)
    hi = jnp.maximum(jnp.stack([box.hi, -box.lo]), 0.0)
    found = _remainder_where_concave(jnp.stack([slope, slope]), lo, hi)
    on_right, on_left = found.map(lambda end: end[0]), ia.neg(found.map(lambda end: end[1]))
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
    # tanh is the long part of the program: it is written down once, for all three points.
    points = jnp.stack([lo, top, hi])
    tanhs = elementary.tanh(point(points))
    values = ia.sub(tanhs, ia.mul(point(jnp.stack([slope] * 3)), point(points)))
    at_lo, at_top, at_hi = (values.map(lambda end, i=i: end[i]) for i in range(3))
    squared = ia.square(tanhs.map(lambda end: end[1]))
    rise = ia.sub(ia.sub(point(jnp.ones_like(top)), squared), point(slope))
    to_hi = ia.mul(rise, ia.sub(point(hi), point(top)))
    to_lo = ia.mul(rise, ia.sub(point(lo), point(top)))
    above = jnp.maximum(jnp.maximum(to_hi.hi, to_lo.hi), 0.0)
    upper = ia.add(at_top, point(above)).hi
    return Interval(jnp.minimum(at_lo.lo, at_hi.lo), upper)
