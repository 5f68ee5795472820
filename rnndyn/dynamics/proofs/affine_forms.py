"""Affine forms: sets that remember how their coordinates move together, with outward rounding.

An affine form stands for `center + sum_k y_k generators[k] + e` with all |y_k| <= 1 and |e| <= spread, elementwise.
Forms made from one set share the numbers y, so what is linear in the state is carried through exactly and only what
is curved adds to the spread. Rounding errors of a product with a matrix are bounded for all generators at once: the
sum over k of the errors of `A g_k` is at most n u |A| (sum_k |g_k|).

Stolfi & de Figueiredo (1997), *Self-Validated Numerical Methods and Applications*; Girard (2005), *Reachability of
uncertain linear systems using zonotopes*.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, midpoint, radius_about, widen

# What a bound loses at most to underflow; see `interval_arithmetic`.
_UNDERFLOW = 1e-290
# A handful of roundings of numbers that are added up to a bound, each upward.
_UP = 1 + 32 * UNIT_ROUNDOFF


class AffineForm(eqx.Module):
    """The set `center + sum_k y_k generators[k] + e`, |y_k| <= 1, |e| <= spread.

    **Fields:**

    - `center`, `spread`: arrays of one shape; `spread >= 0`, NaN where nothing is known.
    - `generators`: with a leading axis K, or `None` for a number that is the same for all y.
    """

    center: Float[Any, "..."]
    generators: Float[Any, "K ..."] | None
    spread: Float[Any, "..."]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.center.shape


def reach(generators: Float[Any, "K ..."] | None, like: Float[Any, "..."]) -> Float[Array, "..."]:
    """An upper bound of `sum_k |generators[k]|`."""
    if generators is None:
        return jnp.zeros_like(like)
    return jnp.sum(jnp.abs(generators), 0) * (1 + sum_error(generators.shape[0])) + _UNDERFLOW


def deviation(form: AffineForm) -> Float[Array, "..."]:
    """An upper bound of the distance of any point of the set from the center, elementwise."""
    return (reach(form.generators, form.center) + form.spread) * _UP


def as_interval(form: AffineForm) -> Interval:
    """The smallest box around the set, rounded outward."""
    distance = deviation(form)
    return widen(form.center - distance, form.center + distance)


def from_interval(x: Interval) -> AffineForm:
    """A box as a form that has forgotten all about y."""
    center = midpoint(x)
    return AffineForm(center, None, radius_about(x, center))


def rounded(
    center: Float[Any, "..."], generators: Float[Any, "K ..."] | None, spread: Float[Any, "..."], error: float
) -> AffineForm:
    """A form whose center and generators carry relative errors: they are added to the spread."""
    sizes = jnp.abs(center) + reach(generators, center)
    return AffineForm(center, generators, (spread + 2 * error * sizes) * _UP + _UNDERFLOW)


def broadcast_to(form: AffineForm, shape: tuple[int, ...]) -> AffineForm:
    if form.shape == shape:
        return form
    lift = lambda a: jnp.broadcast_to(a, shape)
    return AffineForm(
        lift(form.center),
        None if form.generators is None else jax.vmap(lift)(form.generators),
        lift(form.spread),
    )


def neg(x: AffineForm) -> AffineForm:
    return AffineForm(-x.center, None if x.generators is None else -x.generators, x.spread)


def add(x: AffineForm, y: AffineForm) -> AffineForm:
    """The sum of two forms in the same y."""
    shape = jnp.broadcast_shapes(x.shape, y.shape)
    x, y = broadcast_to(x, shape), broadcast_to(y, shape)
    generators = add_up([g for g in (x.generators, y.generators) if g is not None])
    return rounded(x.center + y.center, generators, x.spread + y.spread, UNIT_ROUNDOFF)


def bilinear(
    contract: Callable[[Any, Any], Any], count: int, x: AffineForm | Array, y: AffineForm | Array
) -> AffineForm:
    """A product of two forms, or of a form and numbers known exactly, each entry a sum of `count` products.

    `(a + A + e)(b + B + f) = ab + (aB + Ab) + af + eb + (A + e)(B + f)`; the last three are bounded by sizes.
    """
    error = sum_error(count)
    a, b = (z.center if isinstance(z, AffineForm) else z for z in (x, y))
    known = [z.generators if isinstance(z, AffineForm) else None for z in (x, y)]
    parts = []
    if known[0] is not None:
        parts.append(jax.vmap(lambda g: contract(g, b))(known[0]))
    if known[1] is not None:
        parts.append(jax.vmap(lambda g: contract(a, g))(known[1]))
    size_a, size_b = jnp.abs(a), jnp.abs(b)
    if isinstance(x, AffineForm) and isinstance(y, AffineForm):
        reach_a, reach_b = reach(x.generators, a), reach(y.generators, b)
        spread = (
            contract(size_a, y.spread)
            + contract(x.spread, size_b)
            + contract(reach_a + x.spread, reach_b + y.spread)
            + 2 * error * contract(size_a + reach_a, size_b + reach_b)
        )
    elif isinstance(x, AffineForm):
        spread = contract(x.spread + 2 * error * (size_a + reach(x.generators, a)), size_b)
    elif isinstance(y, AffineForm):
        spread = contract(size_a, y.spread + 2 * error * (size_b + reach(y.generators, b)))
    else:
        spread = 2 * error * contract(size_a, size_b)
    # Adding the two parts of the generators rounds once more; what bounds are summed of is nonnegative.
    return rounded(contract(a, b), add_up(parts), spread * (1 + 4 * error), UNIT_ROUNDOFF)


def linear_image(slopes: list[Float[Any, "..."]], operands: list[AffineForm], offset: AffineForm) -> AffineForm:
    """`offset + sum_i slopes[i] * (operands[i] - operands[i].center)`, elementwise."""
    parts, spread = [], offset.spread
    for slope, x in zip(slopes, operands):
        if x.generators is not None:
            parts.append(slope * x.generators)
        spread = spread + jnp.abs(slope) * x.spread
    # One product and one sum for each operand.
    return rounded(offset.center, add_up(parts), spread, (len(operands) + 1) * UNIT_ROUNDOFF)


def reduced(form: AffineForm, num_generators: int) -> AffineForm:
    """A larger set with at most `num_generators` generators: the largest are kept, the rest goes into the spread."""
    generators = form.generators
    if generators is None or generators.shape[0] <= num_generators:
        return form
    sizes = jnp.sum(jnp.abs(generators), tuple(range(1, generators.ndim)))
    order = jnp.argsort(-sizes)
    rest = reach(generators[order[num_generators:]], form.center)
    return AffineForm(form.center, generators[order[:num_generators]], (form.spread + rest) * _UP)


def spread_as_generators(form: AffineForm) -> AffineForm:
    """The same set of vectors (N,), with N more generators in place of the spread."""
    more = jnp.diag(form.spread)
    generators = more if form.generators is None else jnp.concatenate([form.generators, more])
    return AffineForm(form.center, generators, jnp.zeros_like(form.spread))


def sum_error(count: int) -> float:
    """A relative error, of the sum of magnitudes, that `count` rounded products and their sum stay below."""
    return 2 * (count + 1) * UNIT_ROUNDOFF


def add_up(parts: list[Any]) -> Any:
    """The sum of arrays, `None` for no arrays."""
    out = None
    for part in parts:
        out = part if out is None else out + part
    return out
