"""Loops of h-sets, from a set at a saddle along a homoclinic orbit and back: each is covered by the one before."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from rnndyn.dynamics.chaos._bases import Base, bent
from rnndyn.dynamics.chaos._h_sets import HSet, Images, images
from rnndyn.dynamics.chaos._homoclinic import Homoclinic
from rnndyn.dynamics.chaos._saddles import Saddle, root
from rnndyn.dynamics.chaos.covering import covering, terms
from rnndyn.dynamics.proofs.interval_arithmetic import midpoint

# What is left between a bound and the set that it sizes, so that evaluating the same again keeps the inequality.
_ROOM = 1e-3
# How much wider than needed the first set of a loop is along the unstable directions.
_MARGINS = (1.3, 3.0)
# Steps near the saddle in which a loop narrows from the width of the base to what it needs. A set as thick as the base
# and so narrow would be bent through and through; it has to become thin first.
_LEADS = (0, 3, 6, 9)
_MOST_PIECES = 8
# Where along an orbit that has come back a loop may end.
_NUM_ENDS = 3
# Of the sets along a loop, for states of order one.
_LEAST_THICKNESS = 1e-7


@dataclasses.dataclass(frozen=True)
class Plan:
    """A loop to be tried: it leaves the base at point `first` of an orbit and is back at `last`."""

    orbit: Homoclinic
    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first


@dataclasses.dataclass(frozen=True)
class Loop:
    """Sets S, M_1, ..., M_n with S in the base at `phase`, and M_n covering the base at `end_phase`."""

    sets: list[HSet]
    num_pieces: list[int]
    phase: int
    end_phase: int

    @property
    def length(self) -> int:
        return len(self.sets)


def plans(base: Base, orbits: Sequence[Homoclinic]) -> list[Plan]:
    """Loops along the orbits, the shortest first: where they leave the base last, and points where they are back."""
    found = []
    saddle = base.saddle
    for orbit in orbits:
        distance = np.min(np.linalg.norm(orbit.points[:, None] - saddle.points, axis=2), axis=1)
        away, count = int(np.argmax(distance)), len(orbit.points)
        leaving = [j for j in range(away) if _place(base, orbit.phase + j, orbit.points[j])[0] < 0.9]
        coming = [
            j
            for j in range(away + 1, count)
            if max(_place(base, orbit.end_phase - (count - 1 - j), orbit.points[j])) < 0.85
        ]
        if leaving:
            found += [Plan(orbit, leaving[-1], end) for end in coming[:_NUM_ENDS]]
    return sorted(found, key=lambda plan: (plan.length, -plan.orbit.angle))


def _place(base: Base, phase: int, point: np.ndarray) -> tuple[float, float]:
    """|p| and |q| of a point in the set of the base at a phase."""
    one, u = base.sets[phase % len(base.sets)], base.saddle.num_unstable
    z = np.linalg.solve(one.axes, point - one.center)
    return float(np.linalg.norm(z[:u])), float(np.linalg.norm(z[u:]))


def end_phase_of(saddle: Saddle, plan: Plan) -> int:
    return (plan.orbit.end_phase - (len(plan.orbit.points) - 1 - plan.last)) % saddle.period


def close(f: Callable, base: Base, plan: Plan) -> tuple[Loop | None, float]:
    """The sets of a loop, if they close; and the best of min(expansion, 1 / contraction) at the last of them."""
    best = 0.0
    for lead in _LEADS:
        if lead > plan.first:
            break
        for margin in _MARGINS:
            loop, reached = _attempt(f, base, Plan(plan.orbit, plan.first - lead, plan.last), lead, margin)
            best = max(best, reached)
            if loop is not None:
                return loop, best
    return None, best


def _attempt(f: Callable, base: Base, plan: Plan, lead: int, margin: float) -> tuple[Loop | None, float]:
    orbit, saddle = plan.orbit, base.saddle
    u = saddle.num_unstable
    phase, end_phase = (orbit.phase + plan.first) % saddle.period, end_phase_of(saddle, plan)
    home, goal = base.sets[phase], base.sets[end_phase]
    slab = _slab(plan, home, goal, u, margin, widened=lead > 0)
    if slab is None:
        return None, 0.0
    (slab, needed), sets, counts = slab, [slab[0]], []
    widest = np.linalg.norm(goal.axes[:, :u], 2)
    excess = np.linalg.norm(slab.axes[:, :u], 2) / np.linalg.norm(needed, 2)
    for j in range(plan.first, plan.last):
        share = np.linalg.norm(sets[-1].axes[:, :u], 2) / widest
        counts.append(int(np.clip(np.ceil(_MOST_PIECES * share / 2), 1, _MOST_PIECES)) if u == 1 else 1)
        over = images(f, sets[-1], u, counts[-1])
        if not over.is_known:
            return None, 0.0
        if j + 1 == plan.last:
            last = covering(over, goal, u, with_cones=False)
            reached = min(last.expansion, 1 / max(last.contraction, 1e-300))
            return (Loop(sets, counts, phase, end_phase) if last.holds else None), reached
        needed = orbit.jacobians[j] @ needed
        left = max(0.0, 1 - (j + 1 - plan.first) / lead) if lead else 0.0
        following = _next_set(over, orbit, j + 1, u, float(np.linalg.norm(needed, 2) * excess**left))
        if following is None:
            return None, 0.0
        sets.append(following)
    return None, 0.0


def _slab(
    plan: Plan, home: HSet, goal: HSet, u: int, margin: float, *, widened: bool
) -> tuple[HSet, np.ndarray] | None:
    """The part of the base around the orbit, and the axes that make its image cover the base at the end.

    It has these axes unless it is `widened`, to as much as the base has room for.
    """
    orbit = plan.orbit
    pushed = home.axes[:, :u]
    for jacobian in orbit.jacobians[plan.first : plan.last]:
        pushed = jacobian @ pushed
    stretch = np.linalg.solve(goal.axes, pushed)[:u]
    offset = np.linalg.solve(goal.axes, orbit.points[plan.last] - goal.center)[:u]
    if np.linalg.cond(stretch) > 1e12:
        return None
    widths = np.linalg.inv(stretch) * (1 + np.linalg.norm(offset)) * margin
    place = np.linalg.solve(home.axes, orbit.points[plan.first] - home.center)
    excess = (1 - np.linalg.norm(place[:u])) / np.linalg.norm(widths, 2)
    if not excess >= 1:
        return None
    needed = home.axes[:, :u] @ widths
    if widened:
        widths = widths * max(1.0, 0.5 * excess)
    # The stable side of the slab lies along the directions that come back, which are tilted against those of the saddle
    # by more than the slab is wide.
    left, outward, inward = orbit.left[plan.first], home.axes[:, :u], home.axes[:, u:]
    tilted = inward - outward @ np.linalg.solve(left @ outward, left @ inward)
    axes = np.concatenate([outward @ widths, tilted], axis=1)
    return HSet(home.center + home.axes[:, :u] @ place[:u], axes), needed


def _sum_of_ellipsoids(shapes: list[np.ndarray]) -> np.ndarray:
    """The shape, of least trace, of an ellipsoid that holds the sum of some (Schweppe 1973)."""
    lengths = np.array([np.sqrt(np.trace(shape)) for shape in shapes])
    shares = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return lengths.sum() * np.tensordot(shares, np.stack(shapes), axes=1)


def _squared(parts: np.ndarray) -> np.ndarray:
    """The sum of A A' over the pieces."""
    return np.sum(parts @ np.swapaxes(parts, 1, 2), axis=0)


