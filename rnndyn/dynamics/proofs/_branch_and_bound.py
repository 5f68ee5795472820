"""Branch and bound for fixed points: boxes are contracted and divided until each is settled."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._box_contraction import OPEN, SETTLED, contract_boxes
from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.certificates import gather_evidence
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.krawczyk import KrawczykTest, fixed_point_problem

_BATCH = 1024
# So many boxes at the smallest size mean a continuum (or a jump along a surface): the search stops.
_MAX_UNDECIDED = 2000
# Boxes below this fraction of the whole are set aside at first.
_SET_ASIDE = 1e-6
_FEW = 16
# After so many boxes it pays to compile the contraction too: that takes as long as NumPy took for them.
_LONG_SEARCH = 50 * _BATCH
_MOST_LOOKS = 256
# Newton's method doubles its digits from step to step; far away it needs some more, and halved ones.
_MOST_STEPS = 60
_LEAST_SHARE = 1e-3


def branch_and_bound(f, lower, upper, found: "Found", max_boxes: int, tol: float, progress: bool):
    """Examine boxes until none is left; returns the undecided ones, their number examined, whether that was the limit.

    Boxes that reach a moderate size undecided are set aside, so that a degenerate fixed point does not keep the search
    from the rest of the box, and divided further at the end.
    """
    boxes, num_boxes, undecided = (lower[None], upper[None]), 0, []
    with tqdm(desc="Boxes", unit="", delay=2.0, leave=False, disable=None if progress else True) as bar:
        for fraction in (max(tol, _SET_ASIDE), tol):
            limit = max_boxes - num_boxes
            boxes, left, count = _divide_until(f, boxes, fraction, found, limit, bar.update)
            num_boxes += count
            undecided.append(left)
            # The linearisation about a box may fail where that about the fixed point itself succeeds.
            merged = _merge_touching(*boxes)
            found.look_near(0.5 * merged[0] + 0.5 * merged[1])
            rest = ~found.covers(*boxes)
            boxes = boxes[0][rest], boxes[1][rest]
            if len(left[0]):  # too many or too costly: what was set aside stays undecided
                break
    undecided.append(_merge_touching(*boxes))
    undecided += [(lo[None], hi[None]) for lo, hi in found.ambiguous]
    exhausted = num_boxes >= max_boxes
    return tuple(np.concatenate(corners) for corners in zip(*undecided)), num_boxes, exhausted


def _divide_until(f, boxes, fraction: float, found: "Found", max_boxes: int, report: Callable[[int], object]):
    """Contract and divide boxes down to a fraction of the whole; returns those of that size, those left, a count."""
    stack_lower, stack_upper = boxes
    smallest = fraction * found.scale
    small, num_small, num_boxes = [(np.empty((0, len(smallest))),) * 2], 0, 0
    while len(stack_lower) and num_boxes < max_boxes and num_small <= _MAX_UNDECIDED:
        lo, hi = stack_lower[-_BATCH:], stack_upper[-_BATCH:]
        stack_lower, stack_upper = stack_lower[:-_BATCH], stack_upper[:-_BATCH]
        lo, hi = _without_subnormals(lo, hi)
        num_boxes += len(lo)
        report(len(lo))
        is_long = num_boxes > _LONG_SEARCH
        step = contract_boxes(f, _pad(lo), _pad(hi), found.scale, is_long=is_long)
        status = step.status[: len(lo)]
        settled, is_open = status == SETTLED, status == OPEN
        found.add(_rows(step.box, settled), _rows(step.region, settled))
        lo, hi = _rows(step.box, is_open)
        axis = step.axis[: len(is_open)][is_open]
        rest = ~found.covers(lo, hi)
        lo, hi, axis = lo[rest], hi[rest], axis[rest]
        tiny = (hi - lo <= smallest).all(axis=1)
        small.append((lo[tiny], hi[tiny]))
        num_small += int(tiny.sum())
        lo, hi = _divide(lo[~tiny], hi[~tiny], axis[~tiny], smallest)
        stack_lower, stack_upper = np.concatenate([stack_lower, lo]), np.concatenate([stack_upper, hi])
    small_lower, small_upper = (np.concatenate(corners) for corners in zip(*small))
    return (small_lower, small_upper), (stack_lower, stack_upper), num_boxes


class Found:
    """The fixed points settled so far, and the regions known to hold no other."""

    def __init__(self, f: Callable, lower: np.ndarray, upper: np.ndarray) -> None:
        self._f, self._lower, self._upper = f, lower, upper
        self.scale = upper - lower
        self.ambiguous: list[tuple[np.ndarray, np.ndarray]] = []
        self._points: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        self._regions_lower = np.empty((0, len(lower)))
        self._regions_upper = np.empty((0, len(lower)))

    def add(self, boxes: tuple[np.ndarray, np.ndarray], regions: tuple[np.ndarray, np.ndarray]) -> None:
        """Record the one fixed point of each region, located in its box; known ones are recognised."""
        states, tests = self._polish(0.5 * boxes[0] + 0.5 * boxes[1], *boxes)
        for k, (state, test) in enumerate(zip(states, tests)):
            box, region = ((ends[0][k], ends[1][k]) for ends in (boxes, regions))
            lo, hi = _outward(state - test.error, state + test.error)
            if (lo >= region[0]).all() and (hi <= region[1]).all():
                self._add_tested(state, test)
                self._add_region(*region)
            else:  # the test failed or ended elsewhere: what the box itself proves is kept
                error = np.nextafter(np.maximum(state - box[0], box[1] - state), np.inf)
                self._add_point(state, error, region)

    def look_near(self, states: np.ndarray) -> None:
        """Record the fixed points that Newton's method reaches from some states and Krawczyk's test confirms."""
        states = states[:_MOST_LOOKS]
        anywhere = np.full_like(states, np.inf)
        for state, test in zip(*self._polish(states, -anywhere, anywhere)):
            if test.verified:
                self._add_tested(state, test)

    def _polish(self, states: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, list]:
        if len(states) == 0:
            return states, []
        polished = in_batches(self._f, polish, states, lower, upper)
        tests = in_batches(self._f, gather_evidence, polished).test
        return polished, [jax.tree.map(lambda leaf, k=k: leaf[k], tests) for k in range(len(polished))]

    def _add_tested(self, state: np.ndarray, test: KrawczykTest) -> None:
        # Inward: the ball as stored must not be larger than the one that was proved.
        radius = float(test.uniqueness_radius) * (1 - 1e-9)
        self._add_point(state, np.asarray(test.error), _inward(state - radius, state + radius))

    def _add_point(self, state: np.ndarray, error: np.ndarray, region: tuple[np.ndarray, np.ndarray]) -> None:
        """Record a fixed point known to `error`, the only one in `region`, unless it is recorded already.

        Two records are one fixed point if either lies in the region of the other; two that overlap and do not tell
        are both kept, and the place is reported as undecided.
        """
        lo, hi = _outward(state - error, state + error)
        points, errors = self._records()
        known_lo, known_hi = _outward(points - errors, points + errors)
        within = ((known_lo >= region[0]) & (known_hi <= region[1])).all(axis=1)
        if not self.covers(lo[None], hi[None])[0] and not within.any():
            if ((known_lo <= hi) & (known_hi >= lo)).all(axis=1).any():
                self.ambiguous.append((lo, hi))
            self._points.append(state)
            self._errors.append(error)
        self._add_region(*region)

    def _records(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (-1, len(self.scale))
        return np.array(self._points).reshape(shape), np.array(self._errors).reshape(shape)

    def _add_region(self, lo: np.ndarray, hi: np.ndarray) -> None:
        self._regions_lower = np.concatenate([self._regions_lower, lo[None]])
        self._regions_upper = np.concatenate([self._regions_upper, hi[None]])

    def covers(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Which boxes lie wholly in a region whose only fixed point is recorded."""
        covered = np.zeros(len(lo), bool)
        for region_lo, region_hi in zip(self._regions_lower, self._regions_upper):
            covered |= (lo >= region_lo).all(axis=1) & (hi <= region_hi).all(axis=1)
        return covered

    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """Points and error bounds of what lies in the box as far as can be told, in lexicographic order."""
        points, errors = self._records()
        lo, hi = _outward(points - errors, points + errors)
        near = ((hi >= self._lower) & (lo <= self._upper)).all(axis=1)
        points, errors = points[near], errors[near]
        order = np.lexsort(points.T[::-1])
        return points[order], errors[order].max(axis=1, initial=0.0)


