"""The search behind `find_fixed_points`: rounds of Newton's method, and the table of the distinct roots found."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array

from rnndyn.dynamics.fixed_points._newton_lanes import NewtonEnds, NewtonLanes
from rnndyn.dynamics.fixed_points._pieces import Images, NewtonRuns, Polish
from rnndyn.dynamics.fixed_points._rescue import CHEAP, rescue, tries_all
from rnndyn.dynamics.fixed_points._work import Work
from rnndyn.dynamics.numerics.completeness import draw_box
from rnndyn.dynamics.numerics.deduplication import MERGE_FRACTION, group_points, thin_points
from rnndyn.dynamics.numerics.evidence import (
    by_modulus,
    degenerate_reach,
    is_degenerate,
    robust_scale,
    robust_spread,
    root_errors,
    rounding_floor,
)
from rnndyn.dynamics.numerics.torus import difference, embedded

FIRST_BLOCK = 32
"""Candidates of the first block: enough to meet a point whose basin is a tenth of them, 96 times of 100."""

FEWEST_SEEDS = 64
"""Of each kind in a round, where a search costs little. For longer states eight for each root have to do, or 16."""

AROUND_ONE = 8
"""Seeds around a root that is the only one: there is no other that they could lie between."""

KNOWN_ENDS = 512
"""Ends of the same round that are looked at to tell whether a rescued one is new."""

MOST_UNSEEN = 0.01
"""The chance of a new point for the next candidate at which no more are run."""

NUM_MIRRORED = 16
"""Candidates at which a map is asked whether it is odd. What follows from it is checked at every point."""


@dataclasses.dataclass(frozen=True)
class RootTable:
    """Distinct roots of F(x) - x with their linearisation, one row each; the fields are those of `FixedPoints`."""

    points: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    jacobians: np.ndarray
    multipliers: np.ndarray
    gaps: np.ndarray
    hits: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> "RootTable":
        """The given rows (a mask, or indices)."""
        return RootTable(**{name: column[rows] for name, column in vars(self).items()})

    def join(self, other: "RootTable") -> "RootTable":
        """The rows of both."""
        columns = vars(other)
        return RootTable(**{name: np.concatenate([column, columns[name]]) for name, column in vars(self).items()})

    def sorted(self) -> "RootTable":
        """By the number of unstable directions, then by coordinates."""
        num_unstable = np.sum(np.abs(self.multipliers) > 1, axis=1)
        return self.take(np.lexsort((*self.points.T[::-1], num_unstable)))


def empty_roots(size: int) -> RootTable:
    """A table without rows for states of `size` entries."""
    scalar, vector = np.zeros(0), np.zeros((0, size))
    matrix = np.zeros((0, size, size))
    return RootTable(vector, scalar, scalar, matrix, vector.astype(complex), scalar, np.zeros(0, int))


class FixedPointSearch:
    """What all rounds so far have found."""

    def __init__(
        self,
        f: Callable[[Array], Array],
        candidates: np.ndarray,
        region: np.ndarray | None,
        period: np.ndarray | None,
        *,
        max_steps: int,
        linear_solver: str,
        progress: bool,
    ):
        self.f = f
        self.candidates = candidates
        self.region = region
        self.period = period
        self.progress = progress
        self.num_candidates = self.num_arrived = 0
        self._rescue_pays = True
        self.roots = empty_roots(candidates.shape[1])
        self._met_otherwise = candidates[:0]
        self._unconverged: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.linear_solver = linear_solver
        self.max_steps = max_steps

    def begin(self) -> Work[None]:
        """Look at the candidates, before anything else."""
        candidates = self.candidates
        self._images = yield Images(self.f, candidates)
        self.scale = robust_scale(np.concatenate([candidates, self._images]))
        self._is_odd = self.period is None and (yield from self._seems_odd())
        self._lanes = NewtonLanes(
            self.f,
            size=candidates.shape[1],
            scale=self.scale,
            linear_solver=self.linear_solver,
            max_steps=self.max_steps,
            period=self.period,
        )

    @property
    def num_found(self) -> int:
        """The number of distinct roots so far."""
        return len(self.roots)

    @property
    def unconverged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ends, residuals and the stalled flags of the candidates that reached no root."""
        points, residuals, stalled = zip(*self._unconverged)
        return np.concatenate(points), np.concatenate(residuals), np.concatenate(stalled)

    def run_blocks(self, starts: np.ndarray, seed: int, after_first: Callable[[], Work[None]]) -> Work[np.ndarray]:
        """Run `starts` in random order until more of them would find little; returns those that were not run.

        Every block is as large as all before it; `after_first` is called when one has run. The share of candidates that
        met a point no other met, nor any path, estimates how likely the next one is to find a new point (I. J. Good
        1953, *The population frequencies of species and the estimation of population parameters*).
        """
        left = starts[np.random.default_rng([seed, 1]).permutation(len(starts))]
        size, first_done = FIRST_BLOCK, False
        while len(left):
            num_before = self.num_found
            yield from self.run(left[:size])
            if not first_done:
                first_done = True
                yield from after_first()
            left = left[size:]
            num_singles = self._num_met_once()
            # Where nothing at all was found there is another way in a region only.
            may_stop = self.num_found > 0 or self.region is not None
            if may_stop and num_before == self.num_found and num_singles <= MOST_UNSEEN * self.num_candidates:
                break
            size = self.num_candidates
        return left

    def _num_met_once(self) -> int:
        """How many roots would not be known without one of the candidates."""
        singles = self.roots.points[self.roots.hits == 1]
        distances = np.max(np.abs(difference(singles[:, None], self._met_otherwise, self.period)), axis=2)
        return int(np.sum(np.min(distances, axis=1, initial=np.inf) > 1e-6 * self.scale))

    def run(self, starts: np.ndarray) -> Work[None]:
        """Run Newton's method from `starts` and add the roots that are new."""
        ends = yield from self._newton(starts)
        rescued = np.flatnonzero(ends.stalled)
        if rescued.size and self._rescue_pays:
            known = np.concatenate([self.roots.points, ends.points[ends.converged][:KNOWN_ENDS]])
            points, reached, is_new = yield from rescue(
                self.f, ends.points[rescued], self._newton, self.region, self.scale, self.period, known
            )
            # The ends of later rounds are of the same kind; for short states another try costs nothing.
            self._rescue_pays = is_new or tries_all(self.f, starts.shape[1])
            rescued = rescued[reached]
            ends.points[rescued], ends.converged[rescued], ends.stalled[rescued] = points[reached], True, False
        self.num_candidates += len(starts)
        self.num_arrived += int(ends.converged.sum())
        lost = ~ends.converged
        self._unconverged.append((ends.points[lost], ends.residuals[lost], ends.stalled[lost]))
        if ends.converged.any():
            yield from self._add(ends.points[ends.converged])

    def add_ends(self, ends: np.ndarray) -> Work[np.ndarray]:
        """Add the roots next to `ends`, states close to them that no candidate hit; the roots, polished."""
        if not len(ends):
            return ends
        polished = yield Polish(self.f, ends, self.period)
        row_sums = np.max(np.sum(np.abs(polished.jacobians[:, 0]), axis=2), axis=1)
        sizes = np.maximum(np.max(np.abs(ends), axis=1), self.scale)
        ok = polished.residuals <= rounding_floor(sizes, row_sums)
        if ok.any():
            self._met_otherwise = np.concatenate([self._met_otherwise, polished.points[ok, 0]])
            yield from self._add(polished.points[ok, 0], hit=0)
            self._lanes.add_anchors(polished.points[ok, 0])
        return polished.points[ok, 0]

    def _newton(self, starts: np.ndarray) -> Work[NewtonEnds]:
        lower, upper = np.full_like(starts, -np.inf), np.full_like(starts, np.inf)
        if self.region is not None:
            inside = np.all((starts >= self.region[0]) & (starts <= self.region[1]), axis=1)
            lower[inside], upper[inside] = self.region
        images = self._images if starts is self.candidates else (yield Images(self.f, starts))
        residuals = difference(images, starts, self.period)
        return (yield NewtonRuns(self._lanes, starts, residuals, (lower, upper), self.progress))

    def _seems_odd(self) -> Work[bool]:
        """Whether F(-x) = -F(x) at some of the states, as of a network without biases: its roots come in pairs."""
        few = slice(0, NUM_MIRRORED)
        mirrored = yield Images(self.f, -self.candidates[few])
        return bool(np.all(np.abs(mirrored + self._images[few]) <= 1e-12 * self.scale))

    def seeds(self, rng: np.random.Generator, *, uniform: bool) -> np.ndarray:
        """Starting points for the next round: between the roots, around them, between roots and candidates.

        With `uniform`, as many again from the whole region.
        """
        roots = self.roots.points
        if len(roots) > 512:
            roots = roots[rng.choice(len(roots), 512, replace=False)]
        pool = self.candidates if len(roots) == 0 else roots
        size = self.candidates.shape[1]
        num = int(np.clip(8 * len(roots), FEWEST_SEEDS if size <= CHEAP else 16, 512))
        # Halfway between two roots a saddle of the basin boundary is near; the weights blur the middle.
        weights = rng.beta(4.0, 4.0, (num, 1))
        pairs = rng.integers(len(pool), size=(2, num))
        between = weights * pool[pairs[0]] + (1 - weights) * pool[pairs[1]]
        if len(roots) == 1:
            between = between[:AROUND_ONE]
        towards = self.candidates[rng.integers(len(self.candidates), size=num)]
        weights = rng.uniform(size=(num, 1))
        mixed = weights * pool[pairs[0]] + (1 - weights) * towards
        # Quartiles, so that one candidate far out does not scatter the rest.
        low, high = np.quantile(self.candidates, [0.25, 0.75], axis=0)
        spread = np.sqrt(np.mean((high - low) ** 2)) / 1.35 + 1e-3 * self.scale
        parts = [between + 0.05 * spread * rng.standard_normal(between.shape), mixed]
        box = draw_box(self.region, self.period)
        if uniform and box is not None:
            parts.append(rng.uniform(box[0], box[1], (2 * num, size)))
        seeds = np.concatenate(parts)
        return seeds if self.region is None else np.clip(seeds, self.region[0], self.region[1])

    def _add(self, ends: np.ndarray, hit: int = 1) -> Work[None]:
        # Repeats to eleven digits of their own size are merged first, so that few points need to be polished.
        places = embedded(ends, self.period)
        unit = 1e-11 * np.maximum(np.max(np.abs(places), axis=1), 1e-3 * self.scale)
        unit = 2.0 ** np.ceil(np.log2(unit))[:, None]
        keys = np.concatenate([np.round(places / unit), unit], axis=1)
        _, first, hits = np.unique(keys, axis=0, return_index=True, return_counts=True)
        polished = yield Polish(self.f, ends[first], self.period)
        # The first root alone, so that its repeats among the rest are told by its error.
        for part in (slice(0, 1), slice(1, None)) if len(self.roots) == 0 else (slice(None),):
            points, residuals = polished.points[part, 0], polished.residuals[part]
            if len(points):
                yield from self._enter(points, residuals, polished.jacobians[part, 0], hit * hits[part], bool(hit))

    def _enter(
        self, points: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray, hits: np.ndarray, is_met: bool
    ) -> Work[None]:
        """Put polished ends into the table of roots; `is_met`: candidates came to them."""
        # Decompositions cost more than the search for a root: what is one with a known root, or with another end, to
        # a billionth of the spread is not decomposed again; nor what is one with a known root to its error, since
        # repeats of a root that is the only one have no spread.
        num_known = len(self.roots)
        everything = embedded(np.concatenate([self.roots.points, points]), self.period)
        radii = 0.25 * MERGE_FRACTION * robust_spread(everything)
        isolated = np.flatnonzero(~is_degenerate(self.roots.gaps, self.roots.jacobians))
        # No more than `group_points` grants a single point.
        radii[isolated] = np.maximum(radii[isolated], 2 * self.roots.errors[isolated])
        labels = thin_points(everything, radii)
        _, heads, owner = np.unique(labels, return_index=True, return_inverse=True)
        counts = np.bincount(owner[num_known:], weights=hits, minlength=len(heads)).astype(int)
        known = heads < num_known
        self.roots.hits[heads[known]] += counts[known]
        fresh = heads[~known] - num_known
        if fresh.size:
            new = linearize_roots(points[fresh], residuals[fresh], jacobians[fresh], counts[~known], self.scale)
            self.roots = distinct_roots(self.roots.join(new), self.scale, self.period)
            if self._is_odd and is_met:
                yield from self.add_ends(-points[fresh])


