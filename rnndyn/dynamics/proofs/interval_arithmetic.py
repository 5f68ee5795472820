"""Interval arithmetic with outward rounding, in float64 operations of JAX or NumPy.

Every function here returns an interval that holds the exact real result for all real operands in the given
intervals. XLA offers no rounding modes, so results are computed to nearest and then pushed outward by more than
the rounding error can be; `docs/certificates.md` derives the constants. A NaN endpoint means "nothing is known":
it survives every operation, and no comparison with it succeeds.

The four operations, sums and products of matrices take JAX arrays (inside compiled programs) or NumPy arrays (where
there is nothing to gain from compilation), and return the same.
"""

import dataclasses
import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

UNIT_ROUNDOFF = 2.0**-53

# Half of this pays for the operation, which XLA may round twice (a division by a constant becomes a product with its
# reciprocal), the other half for the outward step itself.
_ROUNDING = 4 * UNIT_ROUNDOFF
# XLA's CPU backend flushes subnormal numbers (below 2.2e-308) to zero, operands included; this covers what is lost
# even after a product with a factor of 1e17.
_UNDERFLOW = 1e-290
_MATRIX_VECTOR = (((1,), (0,)), ((), ()))
# From here on, matrix-vector products (the residual of a large network) are worth summing with a smaller error bound.
_LONG_SUM = 64


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Interval:
    """The closed intervals `[lo, hi]`, elementwise.

    **Fields:**

    - `lo`, `hi`: arrays of one shape. Predicates are intervals of booleans: `lo` is "true for all points of the
      box", `hi` is "true for some".
    """

    lo: Shaped[Any, "..."]
    hi: Shaped[Any, "..."]

    # No `eqx.Module`, whose construction takes longer than the arithmetic of a small matrix.

    def __repr__(self) -> str:
        return eqx.tree_pformat(self)

    def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
        return (self.lo, self.hi), None

    @classmethod
    def tree_unflatten(cls, structure: None, bounds: tuple[Any, Any]) -> "Interval":
        # Around the constructor: JAX and Equinox also put other things than arrays where the bounds were.
        interval = object.__new__(cls)
        object.__setattr__(interval, "lo", bounds[0])
        object.__setattr__(interval, "hi", bounds[1])
        return interval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lo.shape

    @property
    def is_exact(self) -> bool:
        """Whether the interval is known, while tracing, to be a single number."""
        return self.lo is self.hi

    def map(self, function) -> "Interval":
        """Apply a function that moves numbers about without changing their order or value."""
        lo = function(self.lo)
        return Interval(lo, lo if self.is_exact else function(self.hi))


def point(x: Shaped[Any, "..."]) -> Interval:
    """The interval that holds `x` only."""
    return Interval(x, x)


def ball(center: Float[Any, "..."], radius: Float[Any, "..."] | float) -> Interval:
    """All numbers within `radius` of `center`."""
    return widen(center - radius, center + radius)


def widen(lo: Float[Any, "..."], hi: Float[Any, "..."]) -> Interval:
    """Push endpoints that carry the error of one rounded operation outward, past that error."""
    return Interval(lo - (abs(lo) * _ROUNDING + _UNDERFLOW), hi + (abs(hi) * _ROUNDING + _UNDERFLOW))


def midpoint(x: Interval) -> Float[Any, "..."]:
    """A number inside the interval (rounded; the exact middle is not promised)."""
    return x.lo if x.is_exact else namespace(x.lo).clip(0.5 * x.lo + 0.5 * x.hi, x.lo, x.hi)


def radius_about(x: Interval, center: Float[Any, "..."]) -> Float[Any, "..."]:
    """An upper bound of the distance from `center` to any point of the interval."""
    above, below = widen(center - x.lo, center - x.lo).hi, widen(x.hi - center, x.hi - center).hi
    return namespace(x.lo, center).maximum(above, below)


def magnitude(x: Interval) -> Float[Any, "..."]:
    """The largest absolute value."""
    return namespace(x.lo).maximum(abs(x.lo), abs(x.hi))


def contains_zero(x: Interval) -> Shaped[Any, "..."]:
    """Whether zero cannot be ruled out (true for NaN)."""
    return ~((x.lo > 0) | (x.hi < 0))


