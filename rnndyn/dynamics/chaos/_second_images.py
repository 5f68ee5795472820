"""The image of a piece of an h-set under a tanh network, to second order, in plain NumPy: for the second opinion.

Everything takes the unit roundoff as an argument: with u = 2^-53 the bounds hold in exact arithmetic (a-priori bounds
of sums of products, Higham 2002), with zero the same formulas are evaluated as they are.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

_LONG = np.longdouble
_LONG_UNITS = float(np.finfo(_LONG).eps) / 2.0**-53
"""Images are evaluated with more digits where the machine has them: in a small set an error of a state is magnified."""
_TANH_UNITS = 32
"""Relative error granted to `numpy.tanh`, in units of the last place."""


class Network(NamedTuple):
    """x' = (1 - a) x + a tanh(W x + b)."""

    weight: Float[np.ndarray, "N N"]
    bias: Float[np.ndarray, " N"]
    leak: float


class Bounds(NamedTuple):
    """As `Covering`: of the image in the coordinates of a target, and of the blocks of the derivative."""

    expansion: float
    contraction: float
    growth: float
    mixing: float
    shear: float
    squeeze: float


@dataclasses.dataclass(frozen=True)
class Piece:
    """f(c + A z) = image + G p + (h s p p) / 2 + (S + t p) q, each term known within its radius.

    - `image` (N,), long; `outward` G (N, u), `inward` S (N, S), `bend` (N, u, u), `twist` (N, u, S), and radii of all.
    - `width`: of the piece along p.
    """

    image: np.ndarray
    image_radius: np.ndarray
    outward: np.ndarray
    outward_radius: np.ndarray
    inward: np.ndarray
    inward_radius: np.ndarray
    bend: np.ndarray
    bend_radius: np.ndarray
    twist: np.ndarray
    twist_radius: np.ndarray
    width: float

    def offset(self, goal: np.ndarray, inverse: np.ndarray, loss: np.ndarray, unit: float) -> tuple[Any, Any]:
        """B (f(c) - c') and its error."""
        away = (self.image - goal).astype(float)
        gamma = 4 * (len(away) + 8) * unit
        size = np.abs(inverse) + loss
        error = size @ (self.image_radius + 4 * unit * np.abs(away) + gamma * np.abs(away)) + loss @ np.abs(away)
        return inverse @ away, error

    def along(self, goal: np.ndarray, inverse: np.ndarray, loss: np.ndarray, unit: float) -> tuple[float, float]:
        """Between what the unstable coordinate lies, for a face."""
        offset, error = self.offset(goal, inverse[:1], loss[:1], unit)
        across = _turned_norm(inverse[:1], loss[:1], self.inward, unit)
        rest = _norm(self.inward_radius, unit, 1)
        reach = across + float(np.sum((np.abs(inverse[:1]) + loss[:1]) @ rest)) + error[0]
        reach = reach * (1 + 4 * (len(rest) + 8) * unit)
        return offset[0] - reach, offset[0] + reach

    def bounds(self, goal: np.ndarray, inverse: np.ndarray, loss: np.ndarray, unit: float) -> Bounds:
        """All bounds of the image in the coordinates of a target."""
        u, count = self.outward.shape[1], len(goal)
        offset, error = self.offset(goal, inverse, loss, unit)
        flat = [np.reshape(x, (count, -1)) for x in (0.5 * self.bend, self.twist)]
        radii = [np.reshape(x, (count, -1)) for x in (self.bend_radius, self.twist_radius)]
        rest = _norm(self.outward_radius, unit, 1) + 0.5 * _norm(radii[0], unit, 1)
        rest = (rest + _norm(self.inward_radius, unit, 1) + _norm(radii[1], unit, 1)) * (1 + 8 * unit)
        halves = [(inverse[part], loss[part]) for part in (slice(None, u), slice(u, None))]
        norms = [[_turned_norm(*half, x, unit) for x in (self.outward, self.inward, *flat)] for half in halves]
        (_, mixing, bend_u, twist_u), (shear, squeeze, bend_s, twist_s) = norms
        upper, lower = halves
        offset_u = _norm(np.abs(offset[:u]) + error[:u], unit)
        rest_u = _norm((np.abs(upper[0]) + upper[1]) @ rest, unit)
        square = upper[0] @ self.outward
        blur = _norm(_error_of_product(*upper, self.outward, unit), unit)
        growth = float(np.linalg.svd(square, compute_uv=False)[-1] * (1 - 100 * (u + 1) * unit) - blur)
        expansion = growth - (offset_u + mixing + rest_u + bend_u + twist_u) * (1 + 16 * unit)
        if u == 1:
            middle = lower[0] @ flat[0][:, 0]
            blur = _error_of_product(*lower, flat[0][:, :1], unit)[:, 0]
            ends = [np.abs(offset[u:]) + error[u:], np.abs(offset[u:] + middle) + error[u:] + blur]
            away = max(_norm(end, unit) for end in ends)
            squeeze = max(_turned_norm(*lower, self.inward + sign * flat[1], unit) for sign in (1, -1))
        else:
            away, squeeze = _norm(np.abs(offset[u:]) + error[u:], unit) + bend_s, squeeze + twist_s
        contraction = (away + shear + squeeze + _least(*lower, rest, unit)) * (1 + 16 * unit)
        # |D - G| and |D - S| over the piece, in each block.
        over_u = self.outward_radius + _norm(self.bend_radius, unit, 2) + _norm(self.twist_radius, unit, 2)
        over_s = self.inward_radius + _norm(self.twist_radius, unit, 1)
        spread = [_spread(*half, x * (1 + 8 * unit), unit) for half in halves for x in (over_u, over_s)]
        up = 1 + 16 * unit
        return Bounds(
            float(expansion),
            float(contraction),
            float(growth - (2 * bend_u + twist_u + spread[0]) * up) / self.width * (1 - 4 * unit),
            (mixing + twist_u + spread[1]) * up,
            (shear + 2 * bend_s + twist_s + spread[2]) * up / self.width,
            (squeeze + spread[3]) * up,
        )