def distinct_roots(roots: RootTable, scale: float, period: np.ndarray | None = None) -> RootTable:
    """Each root once, with the hits of all its repeats: of several rows for one root, that of the smallest residual."""
    degenerate = is_degenerate(roots.gaps, roots.jacobians)
    places = embedded(roots.points, period)
    labels = np.empty(len(roots), int)
    labels[~degenerate] = group_points(places[~degenerate], roots.errors[~degenerate])
    # A degenerate root may belong to a continuum, along which chains of neighbours would merge to one: its repeats are
    # those within reach of one of them.
    sizes = np.maximum(np.max(np.abs(roots.points), axis=1, initial=0.0), scale)
    reach = degenerate_reach(roots.errors, sizes)
    labels[degenerate] = len(roots) + thin_points(places[degenerate], reach[degenerate])
    order = np.lexsort((roots.residuals, labels))
    _, first = np.unique(labels[order], return_index=True)
    best, hits = order[first], np.add.reduceat(roots.hits[order], first) if len(first) else roots.hits
    return dataclasses.replace(roots.take(best), hits=hits)


def linearize_roots(
    points: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray, hits: np.ndarray, scale: float
) -> RootTable:
    """The table of roots, with multipliers, gaps and error estimates computed on the host."""
    size = points.shape[1]
    gaps = np.linalg.svd(np.eye(size) - jacobians, compute_uv=False)[:, -1]
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    reach = np.maximum(np.max(np.abs(points), axis=1), 1e-3 * scale)
    errors = root_errors(residuals, reach, row_sums, gaps / np.sqrt(size))
    return RootTable(points, residuals, errors, jacobians, by_modulus(np.linalg.eigvals(jacobians)), gaps, hits)