def hull(x: Interval, y: Interval) -> Interval:
    xp = namespace(x.lo, y.lo)
    return Interval(xp.minimum(x.lo, y.lo), xp.maximum(x.hi, y.hi))


def intersect(x: Interval, y: Interval) -> Interval:
    """What lies in both; where `y` is NaN it says nothing and `x` stays. Empty shows as `lo > hi`."""
    xp = namespace(x.lo, y.lo)
    return Interval(xp.where(y.lo > x.lo, y.lo, x.lo), xp.where(y.hi < x.hi, y.hi, x.hi))


def where(condition: Shaped[Any, "..."], x: Interval, y: Interval) -> Interval:
    xp = namespace(condition, x.lo, y.lo)
    return Interval(xp.where(condition, x.lo, y.lo), xp.where(condition, x.hi, y.hi))


def invalid_where(condition: Shaped[Any, "..."], x: Interval) -> Interval:
    """`x`, with "nothing is known" where the condition holds."""
    xp = namespace(condition, x.lo)
    return Interval(xp.where(condition, xp.nan, x.lo), xp.where(condition, xp.nan, x.hi))


# --- the four operations


def neg(x: Interval) -> Interval:
    return point(-x.lo) if x.is_exact else Interval(-x.hi, -x.lo)


def add(x: Interval, y: Interval) -> Interval:
    return widen(x.lo + y.lo, x.hi + y.hi)


def sub(x: Interval, y: Interval) -> Interval:
    return widen(x.lo - y.hi, x.hi - y.lo)


def mul(x: Interval, y: Interval) -> Interval:
    if x.is_exact and y.is_exact:
        product = x.lo * y.lo
        return widen(product, product)
    if x.is_exact or y.is_exact:
        factor, other = (x.lo, y) if x.is_exact else (y.lo, x)
        return _widen_hull(factor * other.lo, factor * other.hi)
    return _widen_hull(x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi)


def div(x: Interval, y: Interval) -> Interval:
    """The quotient; nothing is known where `y` may be zero."""
    if y.is_exact:
        quotient = _widen_hull(x.lo / y.lo, x.hi / y.lo)
    else:
        quotient = _widen_hull(x.lo / y.lo, x.lo / y.hi, x.hi / y.lo, x.hi / y.hi)
    return invalid_where(contains_zero(y), quotient)


def square(x: Interval) -> Interval:
    return _even(x, jnp.square)


def power(x: Interval, exponent: int) -> Interval:
    """`x ** exponent` for a whole exponent; nothing is known where a negative one meets zero."""
    if exponent == 0:
        return point(jnp.ones_like(x.lo))
    if exponent < 0:
        return div(point(jnp.ones_like(x.lo)), power(x, -exponent))
    # At most `exponent` rounded products, in whatever order the power is formed.
    error = 2 * exponent * UNIT_ROUNDOFF

    def rounded(endpoint):
        return jax.lax.integer_pow(endpoint, exponent)

    if exponent % 2 == 0:
        return blur(_even(x, rounded), error)
    return blur(Interval(rounded(x.lo), rounded(x.hi)), error)


# --- sums


def total(x: Interval, axes: tuple[int, ...]) -> Interval:
    """The sum over `axes`, in whatever order the backend adds."""
    count = math.prod(x.shape[axis] for axis in axes)
    return sum_of(x.lo.sum(axes), x.hi.sum(axes), magnitude(x).sum(axes), count)


def sum_of(
    lo: Float[Any, "..."],
    hi: Float[Any, "..."],
    sizes: Float[Any, "..."],
    count: int,
) -> Interval:
    """Sums of at most `count` terms, rounded in whatever order, as intervals; `sizes` are the sums of magnitudes."""
    error = _sum_error(count) * sizes
    return widen(lo - error, hi + error)