def turned_inverse(axes: Float[np.ndarray, "N N"], unit: float) -> tuple[np.ndarray, np.ndarray]:
    """An approximate inverse and how far off it is: infinitely where it is not shown to be one."""
    approximate = np.linalg.inv(axes)
    product, size = approximate @ axes, np.abs(approximate) @ np.abs(axes)
    defect = (np.abs(np.eye(len(axes)) - product) + 4 * (len(axes) + 4) * unit * size) * (unit > 0)
    rows = defect.sum(1) * (1 + 4 * len(axes) * unit)
    if rows.max() >= 0.5:
        return approximate, np.full_like(approximate, np.inf)
    return approximate, 2 * rows[:, None] * np.abs(approximate).max(0)[None] * (1 + 8 * unit)


def image_of_piece(
    center: np.ndarray, axes: np.ndarray, u: int, place: float, width: float, net: Network, unit: float
) -> Piece:
    """The piece |p - place| <= width of c + A z; a face has no width."""
    w, b, leak = net
    long = _LONG_UNITS * unit
    cut = axes.copy()
    cut[:, :u] *= width
    # A piece has a rounded place and width, a whole set and its faces have not.
    blur = 8 * unit * np.abs(axes[:, :u]).sum(1) * (0 < width < 1)
    middle = center.astype(_LONG) + (axes[:, 0].astype(_LONG) * place if u == 1 else 0)
    blur = blur + 4 * long * (np.abs(center) + np.abs(axes[:, 0])) * (width < 1)
    size = np.abs(middle).astype(float) * (1 + 2 * unit)
    exact = w.astype(_LONG) @ middle + b
    gamma = 4 * (len(center) + 8) * long
    exact_radius = (np.abs(w) @ (gamma * size + blur) + gamma * np.abs(b)) * (1 + 8 * len(b) * unit)
    exact_radius = exact_radius + 1e-290  # of what underflows
    drive = exact.astype(float)
    drive_radius = exact_radius + 2 * unit * np.abs(drive)
    pushed = w @ cut
    blurred = 4 * (len(center) + 8) * unit * (np.abs(w) @ np.abs(cut))
    largest = np.abs(pushed) + blurred
    aside = _norm(largest[:, u:], unit, 1)
    steep, flat, _, _ = _slopes(drive, drive_radius, unit)
    slope, half = _halved(flat, steep, unit)
    keep = 1 - leak

    def product(by: np.ndarray, radius: np.ndarray, of: slice) -> tuple[np.ndarray, np.ndarray]:
        value = keep * cut[:, of] + leak * by[:, None] * pushed[:, of]
        spread = leak * (radius[:, None] * largest[:, of] + np.abs(by)[:, None] * blurred[:, of])
        return value, spread + 8 * unit * (np.abs(cut[:, of]) + largest[:, of])

    first, others = slice(None, u), slice(u, None)
    outward, outward_radius = product(slope, half, first)
    steep, flat, _, _ = _slopes(drive, aside * (1 + 4 * unit) + drive_radius, unit)
    inward, inward_radius = product(*_halved(flat, steep, unit), others)
    whole = (_norm(largest[:, :u], unit, 1) + aside) * (1 + 4 * unit) + drive_radius
    steep, flat, low, high = _slopes(drive, whole, unit)
    # tanh'' = -2 tanh tanh'.
    corners = np.stack([low * flat, low * steep, high * flat, high * steep])
    curved = -(corners.max(0) + corners.min(0))
    unknown = (corners.max(0) - corners.min(0)) * (1 + 8 * unit) + 8 * unit

    def bent(of: slice) -> tuple[np.ndarray, np.ndarray]:
        both = pushed[:, :u, None] * pushed[:, None, of]
        sizes = largest[:, :u, None] * largest[:, None, of]
        error = np.abs(curved)[:, None, None] * (sizes - np.abs(both) + 8 * unit * sizes) * (unit > 0)
        return leak * curved[:, None, None] * both, leak * (unknown[:, None, None] * sizes + error)

    bend, twist = bent(first), bent(others)
    # With these digits the rounding of 1 - a is far below what is granted.
    image = (1 - _LONG(leak)) * middle + leak * np.tanh(exact)
    image_radius = blur + leak * (exact_radius + _TANH_UNITS * long * np.abs(np.tanh(drive)) * (1 + 64 * unit))
    image_radius = image_radius + 8 * long * (size + 1)
    return Piece(
        image, image_radius, outward, outward_radius, inward, inward_radius, *bend, *twist, width if width else 1.0
    )


