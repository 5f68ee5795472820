"""Loops of h-sets, from a set at a saddle along a homoclinic orbit and back: each is covered by the one before."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rnndyn.dynamics.chaos._homoclinic import Homoclinic
from rnndyn.dynamics.chaos._saddles import Saddle, contracting_bases, contraction_rate, root
from rnndyn.dynamics.chaos.covering import HSet, Images, covering, images
from rnndyn.dynamics.proofs.interval_arithmetic import midpoint, radius_about
from rnndyn.dynamics.proofs.set_images import SetImage

# What is left between a bound and the set that it sizes, so that evaluating the same again keeps the inequality.
_ROOM = 1e-3
# How much wider than needed the first set of a loop is along the unstable directions.
_MARGINS = (1.3, 3.0)
# Steps near the saddle in which a loop narrows from the width of the base to what it needs. A set as thick as the base
# and so narrow would be bent through and through; it has to become thin first.
_LEADS = (0, 3, 6, 9)
# Of the sets at the saddle, in units of the spread of the states.
_SIZES = (0.3, 0.2, 0.13, 0.08, 0.05, 0.03, 0.02, 0.01, 5e-3, 2.5e-3, 1.2e-3, 6e-4, 3e-4)
_MOST_PIECES = 8
# Where along an orbit that has come back a loop may end.
_NUM_ENDS = 3
# How often a set at the saddle is sized for the errors over it, and how much room they are given.
_NUM_SIZED = 2
_SHARE = 1.0
# Pieces of a set at the saddle, and its thicknesses: one is what bend and errors alone need.
_TRIALS = ((8, (1.4, 4.0)), (32, (4.0,)))
# Of the sets along a loop, for states of order one.
_LEAST_THICKNESS = 2e-10
# Pieces take their part of the errors only: above this, smaller ones will not do.
_HOPELESS = 6.0


@dataclasses.dataclass(frozen=True)
class Base:
    """H-sets at the points of a saddle, each of which covers the next; `num_pieces` are needed to show it."""

    saddle: Saddle
    sets: list[HSet]
    num_pieces: int


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


def bases(f: Callable, saddle: Saddle, scale: float, is_over: Callable[[], bool]) -> Iterator[Base]:
    """Sets at the saddle that close, from large to small, until `is_over`."""
    for size in _SIZES:
        if is_over():
            return
        yield from bases_of_size(f, saddle, size * scale)


def bases_of_size(f: Callable, saddle: Saddle, width: float) -> Iterator[Base]:
    """Sets at the saddle, `width` along its unstable directions, each of which covers the next; thin ones first.

    The stable shapes are those that the sets need: the bend of the image of the unstable axes, and what this becomes
    step by step, with some width in all directions.
    """
    u = saddle.num_unstable
    rate = contraction_rate(saddle.squeezes)
    num_stable = saddle.squeezes.shape[1]
    for num_pieces, thicknesses in _TRIALS if u == 1 else _TRIALS[:1]:
        num_pieces = num_pieces if u == 1 else 1
        for thickness in thicknesses if num_stable else (1.0,):
            # The errors of a set grow with its thickness: it is sized for those of the last one.
            sets = [
                HSet(one, np.concatenate([width * wide, 0 * stable], axis=1)) for one, wide, stable in _axes(saddle)
            ]
            for _ in range(_NUM_SIZED if num_stable else 0):
                widths = _widths_needed(f, saddle, sets, num_pieces)
                if not all(np.isfinite(one).all() for one in widths):
                    return
                inward = contracting_bases(list(saddle.squeezes), widths, rate)
                # |bend| + rate < 1 needs more than one of these.
                thick = thickness / (1 - rate)
                sets = [
                    HSet(one, np.concatenate([width * wide, thick * stable @ inward[k]], axis=1))
                    for k, (one, wide, stable) in enumerate(_axes(saddle))
                ]
            closes, may_close = _close_up(f, sets, u, num_pieces)
            if closes:
                yield Base(saddle, sets, num_pieces)
            if not may_close:
                return


def _axes(saddle: Saddle) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return zip(saddle.points, saddle.unstable, saddle.stable)


def _widths_needed(f: Callable, saddle: Saddle, sets: list[HSet], num_pieces: int) -> list[np.ndarray]:
    """Columns, in stable coordinates of each point, of ellipsoids that hold the bend of the image and the errors.

    The enclosure of a bend is a box in all N units, as wide as the bend in each of them: sets that are thin across
    the bend itself would not hold it.
    """
    period, u = saddle.period, saddle.num_unstable
    widths = [np.zeros((0, 0))] * period
    for k, one in enumerate(sets):
        following = (k + 1) % period
        axes = np.concatenate([saddle.unstable[following], saddle.stable[following]], axis=1)
        dual = np.linalg.inv(axes)[u:]
        image = images(f, one, u, num_pieces)
        parts = []
        for over in image.pieces:
            linear, rest = _errors(over, u)
            bend = dual @ np.column_stack([np.asarray(midpoint(over.center)) - saddle.points[following], linear[:, :u]])
            errors = dual * rest * np.sqrt(len(rest))
            # Each direction gets a floor, or the ellipsoid would be singular.
            floor = 1e-3 * np.linalg.norm(bend) / np.sqrt(len(dual)) * np.eye(len(dual))
            parts.append(
                np.concatenate([bend / np.sqrt(num_pieces), _SHARE * errors / np.sqrt(num_pieces), floor], axis=1)
            )
        widths[following] = np.concatenate(parts, axis=1)
    return widths


def _errors(over: SetImage, u: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a derivative, and how far off it is in each unit over the set."""
    linear = np.asarray(midpoint(over.derivative))
    radius = np.asarray(radius_about(over.derivative, linear))
    return linear, np.linalg.norm(radius[:, :u], axis=1) + np.linalg.norm(radius[:, u:], axis=1)