def dot_general(x: Interval, y: Interval, dimension_numbers, *, accurate: bool = False) -> Interval:
    """The contraction `jax.lax.dot_general` of two intervals, by two or three contractions of numbers.

    Both are written as midpoint and radius, `(X ± r)(Y ± s) = XY ± (|X| s + r (|Y| + s))`, and each of the sums of
    n products is off by at most n u (1 + n u) times the sum of absolute values, whatever the order of summation
    and with or without fused multiply-adds (Higham 2002; Rump 1999, Fast and parallel interval arithmetic).
    `accurate` sums a long matrix-vector product in blocks, for a smaller bound at the cost of elementwise work.
    """
    count = math.prod(x.shape[axis] for axis in dimension_numbers[0][0])

    def contract(a, b):
        return jax.lax.dot_general(a, b, dimension_numbers, precision=jax.lax.Precision.HIGHEST)

    is_matvec = dimension_numbers == _MATRIX_VECTOR and (len(x.shape), len(y.shape)) == (2, 1)
    if accurate and is_matvec and count >= _LONG_SUM:
        block = 2 ** round(math.log2(count) / 2)
        blocks = functools.partial(_matvec_in_blocks, block)
        return _product(x, y, count, contract, blocks, _sum_error(block + -(-count // block)))
    return _product(x, y, count, contract, contract, _sum_error(count))


def matmul(a: Interval, b: Interval) -> Interval:
    """The product of two matrices, or of two stacks of them."""

    def contract(left, right):
        if namespace(left, right) is np:
            return left @ right
        return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

    count = a.shape[-1]
    return _product(a, b, count, contract, contract, _sum_error(count))


def matvec(a: Interval, x: Interval) -> Interval:
    """The product of a matrix and a vector, or of a stack of either."""
    return matmul(a, x.map(lambda end: end[..., None])).map(lambda end: end[..., 0])


# --- helpers


def namespace(*arrays: Any) -> Any:
    """NumPy where all arrays are NumPy's, else `jax.numpy`."""
    return np if all(isinstance(a, np.ndarray | np.generic | float) for a in arrays) else jnp


def _product(x: Interval, y: Interval, count: int, contract, contract_centers, error: float) -> Interval:
    center_x, center_y = midpoint(x), midpoint(y)
    size_x, size_y = abs(center_x), abs(center_y)
    spread = error * size_y if y.is_exact else radius_about(y, center_y) + error * size_y
    radius = contract(size_x, spread)
    if not x.is_exact:
        radius = radius + contract(radius_about(x, center_x), size_y + spread)
    # The radii are sums of nonnegative numbers, so their own rounding error is relative.
    radius = radius * (1 + 4 * _sum_error(count)) + _UNDERFLOW
    center = contract_centers(center_x, center_y)
    return widen(center - radius, center + radius)


def _matvec_in_blocks(block: int, a, x):
    """A matrix-vector product summed in two levels, whose error grows with the square root of the length only."""
    missing = -x.shape[0] % block
    products = jnp.pad(a * x, ((0, 0), (0, missing)))
    partial = jnp.sum(products.reshape(a.shape[0], -1, block), 2)
    # Without the first barrier XLA may merge the two sums into one; without the second it may redo them per use.
    barrier = jax.lax.optimization_barrier
    return barrier(jnp.sum(barrier(partial), 1))


def _widen_hull(*candidates) -> Interval:
    lo = hi = candidates[0]
    for candidate in candidates[1:]:
        xp = namespace(candidate)
        lo, hi = xp.minimum(lo, candidate), xp.maximum(hi, candidate)
    return widen(lo, hi)


def _sum_error(count: int) -> float:
    # Twice the standard constant count * u: pays for its higher orders and for XLA's rewriting of constant factors.
    return 2 * (count + 1) * UNIT_ROUNDOFF


def blur(x: Interval, relative: float) -> Interval:
    """Endpoints that carry a relative error, pushed outward past it."""
    return widen(x.lo - jnp.abs(x.lo) * relative, x.hi + jnp.abs(x.hi) * relative)


def _even(x: Interval, function) -> Interval:
    at_lo, at_hi = function(x.lo), function(x.hi)
    x_holds_zero = (x.lo <= 0) & (x.hi >= 0)
    result = widen(jnp.minimum(at_lo, at_hi), jnp.maximum(at_lo, at_hi))
    return Interval(jnp.where(x_holds_zero, 0.0, jnp.maximum(result.lo, 0.0)), result.hi)