def in_batches(f: Callable, function: Callable, *arrays: np.ndarray) -> Any:
    """Apply a batched function to few states, always with the same shape: one compilation serves all calls."""
    count = len(arrays[0])
    parts = [[_pad(array[start : start + _FEW], _FEW) for array in arrays] for start in range(0, count, _FEW)]
    results = [function(f, *part) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *results)


# --- helpers


def polish(f: Callable, states: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Damped Newton steps for x - f(x) from K states (K, N), each kept in its box; the best state of each.

    On the middles of the enclosures that the proof needs anyway, so that nothing else is compiled. A step that does not
    lower the residual is halved: in a box in which I - DF was proved to be regular, the residual has no other minimum.

    Not `numerics.newton.polish`: that starts next to a root, takes full steps and gives up at the first that does not
    help, whereas a box may settle when its middle is still far from its fixed point; and it evaluates f by a program of
    its own.
    """
    enclose_each = fixed_point_problem(f)
    best, least = states, np.full(len(states), np.inf)
    step, share = np.zeros_like(states), np.ones(len(states))
    with np.errstate(all="ignore"):
        for _ in range(_MOST_STEPS):
            trial = np.clip(best - share[:, None] * step, lower, upper)
            here = enclose_each(trial, trial)
            residual = ia.midpoint(here.value)
            size = np.nan_to_num(np.linalg.norm(residual, axis=1), nan=np.inf)
            better = size < least
            newton = (inverses(np.asarray(ia.midpoint(here.jacobian))) @ residual[:, :, None])[..., 0]
            newton = np.where(np.isfinite(newton).all(axis=1, keepdims=True), newton, 0.0)
            best, step = np.where(better[:, None], trial, best), np.where(better[:, None], newton, step)
            least, share = np.where(better, size, least), np.where(better, np.minimum(1.0, 2 * share), 0.5 * share)
            at_rounding = np.abs(step) <= 4 * np.finfo(float).eps * np.abs(best)
            if np.all((share < _LEAST_SHARE) | at_rounding.all(axis=1)):
                break
    return best


def _pad(array: np.ndarray, size: int = _BATCH) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def _rows(box: Interval, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(box.lo)[: len(which)][which], np.asarray(box.hi)[: len(which)][which]


def _without_subnormals(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slightly larger box, without the numbers that XLA would flush to zero."""
    tiny = 1e-300
    lo = np.where(np.abs(lo) < tiny, np.where(lo < 0, -tiny, 0.0), lo)
    return lo, np.where(np.abs(hi) < tiny, np.where(hi > 0, tiny, 0.0), hi)


def _outward(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nextafter(lo, -np.inf), np.nextafter(hi, np.inf)


def _inward(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nextafter(lo, np.inf), np.nextafter(hi, -np.inf)


def _divide(lo, hi, axis, smallest) -> tuple[np.ndarray, np.ndarray]:
    """Bisect boxes along `axis`, or along their relatively widest side where that one is small already."""
    rows = np.arange(len(lo))
    along = np.maximum(axis, 0)
    too_small = (hi - lo)[rows, along] <= smallest[along]
    along = np.where(too_small, np.argmax((hi - lo) / smallest, axis=1), along)
    # Off the middle, so that symmetric fixed points do not end on the faces of many boxes.
    cut = lo[rows, along] + 0.49 * (hi - lo)[rows, along]
    whole = axis < 0
    left_hi, right_lo = hi.copy(), lo.copy()
    left_hi[rows[~whole], along[~whole]] = cut[~whole]
    right_lo[rows[~whole], along[~whole]] = cut[~whole]
    return np.concatenate([lo, right_lo[~whole]]), np.concatenate([left_hi, hi[~whole]])


def _merge_touching(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hulls of groups of small boxes that lie next to one another."""
    if len(lo) == 0:
        return lo, hi
    scale = (hi - lo).max(axis=0)
    scale[scale == 0] = 1.0
    pairs = KDTree(0.5 * (lo + hi) / scale).query_pairs(1.01, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(lo), len(lo)))
    count, group = connected_components(graph, directed=False)
    merged_lo, merged_hi = np.full((count, lo.shape[1]), np.inf), np.full((count, lo.shape[1]), -np.inf)
    np.minimum.at(merged_lo, group, lo)
    np.maximum.at(merged_hi, group, hi)
    return merged_lo, merged_hi