def _next_set(over: Images, orbit: Homoclinic, j: int, u: int, widest: float) -> HSet | None:
    """A set around the next point that the image of the last covers: thin, and as wide as allowed up to `widest`."""
    pieces, count = terms(over.pieces, u), len(over.widths)
    outward, kernel = pieces.outward[count // 2] / over.widths[0], orbit.kernel(j)
    inward = kernel
    if kernel.shape[1]:
        try:
            dual = np.linalg.inv(np.concatenate([outward, kernel], axis=1))[u:]
        except np.linalg.LinAlgError:
            return None
        # Ellipsoids of the image of the stable ball, of the bend of the unstable axes, and of the errors.
        bend = dual @ bent(pieces, np.asarray(midpoint(over.pieces.plain.center)) - orbit.points[j])
        errors = dual * pieces.rest[:, None, :]
        shapes = [
            sum(_squared(dual @ part) for part in (pieces.inward, *np.moveaxis(pieces.twist, 2, 0))) / count,
            _squared(bend),
            # An ellipsoid around a box of errors in N units is larger than the one in it by the root of N.
            dual.shape[1] * _squared(errors) / count,
        ]
        total = _sum_of_ellipsoids(shapes)
        # Thinner sets than this ask for more of the claims than rounding leaves.
        thinnest = _LEAST_THICKNESS * np.sqrt(len(kernel)) * np.linalg.norm(dual, 2)
        inward = kernel @ root(total + thinnest**2 * np.eye(len(dual)))
    trial = HSet(orbit.points[j], np.concatenate([outward, inward], axis=1))
    found = covering(over, trial, u, with_cones=False)
    if not (found.expansion > 0.02 and np.isfinite(found.contraction)):
        return None
    width = min(found.expansion * (1 - _ROOM), widest / np.linalg.norm(outward, 2))
    axes = np.concatenate([outward * width, inward * max(found.contraction, 1e-12) * (1 + _ROOM)], axis=1)
    return HSet(orbit.points[j], axes)
