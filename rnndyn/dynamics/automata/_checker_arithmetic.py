"""Zonotopes in plain NumPy with directed error bounds, for the checker: shares no code with the proof.

A batch of B sets `c + sum_k y_k G_k + e`, |y_k| <= 1, |e| <= r. Everything is computed to nearest; what the rounding
can have changed is bounded by gamma_n = n u / (1 - n u) times sums of magnitudes (Higham 2002, section 3.1) and added
to r. NumPy's tanh is taken to be right to 16 unit roundoffs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_U = 2.0**-53
_TANH = 16 * _U
_TINY = 1e-290


class Zonotopes(NamedTuple):
    """B sets of vectors of n entries, with K generators each."""

    c: Float[np.ndarray, "B n"]
    G: Float[np.ndarray, "B K n"]
    r: Float[np.ndarray, "B n"]


def gamma(n: int) -> float:
    return 1.01 * n * _U


def widths(x: Zonotopes) -> Float[np.ndarray, "B n"]:
    """Upper bounds of `sum_k |G_k|`."""
    return np.abs(x.G).sum(axis=1) * (1 + gamma(x.G.shape[1]))


def after_rounding(c: np.ndarray, G: np.ndarray, r: np.ndarray, num_roundings: int) -> Zonotopes:
    """Sets whose c and G were rounded so many times each, every time relative to their size."""
    sizes = np.abs(c) + np.abs(G).sum(axis=1) * (1 + gamma(G.shape[1]))
    return Zonotopes(c, G, (r + gamma(num_roundings) * sizes) * (1 + gamma(10)) + _TINY)


def constant(x: Zonotopes, value: np.ndarray, error: np.ndarray) -> Zonotopes:
    """The same known numbers for every y."""
    shape = (len(x.c), len(value))
    return Zonotopes(np.broadcast_to(value, shape), np.zeros((len(x.c), 1, len(value))), np.broadcast_to(error, shape))


def affine(A: np.ndarray, x: Zonotopes) -> Zonotopes:
    """`A x`."""
    n = A.shape[1]
    magnitude = (np.abs(x.c) + widths(x)) @ np.abs(A).T
    r = (x.r @ np.abs(A).T + gamma(n + 1) * magnitude * (1 + gamma(n + 5))) * (1 + gamma(n + 5))
    return Zonotopes(x.c @ A.T, x.G @ A.T, r + _TINY)


def plus(x: Zonotopes, y: Zonotopes) -> Zonotopes:
    return after_rounding(x.c + y.c, x.G + y.G, x.r + y.r, 1)


def minus(x: Zonotopes, y: Zonotopes) -> Zonotopes:
    return plus(x, Zonotopes(-y.c, -y.G, y.r))


def times(x: Zonotopes, y: Zonotopes) -> Zonotopes:
    """The elementwise product: centers and linear parts are kept, all else is bounded."""
    a, b = np.abs(x.c), np.abs(y.c)
    p, q = widths(x), widths(y)
    rest = a * y.r + b * x.r + (p + x.r) * (q + y.r)
    rounding = gamma(3) * (a * b + a * q + b * p)
    G = x.c[:, None] * y.G + y.c[:, None] * x.G
    return Zonotopes(x.c * y.c, G, (rest + rounding) * (1 + gamma(10)) + _TINY)


def tanh(x: Zonotopes) -> Zonotopes:
    """`slope x + m ± d` with the slope of the secant."""
    half = (widths(x) + x.r) * (1 + gamma(4))
    lo, hi = x.c - half, x.c + half
    lo, hi = lo - 2 * _U * np.abs(lo) - _TINY, hi + 2 * _U * np.abs(hi) + _TINY
    width = hi - lo
    secant = (np.tanh(hi) - np.tanh(lo)) / np.maximum(width, 1e-6)
    slope = np.clip(np.where(width > 1e-6, secant, 1 - np.tanh(0.5 * lo + 0.5 * hi) ** 2), 0, 1)
    low, high = _range_of_rest(slope, lo, hi)
    middle, d = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
    # The product with the slope and the sum round once each.
    c, G = slope * x.c + middle, slope[:, None] * x.G
    r = slope * x.r + d + gamma(4) * (np.abs(slope * x.c) + np.abs(middle) + d + slope * widths(x))
    return Zonotopes(c, G, r * (1 + gamma(10)) + _TINY)


def logistic(x: Zonotopes) -> Zonotopes:
    """`1/2 + tanh(x/2)/2`; halving is exact."""
    y = tanh(Zonotopes(0.5 * x.c, 0.5 * x.G, 0.5 * x.r))
    return after_rounding(0.5 + 0.5 * y.c, 0.5 * y.G, 0.5 * y.r, 1)


def with_generators(x: Zonotopes) -> Zonotopes:
    """n more generators in place of r."""
    more = x.r[:, :, None] * np.eye(x.c.shape[1])
    return Zonotopes(x.c, np.concatenate([x.G, more], axis=1), np.zeros_like(x.r))


def fewer_generators(x: Zonotopes, number: int) -> Zonotopes:
    """The largest are kept, the others become part of r."""
    order = np.argsort(-np.abs(x.G).sum(axis=2), axis=1, kind="stable")
    G = np.take_along_axis(x.G, order[:, :, None], axis=1)
    rest = np.abs(G[:, number:]).sum(axis=1) * (1 + gamma(G.shape[1]))
    return Zonotopes(x.c, G[:, :number], (x.r + rest) * (1 + gamma(2)) + _TINY)


def places(x: Zonotopes, center: np.ndarray, frame: np.ndarray) -> Float[np.ndarray, "B n"]:
    """Upper bounds of `|frame (x - center)|`; each set has its own frame."""
    n = x.c.shape[1]
    moved = after_rounding(x.c - center, x.G, x.r, 1)
    along = np.abs(np.einsum("bij,bj->bi", frame, moved.c))
    across = np.abs(moved.G @ np.swapaxes(frame, 1, 2)).sum(axis=1)
    magnitude = moved.r + gamma(n + 1) * (np.abs(moved.c) + widths(moved))
    rest = np.einsum("bij,bj->bi", np.abs(frame), magnitude)
    return (along + across + rest) * (1 + gamma(n + x.G.shape[1] + 10)) + _TINY


def _range_of_rest(slope: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of `h(x) = tanh(x) - slope x` on [lo, hi]; h is odd, and concave for x >= 0."""
    low, high = _range_where_concave(slope, np.maximum(lo, 0), np.maximum(hi, 0))
    mirrored_low, mirrored_high = _range_where_concave(slope, np.maximum(-hi, 0), np.maximum(-lo, 0))
    right, left = hi > 0, lo < 0
    low = np.where(left, np.where(right, np.minimum(low, -mirrored_high), -mirrored_high), low)
    high = np.where(left, np.where(right, np.maximum(high, -mirrored_low), -mirrored_low), high)
    return low, high


def _range_where_concave(slope: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A concave function is least at an end, and nowhere above its tangent at any point, here near its maximum."""
    turn = np.clip(np.arctanh(np.minimum(np.sqrt(1 - slope), 1 - 1e-16)), lo, hi)

    def value(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t, line = np.tanh(x), slope * x
        return t - line, (_TANH * t + 2 * _U * (t + line)) * (1 + gamma(4)) + _TINY

    (at_lo, error_lo), (at_hi, error_hi), (at_turn, error_turn) = value(lo), value(hi), value(turn)
    t = np.tanh(turn)
    incline, doubt = 1 - t**2 - slope, 3 * _TANH + 4 * _U
    rise = np.maximum(np.maximum((incline + doubt) * (hi - turn), (incline - doubt) * (lo - turn)), 0.0)
    return np.minimum(at_lo - error_lo, at_hi - error_hi), at_turn + error_turn + rise * (1 + gamma(6))
