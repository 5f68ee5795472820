"""What is claimed of covering relations: less than was proved, by stated margins."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.chaos._h_sets import HSet, Images
from rnndyn.dynamics.chaos.covering import Covering, covering, terms
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
    found = _plain_bounds(image, target, inverse, u)
    if image.faces is None:
        return found
    linear = np.asarray(midpoint(image.faces.derivative))
    radius = np.asarray(radius_about(image.faces.derivative, linear))[..., 1:]
    offset = (np.asarray(midpoint(image.faces.center)) - target.center) @ inverse[0]
    reach = np.linalg.norm(inverse[0] @ linear[..., 1:], axis=-1)
    reach = reach + np.linalg.norm(radius, axis=-1) @ np.abs(inverse[0])
    low, high = offset - reach, offset + reach
    return dataclasses.replace(found, expansion=float(max(min(low[1], -high[0]), min(low[0], -high[1]))))


def _plain_bounds(image: Images, target: HSet, inverse: np.ndarray, u: int) -> Covering:
    one = terms(image.pieces, u)
    lead = one.rest.shape
    offset = (np.asarray(midpoint(image.pieces.plain.center)) - target.center) @ inverse.T
    outward, inward = inverse @ one.outward, inverse @ one.inward
    bend, twist = inverse @ (0.5 * one.bend.reshape(*lead, -1)), inverse @ one.twist.reshape(*lead, -1)
    rest_u, rest_s = _at_most(inverse[:u], one.rest), _smallest(inverse[u:], one.rest)
    shear, mixing = _norm(outward[:, u:]), _norm(inward[:, :u])
    growth = np.linalg.svd(outward[:, :u], compute_uv=False)[:, -1]
    across, cross = _norm(bend[:, :u]), _norm(twist[:, :u])
    lost = np.linalg.norm(offset[:, :u], axis=-1) + mixing + rest_u + across + cross
    if u == 1:
        ends = offset[:, u:], offset[:, u:] + bend[:, u:, 0]
        away = np.maximum(*(np.linalg.norm(end, axis=-1) for end in ends))
        squeeze = np.maximum(*(_norm(inward[:, u:] + sign * twist[:, u:]) for sign in (1, -1)))
    else:
        away = np.linalg.norm(offset[:, u:], axis=-1) + _norm(bend[:, u:])
        squeeze = _norm(inward[:, u:]) + _norm(twist[:, u:])
    contraction = away + shear + squeeze + rest_s
    spread = [_spread(part, radius) for part in (inverse[:u], inverse[u:]) for radius in (one.radius_u, one.radius_s)]
    shear = shear + 2 * _norm(bend[:, u:]) + _norm(twist[:, u:]) + spread[2]
    return Covering(
        float(np.min(growth - lost)),
        float(np.max(contraction)),
        float(np.min((growth - 2 * across - cross - spread[0]) / image.widths)),
        float(np.max(mixing + cross + spread[1])),
        float(np.max(shear / image.widths)),
        float(np.max(squeeze + spread[3])),
    )


def _norm(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(x, 2, axis=(-2, -1)) if min(x.shape[-2:]) else np.zeros(x.shape[:-2]))


def _at_most(rows: np.ndarray, rest: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rest @ np.abs(rows).T, axis=-1)


def _smallest(rows: np.ndarray, rest: np.ndarray) -> np.ndarray:
    whole = _norm(rows) * np.linalg.norm(rest, axis=-1)
    scaled = _norm(rows * rest[..., None, :]) * np.sqrt(rest.shape[-1])
    return np.minimum(_at_most(rows, rest), np.minimum(whole, scaled))


def _spread(rows: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.minimum(_norm(np.abs(rows) @ radius), _norm(rows) * _norm(radius))
