"""Bounds of norms, inverses and definiteness that hold in exact arithmetic, for float64 matrices on the host.

Matrices may be anything that `interval_arithmetic.Interval` holds, with any number of leading axes (a batch); a matrix
of numbers is `point(A)`. Products are `interval_arithmetic.matmul`, which is fast on NumPy arrays: midpoint and radius,
with the a-priori bound n u |A| |B| of the rounding of n products in any order (Rump 1999; Higham 2002, section 3.1),
taken twice, and a term for underflow. What is computed here besides (norms, inverses, factors) may be as wrong as it
likes: it only enters inequalities, and those are evaluated outward. What cannot be shown is infinite, zero, NaN or
false, whichever proves nothing.

The norm of an ellipsoid is given by any regular matrix L of floats, |x|_L = |L x|_2; nothing asks whether L is the
factor of some P, so that no rounding of a factorisation has to be accounted for.

Reference: S. M. Rump (2010), *Verification methods: Rigorous results using floating-point arithmetic*.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point

_UNDERFLOW = 1e-290
"""Above what underflow, gradual or to zero, takes from a sum of fewer than 10^17 products."""

_NUM_POWER_STEPS = 6


def round_up(x: Float[Any, "..."] | float, num_operations: int = 1) -> Any:
    """Above what `num_operations` rounded operations on nonnegative numbers, whose outcome is `x`, give exactly.

    Each operation has a relative error of at most u, or of 2^-1074 where it underflows; the step itself costs 2 u.
    """
    return x * (1 + (2 * num_operations + 4) * UNIT_ROUNDOFF) + _UNDERFLOW


def round_down(x: Float[Any, "..."] | float, num_operations: int = 1) -> Any:
    """Below what `num_operations` rounded operations on nonnegative numbers, whose outcome is `x`, give exactly."""
    return np.maximum(x * (1 - (2 * num_operations + 4) * UNIT_ROUNDOFF) - _UNDERFLOW, 0.0)


@np.errstate(all="ignore")
def vector_norm_bound(x: Interval) -> Float[Any, "..."]:
    """Upper bounds of the Euclidean norm of every vector (last axis) in `x`."""
    size = ia.magnitude(x)
    # Scaled first, so that squares neither overflow nor vanish.
    largest = np.max(size, axis=-1, keepdims=True, initial=0.0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    # A quotient and a square: 3 roundings of each term, 2 more for the root and the product.
    squares = round_up(size / scale, 1) ** 2
    total = ia.total(point(round_up(squares, 1)), (-1,)).hi
    return _unless_nan(round_up(np.sqrt(total) * scale[..., 0], 2))


@np.errstate(all="ignore")
def nonnegative_norm_bound(sizes: Float[Any, "... M N"]) -> Float[Any, "..."]:
    """Upper bounds of the spectral norm of every matrix whose entries are at most `sizes` in modulus.

    The norm of |A| <= R is at most that of R, whose square, the largest eigenvalue of R'R, is at most
    max_j (R'R v)_j / v_j for every positive v (Collatz 1942). A few steps of the power method make v good.
    """
    transposed = np.swapaxes(sizes, -1, -2)
    weights = np.ones((*sizes.shape[:-2], sizes.shape[-1], 1))
    for _ in range(_NUM_POWER_STEPS):
        weights = transposed @ (sizes @ weights)
        largest = np.max(weights, axis=-2, keepdims=True, initial=0.0)
        weights = np.where(largest > 0, np.maximum(weights / largest, 1e-6), 1.0)
    product = ia.matmul(point(transposed), point(ia.matmul(point(sizes), point(weights)).hi)).hi
    ratios = round_up(np.maximum(product, 0.0) / weights)
    return _unless_nan(round_up(np.sqrt(np.max(ratios, axis=(-2, -1), initial=0.0))))


@np.errstate(all="ignore")
def spectral_norm_bound(a: Interval) -> Float[Any, "..."]:
    """Upper bounds of the spectral norm of every matrix in `a`, tight to about 4 n² u for a matrix of numbers.

    The norm of the midpoint as computed, plus a little, is proved (`is_norm_below`); where that fails it is
    sqrt(|C'C|_inf), for the eigenvalues of a symmetric matrix are at most its largest absolute row sum. The norm of
    the radii is added. A row or a column is a vector.
    """
    if min(a.shape[-2:]) <= 1:
        return vector_norm_bound(a.map(lambda end: end.reshape(*end.shape[:-2], -1)))
    if a.shape[-2] < a.shape[-1]:  # the smaller of A'A and A A'
        a = _transposed(a)
    center = np.asarray(ia.midpoint(a))
    usable = np.asarray(np.isfinite(center).all(axis=(-2, -1)))
    safe = np.where(usable[..., None, None], center, 0.0)
    largest = np.max(np.abs(safe), axis=(-2, -1), initial=0.0)
    # A power of two: scaling is exact but for entries that vanish beside the largest, which the outward steps cover.
    scale = np.ldexp(1.0, np.frexp(np.where(largest > 0, largest, 1.0))[1])
    scaled = point(safe / scale[..., None, None])
    num = center.shape[-1]
    # What the shift in `is_positive_definite` and the rounding of A'A ask for.
    claim = np.linalg.norm(scaled.lo, 2, axis=(-2, -1)) * (1 + 4 * (num + 8) * (num + 2) * UNIT_ROUNDOFF)
    rows = np.sqrt(_largest_row_sum(ia.matmul(_transposed(scaled), scaled)))
    bound = round_up(np.where(is_norm_below(scaled, claim), claim, round_up(rows)) * scale)
    if not a.is_exact:
        bound = round_up(bound + nonnegative_norm_bound(ia.radius_about(a, center)))
    return np.where(usable, _unless_nan(bound), np.inf)


def is_norm_below(a: Interval, bound: Float[Any, "..."]) -> Bool[Any, "..."]:
    """Whether the norm of every matrix in `a` is proved to be below `bound`: s² I - A'A is positive definite."""
    with np.errstate(all="ignore"):
        if a.shape[-2] < a.shape[-1]:
            a = _transposed(a)
        limit = np.asarray(bound, dtype=np.float64)[..., None, None]
        square = ia.mul(point(limit), point(limit)).lo * np.eye(a.shape[-1])
        return is_positive_definite(ia.sub(point(square), ia.matmul(_transposed(a), a))) & (limit[..., 0, 0] > 0)


@np.errstate(all="ignore")
def is_positive_definite(a: Interval) -> Bool[Any, "..."]:
    """Whether every symmetric matrix in `a` is proved to be positive definite.

    When the Cholesky factorisation of a symmetric matrix S of floats ends without a root of a negative number, then
    the smallest eigenvalue of S is above - g tr(S) / (1 - g), g = (n + 1) u / (1 - (n + 1) u), whatever the order of
    the operations (Rump 2006). So the midpoint is shifted down by that and by the norm of the radii.

    Reference: S. M. Rump (2006), *Verification of positive definiteness*.
    """
    num = a.shape[-1]
    center = np.asarray(ia.midpoint(a))
    center = 0.5 * center + 0.5 * np.swapaxes(center, -1, -2)
    # Symmetric matrices in `a` lie within these radii of the symmetric centre, whatever its rounding.
    radius = np.zeros_like(center) if a.is_exact and _is_symmetric(a.lo) else ia.radius_about(a, center)
    diagonal = np.diagonal(center, axis1=-2, axis2=-1)
    trace = ia.total(point(np.maximum(diagonal, 0.0)), (-1,)).hi
    shift = 2 * (num + 2) * UNIT_ROUNDOFF * trace + nonnegative_norm_bound(radius)
    shift = round_up(shift + _UNDERFLOW * (1 + np.max(np.abs(diagonal), axis=-1, initial=0.0)), 4)
    lowered = np.nextafter(diagonal - shift[..., None], -np.inf)
    usable = np.isfinite(center).all(axis=(-2, -1)) & np.isfinite(shift) & (lowered > 0).all(axis=-1)
    identity = np.eye(num)
    shifted = np.where(identity > 0, lowered[..., None, :], center)
    shifted = np.where(usable[..., None, None], shifted, identity)
    return usable & _factors(shifted.reshape(-1, num, num)).reshape(usable.shape)


@np.errstate(all="ignore")
def inverse(a: Interval) -> Interval:
    """Enclosures of the inverse of every matrix in `a`; NaN where it is not proved that all have one.

    With R an approximate inverse of the midpoint and E = I - R A, |E|_inf < 1: A⁻¹ = (I - E)⁻¹ R, so that
    |A⁻¹ - R|_ij <= (sum_k |E_ik|) max_k |R_kj| / (1 - |E|_inf).
    """
    approximate, defect = _approximate_inverse(a)
    rows = ia.total(point(ia.magnitude(defect)), (-1,)).hi
    worst = np.max(rows, axis=-1, initial=0.0)
    columns = np.max(np.abs(approximate), axis=-2, initial=0.0)
    room = round_down(1 - worst)
    factor = round_up(columns / room[..., None])
    radius = round_up(rows[..., :, None] * factor[..., None, :])
    radius = np.where((worst < 1)[..., None, None] & (room > 0)[..., None, None], radius, np.nan)
    return ia.ball(approximate, radius)


@np.errstate(all="ignore")
def smallest_singular_value_bound(a: Interval) -> Float[Any, "..."]:
    """Lower bounds of the smallest singular value of every (square) matrix in `a`; zero where none is shown.

    (1 - |E|) / |R| with R and E as in `inverse`: R A = I - E, so that |x| (1 - |E|) <= |R| |A x|.
    """
    approximate, defect = _approximate_inverse(a)
    usable = np.asarray(np.isfinite(approximate).all(axis=(-2, -1)))
    size = spectral_norm_bound(point(np.where(usable[..., None, None], approximate, 0.0)))
    loss = nonnegative_norm_bound(ia.magnitude(defect))
    bound = round_down(round_down(1 - loss) / size, 2)
    return np.where(usable & (loss < 1) & np.isfinite(bound), bound, 0.0)


def ellipsoid_norm_bound(after: Float[Any, "... M N2"], a: Interval, before_inverse: Interval) -> Float[Any, "..."]:
    """Upper bounds of max |A x|_after / |x|_before over x, for the norms |x|_L = |L x|_2 and every matrix in `a`.

    That is the spectral norm of L_after A L_before⁻¹; `before_inverse` encloses the inverse (`inverse(point(L))`).
    """
    with np.errstate(all="ignore"):
        return spectral_norm_bound(ia.matmul(ia.matmul(point(after), a), before_inverse))


def coordinate_reach(inverse_factor: Interval) -> Float[Any, "... N"]:
    """How far the coordinates of x go, at most, over the unit ball |L x|_2 <= 1: the norms of the rows of L⁻¹."""
    return vector_norm_bound(inverse_factor)


# --- helpers


def _transposed(a: Interval) -> Interval:
    return a.map(lambda end: np.swapaxes(end, -1, -2))


def _unless_nan(bound: Any) -> Any:
    return np.where(np.isnan(bound), np.inf, bound)


def _largest_row_sum(a: Interval) -> Any:
    return np.max(ia.total(point(ia.magnitude(a)), (-1,)).hi, axis=-1, initial=0.0)


def _approximate_inverse(a: Interval) -> tuple[np.ndarray, Interval]:
    """R and I - R A for every matrix in `a`; R is NaN for midpoints that have no inverse."""
    center = np.asarray(ia.midpoint(a))
    num = center.shape[-1]
    usable = np.asarray(np.isfinite(center).all(axis=(-2, -1)))[..., None, None]
    found = inverses(np.where(usable, center, 0.0).reshape(-1, num, num)).reshape(center.shape)
    approximate = np.where(usable & np.isfinite(found), found, np.nan)
    return approximate, ia.sub(point(np.eye(num)), ia.matmul(point(approximate), a))


def _is_symmetric(matrices: np.ndarray) -> bool:
    return bool(np.all(matrices == np.swapaxes(matrices, -1, -2)))


def _factors(matrices: np.ndarray) -> np.ndarray:
    """Which of a stack of matrices have a Cholesky factor as LAPACK computes it: it only says that one has none."""
    try:
        return np.asarray(np.isfinite(np.linalg.cholesky(matrices)).all(axis=(-2, -1)))
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.zeros(1, bool)
        half = len(matrices) // 2
        return np.concatenate([_factors(matrices[:half]), _factors(matrices[half:])])
