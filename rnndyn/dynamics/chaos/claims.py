"""What is claimed of covering relations: less than was proved, by stated margins."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.chaos._h_sets import HSet, Images
from rnndyn.dynamics.chaos.covering import Covering, covering, terms
from rnndyn.dynamics.proofs.curved_images import CurvedImage
from rnndyn.dynamics.proofs.interval_arithmetic import midpoint, radius_about

_NUM_ROUNDS = 200
_ROOM = 1e-4
"""Of cones, so that another evaluation finds them mapped into one another as well."""
_LEAST_MARGIN = 4e-9
_SHARE = 64.0
"""A margin is this many times what outward rounding took from the proof: what an independent evaluation may lose."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A relation as it is proved, and as the same formulas give it without outward rounding."""

    proved: Covering
    plain: Covering

    @property
    def margins(self) -> tuple[float, float]:
        """Of expansion and contraction."""
        return (
            _SHARE * abs(self.plain.expansion - self.proved.expansion) + _LEAST_MARGIN,
            _SHARE * abs(self.proved.contraction - self.plain.contraction) + _LEAST_MARGIN,
        )

    @property
    def expansion(self) -> float:
        return self.plain.expansion - self.margins[0]

    @property
    def contraction(self) -> float:
        return self.plain.contraction + self.margins[1]

    @property
    def holds(self) -> bool:
        return self.proved.holds and self.expansion > 1 and self.contraction < 1


def claim(image: Images, target: HSet, num_unstable: int) -> Claim:
    """The relation between the images of one h-set and another."""
    proved = covering(image, target, num_unstable)
    return Claim(proved, _plain_covering(image, target, num_unstable) if proved.holds else proved)


def cone_growths(
    edges: Int[np.ndarray, "E 2"], bounds: list[Covering], slopes: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " E"]:
    """Lower bounds of |p'| / |p| on the cones |q| <= k_i |p| for each relation from set i.

    -inf where the cone at i is not mapped into that at j.
    """
    found = []
    for (i, j), one in zip(edges, bounds):
        growth = one.growth - one.mixing * slopes[i]
        keeps = one.shear + one.squeeze * slopes[i] <= slopes[j] * growth * (1 - 1e-12)
        found.append(growth - 1e-12 * (one.growth + one.mixing * slopes[i]) if keeps and growth > 0 else -np.inf)
    return np.asarray(found)


def claimed_growths(
    edges: Int[np.ndarray, "E 2"], claims: list[Claim], slopes: Float[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """What is claimed of the growth on cones, -inf where nothing is, and the margins."""
    proved = cone_growths(edges, [one.proved for one in claims], slopes)
    plain = cone_growths(edges, [one.plain for one in claims], slopes)
    with np.errstate(invalid="ignore"):
        margins = _SHARE * np.abs(plain - proved) + _LEAST_MARGIN
    known = np.isfinite(proved) & np.isfinite(plain)
    margins = np.where(known, margins, 0.0)
    return np.where(known, plain - margins, -np.inf), margins


def cone_slopes(edges: Int[np.ndarray, "E 2"], bounds: list[Covering], count: int) -> Float[np.ndarray, " M"]:
    """Slopes of cones, the narrowest that every relation maps into one another; NaN where there are none."""
    slopes = np.full(count, 1e-6)
    for _ in range(_NUM_ROUNDS):
        following = np.full(count, 1e-6)
        for (i, j), one in zip(edges, bounds):
            room = one.growth - one.mixing * slopes[i]
            if not room > 0:
                return np.full(count, np.nan)
            following[j] = max(following[j], (one.shear + one.squeeze * slopes[i]) / room * (1 + _ROOM))
        if np.all(following <= slopes):
            return slopes
        # Above the fixed point that the iteration tends to from below.
        slopes = np.maximum(following * (1 + 1e-6), slopes)
    return np.full(count, np.nan)


# --- the formulas of `covering`, in plain floating point


def _plain_covering(image: Images, target: HSet, u: int) -> Covering:
    inverse = np.linalg.inv(target.axes)
    over = [_plain_bounds(one, width, target, inverse, u) for one, width in zip(image.pieces, image.widths)]
    expansion = over[0].expansion
    if image.faces is not None:
        sides = []
        for face in image.faces:
            linear = np.asarray(midpoint(face.derivative))[:, 1:]
            radius = np.asarray(radius_about(face.derivative, np.asarray(midpoint(face.derivative))))[:, 1:]
            offset = inverse[0] @ (np.asarray(midpoint(face.center)) - target.center)
            reach = np.linalg.norm(inverse[0] @ linear) + np.abs(inverse[0]) @ np.linalg.norm(radius, axis=1)
            sides.append((offset - reach, offset + reach))
        (left_lo, left_hi), (right_lo, right_hi) = sides
        expansion = float(max(min(right_lo, -left_hi), min(left_lo, -right_hi)))
    return Covering(
        expansion,
        max(one.contraction for one in over),
        min(one.growth for one in over),
        max(one.mixing for one in over),
        max(one.shear for one in over),
        max(one.squeeze for one in over),
    )


def _plain_bounds(image: CurvedImage, width: float, target: HSet, inverse: np.ndarray, u: int) -> Covering:
    one = terms(image, u)
    count = len(one.rest)
    offset = inverse @ (np.asarray(midpoint(image.plain.center)) - target.center)
    outward, inward = inverse @ one.outward, inverse @ one.inward
    bend, twist = inverse @ (0.5 * one.bend.reshape(count, -1)), inverse @ one.twist.reshape(count, -1)
    rest_u, rest_s = _at_most(inverse[:u], one.rest), _smallest(inverse[u:], one.rest)
    shear, mixing = _norm(outward[u:]), _norm(inward[:u])
    growth = float(np.linalg.svd(outward[:u], compute_uv=False)[-1])
    lost = np.linalg.norm(offset[:u]) + mixing + rest_u + _norm(bend[:u]) + _norm(twist[:u])
    if u == 1:
        away = max(np.linalg.norm(offset[u:]), np.linalg.norm(offset[u:] + bend[u:, 0]))
        squeeze = max(_norm(inward[u:] + twist[u:]), _norm(inward[u:] - twist[u:]))
    else:
        away = np.linalg.norm(offset[u:]) + _norm(bend[u:])
        squeeze = _norm(inward[u:]) + _norm(twist[u:])
    contraction = away + shear + squeeze + rest_s
    spread = [_spread(part, radius) for part in (inverse[:u], inverse[u:]) for radius in one.radii]
    return Covering(
        float(growth - lost),
        float(contraction),
        float(growth - 2 * _norm(bend[:u]) - _norm(twist[:u]) - spread[0]) / width,
        float(mixing + _norm(twist[:u]) + spread[1]),
        float(shear + 2 * _norm(bend[u:]) + _norm(twist[u:]) + spread[2]) / width,
        float(squeeze + spread[3]),
    )


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x, 2)) if min(x.shape) else 0.0


def _at_most(rows: np.ndarray, rest: np.ndarray) -> float:
    return float(np.linalg.norm(np.abs(rows) @ rest))


def _smallest(rows: np.ndarray, rest: np.ndarray) -> float:
    whole = _norm(rows) * float(np.linalg.norm(rest))
    return min(_at_most(rows, rest), whole, _norm(rows * rest) * float(np.sqrt(len(rest)))) if len(rows) else 0.0


def _spread(rows: np.ndarray, radius: np.ndarray) -> float:
    return min(_norm(np.abs(rows) @ radius), _norm(rows) * _norm(radius)) if len(rows) and radius.shape[1] else 0.0