def _close_up(f: Callable, sets: list[HSet], u: int, num_pieces: int) -> tuple[bool, bool]:
    """Whether each set covers the next with room to spare, and whether smaller pieces might show it."""
    for k, one in enumerate(sets):
        edge = covering(images(f, one, u, num_pieces), sets[(k + 1) % len(sets)], u, with_cones=False)
        if not (edge.expansion > 1.02 and edge.contraction < 0.97):
            return False, edge.expansion > 0 and edge.contraction < _HOPELESS
    return True, True


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


def _images(f: Callable, points: np.ndarray) -> np.ndarray:
    return jax.vmap(f)(jnp.asarray(points))


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


def _next_set(over: Images, orbit: Homoclinic, j: int, u: int, widest: float) -> HSet | None:
    """A set around the next point that the image of the last covers: thin, and as wide as allowed up to `widest`."""
    middle = over.pieces[len(over.pieces) // 2]
    outward, kernel = np.asarray(midpoint(middle.derivative))[:, :u] / over.widths[0], orbit.kernel(j)
    inward = kernel
    if kernel.shape[1]:
        try:
            dual = np.linalg.inv(np.concatenate([outward, kernel], axis=1))[u:]
        except np.linalg.LinAlgError:
            return None
        # Ellipsoids of the image of the stable ball, of the bend of the unstable axes, and of the errors.
        total = np.zeros((len(dual), len(dual)))
        for image in over.pieces:
            linear, rest = _errors(image, u)
            thin, errors = dual @ linear[:, u:], dual * rest
            bend = dual @ np.column_stack([np.asarray(midpoint(image.center)) - orbit.points[j], linear[:, :u]])
            # An ellipsoid around a box of errors in N units is larger than the one in it by the root of N.
            total += (2 * thin @ thin.T + 4 * len(rest) * errors @ errors.T) / len(over.pieces) + 4 * bend @ bend.T
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