# --- helpers


def _slopes(drive: np.ndarray, reach: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bounds of tanh' (from above, from below) and of tanh (from below, from above) over drive ± reach."""
    loss = 2 * _TANH_UNITS * unit
    near = np.maximum(np.abs(drive) - reach, 0.0) * (1 - 2 * unit)
    far = (np.abs(drive) + reach) * (1 + 2 * unit)
    # tanh' is even and falls with |drive|.
    steep = (1 - (np.tanh(near) * (1 - loss)) ** 2) * (1 + 4 * unit)
    flat = np.maximum(1 - (np.tanh(far) * (1 + loss)) ** 2, 0.0) * (1 - 4 * unit)
    away = 4 * unit * (np.abs(drive) + reach)
    low, high = np.tanh(drive - reach - away), np.tanh(drive + reach + away)
    return steep, flat, low - loss * np.abs(low), high + loss * np.abs(high)


def _halved(low: np.ndarray, high: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (low + high), 0.5 * (high - low) + 4 * unit


def _norm(x: np.ndarray, unit: float, axis: int | None = None) -> Any:
    """Above the Euclidean norm of all entries, or along an axis."""
    return np.sqrt(np.sum(x**2, axis=axis)) * (1 + 4 * (x.size + 8) * unit)


def _spectral(x: np.ndarray, unit: float) -> float:
    """Above the spectral norm: LAPACK's singular values are off by a modest multiple of n u times the largest."""
    return float(np.linalg.norm(x, 2) * (1 + 100 * (sum(x.shape) + 1) * unit)) if min(x.shape) else 0.0


def _error_of_product(rows: np.ndarray, loss: np.ndarray, x: np.ndarray, unit: float) -> np.ndarray:
    size = np.abs(x)
    return 4 * (len(x) + 8) * unit * ((np.abs(rows) + loss) @ size) + loss @ size


def _turned_norm(rows: np.ndarray, loss: np.ndarray, x: np.ndarray, unit: float) -> float:
    """Above |B x| for rows B known within `loss`."""
    return float(_spectral(rows @ x, unit) + _norm(_error_of_product(rows, loss, x, unit), unit))


def _least(rows: np.ndarray, loss: np.ndarray, rest: np.ndarray, unit: float) -> float:
    """Above |B e| for every |e| <= rest, the least of three bounds."""
    if not len(rows):
        return 0.0
    whole = (_spectral(rows, unit) + _norm(loss, unit)) * _norm(rest, unit)
    scaled = (_spectral(rows * rest, unit) + _norm(loss * rest, unit)) * np.sqrt(len(rest))
    return float(min(whole, scaled, _norm((np.abs(rows) + loss) @ rest, unit))) * (1 + 8 * unit)


def _spread(rows: np.ndarray, loss: np.ndarray, radius: np.ndarray, unit: float) -> float:
    """Above |B E| for every |E| <= radius, entry by entry."""
    if not (len(rows) and radius.shape[1]):
        return 0.0
    entries = _spectral((np.abs(rows) + loss) @ radius * (1 + 4 * (len(radius) + 8) * unit), unit)
    return float(min(entries, (_spectral(rows, unit) + _norm(loss, unit)) * _spectral(radius, unit)))
