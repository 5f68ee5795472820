"""The search behind `find_cycles`: starting sequences, rounds of multiple shooting, and what they have found."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.cycles._starts import Starts
from rnndyn.dynamics.cycles._tables import CycleTable, empty_cycles, group_cycles
from rnndyn.dynamics.cycles.shooting import MultipleShooting
from rnndyn.dynamics.numerics.completeness import IndexGoal, draw_box, within
from rnndyn.dynamics.numerics.deduplication import MERGE_FRACTION
from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET, map_in_chunks, run_in_lanes
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.dynamics.numerics.evaluation import evaluate
from rnndyn.dynamics.numerics.evidence import (
    MIN_CONTINUUM,
    degeneracy_threshold,
    degenerate_reach,
    robust_spread,
    root_errors,
)
from rnndyn.dynamics.numerics.newton import polish
from rnndyn.dynamics.numerics.newton_method import NewtonProblem, NewtonState
from rnndyn.dynamics.numerics.periodic_orbits import CyclicSystem, canonical, divisors, from_smallest, smallest_period
from rnndyn.dynamics.numerics.sequence_map import SequenceMap


class CycleSearch:
    """What all rounds so far have found, for every period asked for."""

    def __init__(
        self,
        f: Callable[[Array], Array],
        candidates: np.ndarray,
        region: np.ndarray | None,
        angles: np.ndarray | None,
        goal: IndexGoal,
        periods: list[int],
        *,
        max_steps: int,
        num_random: int,
        seed: int,
        progress: bool,
    ):
        self.f = f
        self.region = region
        self.angles = angles
        self.goal = goal
        self.max_steps = max_steps
        self.num_random = num_random
        self.rng = np.random.default_rng(seed)
        self.progress = progress
        self.size = candidates.shape[1]
        self.num_slots = max(periods)
        self.tables = {period: empty_cycles(period, self.size) for period in periods}
        self.num_candidates = dict.fromkeys(periods, 0)
        self.num_unconverged = dict.fromkeys(periods, 0)
        # Long enough for a segment of each period after the transient, and for the close returns of a chaotic orbit.
        self.starts = Starts(f, candidates, angles, length=64 + 2 * self.num_slots, progress=progress)
        self.scale = self.starts.scale

    def run(self, period: int, *, max_rounds: int, until_complete: bool) -> None:
        """Rounds of multiple shooting, until one of them finds nothing new."""
        for round in range(max_rounds):
            num_before = self.num_found(period)
            first = round == 0
            self.shoot(period, self.starts.segments(period) if first else self.seeds(period, uniform=until_complete))
            unbalanced = until_complete and self.index_sum(period) not in (None, self.goal.expected(period))
            # Only a round of mixed and random starts is evidence that nothing is left.
            if round > 0 and self.num_found(period) == num_before and not unbalanced:
                break

    def seeds(self, period: int, *, uniform: bool) -> np.ndarray:
        """Starting sequences for one more round: between those found, random, with `uniform` also from the region."""
        rng = self.rng
        known = self.closed_sequences(period)
        if len(known) < 2:
            known = np.concatenate([known, self.starts.segments(period)])
        num = int(np.clip(4 * self.num_found(period), 16, 256))
        first, second = known[rng.integers(len(known), size=(2, num))]
        # Halfway between two cycles a saddle of the basin boundary is near; the weights blur the middle.
        weights = rng.beta(4.0, 4.0, (num, 1, 1))
        spread = np.sqrt(np.mean(np.var(self.starts.pool, axis=0))) + 1e-3 * self.scale
        between = weights * first + (1 - weights) * second + 0.05 * spread * rng.standard_normal(first.shape)
        weights = rng.uniform(size=(num, 1, 1))
        heads = self.starts.heads(period)
        towards = weights * first + (1 - weights) * heads[rng.integers(len(heads), size=num)]
        parts = [between, towards]
        if self.num_random:
            # A search among F cycles must draw several times F sequences before finding nothing new means anything.
            num = max(self.num_random, 16 * len(self.tables[period]))
            parts.append(self.starts.pool[rng.integers(len(self.starts.pool), size=(num, period))])
        box = draw_box(self.region, self.angles)
        if uniform and box is not None:
            shape = (max(64, 4 * len(known)), period, self.size)
            parts.append(rng.uniform(box[0], box[1], shape))
        seeds = np.concatenate(parts)
        return seeds if self.region is None else np.clip(seeds, self.region[0], self.region[1])

    def closed_sequences(self, period: int) -> np.ndarray:
        """All sequences of the given period found: every cycle whose period divides it, from each of its points."""
        sequences = [np.zeros((0, period, self.size))]
        for divisor, table in self.tables.items():
            if period % divisor == 0:
                repeated = np.tile(table.points, (1, period // divisor, 1))
                sequences += [np.roll(repeated, -shift, axis=1) for shift in range(divisor)]
        return np.concatenate(sequences)

    def num_found(self, period: int) -> int:
        """How many cycles are known whose period is, or divides, the given one.

        Of degenerate ones only as many count as make a continuum: more of those are no news.
        """
        tables = [table for divisor, table in self.tables.items() if period % divisor == 0]
        return sum(int(np.sum(~t.degenerate)) + min(int(np.sum(t.degenerate)), MIN_CONTINUUM) for t in tables)

    def shoot(self, period: int, starts: Float[np.ndarray, "K p N"]) -> None:
        """Run multiple shooting from `starts` and add the cycles that are new."""
        # Blocks of one size share a compilation.
        block = 1024 if self.num_random else 64
        for first in range(0, len(starts), block):
            self._shoot_block(period, starts[first : first + block], block)

    def _shoot_block(self, period: int, starts: np.ndarray, block: int) -> None:
        num_starts, slots = len(starts), self.num_slots
        # Slots past the period hold copies of the first point (see SequenceMap).
        padded = np.concatenate([starts, np.repeat(starts[:, :1], slots - period, axis=1)], axis=1)
        lower, upper = np.full_like(padded, -np.inf), np.full_like(padded, np.inf)
        if self.region is not None:
            inside = np.all((padded >= self.region[0]) & (padded <= self.region[1]), axis=(1, 2))
            lower[inside], upper[inside] = self.region
        flat = lambda a: a.reshape(num_starts, -1)
        problems = NewtonProblem(flat(padded), np.full(num_starts, self.scale), flat(lower), flat(upper))  # pyright: ignore
        # On a CPU a few lanes keep the cores busy with the linear algebra of long states, and many only wait for the
        # slowest; short ones share the overhead of a step. An accelerator is filled.
        entries = slots * self.size**2
        if jax.default_backend() == "cpu":
            num_lanes = int(np.clip(2**18 // entries, 4, 256))
        else:
            num_lanes = max(1, min(8192, MEMORY_BUDGET // (8 * 12 * entries)))
        ends: NewtonState = map_in_chunks(
            lambda part: _shoot_in_lanes(
                self.f, part, jnp.arange(slots) < period, self.angles, self.max_steps, num_lanes
            ),
            problems,
            bytes_per_item=64 * slots * self.size,
            description=f"cycles of period {period}",
            progress=self.progress,
            least_size=block,
            # A start at NaN is done at once.
            padding=np.nan,
        )
        converged = np.asarray(ends.converged)
        self._count(period, num_starts, converged)
        self._add(np.asarray(ends.x).reshape(num_starts, slots, self.size)[converged, :period])

    def index_sum(self, period: int) -> int | None:
        """The sum of the indices of all fixed points of F^p found; `None` where one of them has none."""
        total = 0
        for divisor, table in self.tables.items():
            if period % divisor:
                continue
            inside = self.counted(table)
            powers = table.multipliers[inside] ** (period // divisor)
            # An indifferent direction of the iterate has no index, and on the edge of the region only attractors do.
            indifferent = np.min(np.abs(powers - 1), axis=1, initial=np.inf) <= 1e-6
            if np.any(indifferent | table.degenerate[inside] | self._undecided_at_edge(table.take(inside))):
                return None
            positive = np.prod(np.where((np.imag(powers) == 0) & (np.real(powers) > 1), -1, 1), axis=1)
            total += divisor * int(np.sum(positive))
        return total

    def reachable(self, table: CycleTable) -> np.ndarray:
        """Which cycles lie in the region."""
        return within(table.points, table.errors, self.region)

    def counted(self, table: CycleTable) -> np.ndarray:
        """Which cycles count in the index sum."""
        return self.reachable(table) & within(table.points, table.errors, self.goal.trap)

    def _undecided_at_edge(self, table: CycleTable) -> np.ndarray:
        if self.region is None:
            return np.zeros(len(table), bool)
        distance = np.minimum(table.points - self.region[0], self.region[1] - table.points)
        at_edge = np.any(distance <= 1e-12 * np.abs(table.points), axis=(1, 2))
        return at_edge & np.any(np.abs(table.multipliers) >= 1, axis=1)

    def _count(self, period: int, num_starts: int, converged: np.ndarray) -> None:
        self.num_candidates[period] += num_starts
        self.num_unconverged[period] += int(num_starts - converged.sum())

    def _add(self, ends: Float[np.ndarray, "K p N"]) -> None:
        new, hits = self._without_repeats(ends)
        if len(new) == 0:
            return
        full = dataclasses.replace(self._polish(new), hits=hits)
        minimal = self._minimal_periods(full)
        for period in divisors(full.period)[:-1]:
            rows = np.flatnonzero(minimal == period)
            if rows.size == 0:
                continue
            # A sequence that goes round a shorter cycle several times is polished and measured as that cycle. Where
            # there is none so close, two cycles of a degenerate case were confused, and it keeps its period.
            short = dataclasses.replace(self._polish(full.points[rows, :period]), hits=hits[rows])
            is_cycle = short.residuals <= 1e-10 * np.max(
                np.abs(full.points[rows]), axis=(1, 2), initial=1e-3 * self.scale
            )
            minimal[rows[~is_cycle]] = full.period
            if period in self.tables and is_cycle.any():
                self._merge(short.take(is_cycle))
        if np.any(minimal == full.period):
            self._merge(full.take(minimal == full.period))

    def _without_repeats(self, ends: Float[np.ndarray, "K p N"]) -> tuple[np.ndarray, np.ndarray]:
        """The ends that differ to eight digits from one another and from all known cycles, and how many were alike.

        Few cycles then need to be polished and decomposed. Two ends of one cycle may fall into neighbouring cells of
        the grid of eight digits; they are told to be one after polishing.
        """
        period = ends.shape[1]
        known, owners = [], []
        for divisor, table in self.tables.items():
            if period % divisor == 0:
                known.append(np.tile(table.points, (1, period // divisor, 1)))
                owners += [(table, row) for row in range(len(table))]
        num_known = len(owners)
        places = canonical(np.concatenate([*known, ends]), self.angles)
        unit = 1e-8 * np.maximum(np.max(np.abs(places), axis=1, keepdims=True), 1e-3 * self.scale)
        unit = 2.0 ** np.ceil(np.log2(unit))
        rounded = np.concatenate([np.round(places / unit), unit], axis=1)
        _, first, inverse = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
        hits = np.bincount(inverse[num_known:], minlength=len(first))
        for row, count in zip(first, hits):
            if row < num_known:
                table, entry = owners[row]
                table.hits[entry] += count
        is_new = first >= num_known
        return ends[first[is_new] - num_known], hits[is_new]

    def _merge(self, new: CycleTable) -> None:
        table = self.tables[new.period].join(new)
        labels = group_cycles(table.points, self._tolerances(table), self.angles)
        best, counts = [], []
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            best.append(rows[np.argmin(table.residuals[rows])])
            counts.append(table.hits[rows].sum())
        table = dataclasses.replace(table.take(np.array(best)), hits=np.array(counts))
        rows = np.flatnonzero(np.isnan(table.multipliers[:, 0]))
        if rows.size:
            points = table.points[rows]
            _, jacobians = evaluate(self.f, points.reshape(-1, self.size))
            jacobians = jacobians.reshape(*points.shape, self.size)
            table.multipliers[rows] = [product_eigenvalues(factors) for factors in jacobians]
        self.tables[new.period] = table

    def _tolerances(self, table: CycleTable) -> np.ndarray:
        """How far the computed points of each cycle may lie from the true ones."""
        sizes = np.maximum(np.max(np.abs(table.points), axis=(1, 2), initial=0.0), 1e-3 * self.scale)
        limit = degenerate_reach(table.errors, sizes)
        errors = np.where(table.degenerate, limit, np.minimum(2 * table.errors, limit))
        # Of the half of the states in the middle: one orbit far out joins no others.
        spread = float(np.median(robust_spread(self.starts.pool)))
        return errors + 0.5 * MERGE_FRACTION * np.minimum(spread, sizes)

    def _minimal_periods(self, table: CycleTable) -> np.ndarray:
        """The smallest divisor of the period after which each sequence repeats."""
        tolerances = 2 * self._tolerances(table)
        return np.array([smallest_period(p, t, self.angles) for p, t in zip(table.points, tolerances)], int)

    def _polish(self, points: Float[np.ndarray, "K p N"]) -> CycleTable:
        """The polished cycles with their evidence; the multipliers are left open."""
        polished = polish(self.f, points, period=self.angles)
        points, residuals, jacobians = polished
        gaps = np.array([CyclicSystem(j).gap for j in jacobians])
        rows = jacobians.reshape(len(points), -1, self.size)
        row_sums = np.max(np.sum(np.abs(rows), axis=2), axis=1)
        reach = np.maximum(np.max(np.abs(points), axis=(1, 2)), 1e-3 * self.scale)
        return CycleTable(
            points=from_smallest(points, self.scale, self.angles),
            residuals=residuals,
            errors=root_errors(residuals, reach, row_sums, gaps),
            multipliers=np.full((len(points), self.size), np.nan, complex),
            gaps=gaps,
            degenerate=gaps <= degeneracy_threshold(rows),
            hits=np.ones(len(points), int),
        )


@compiled
def _shoot_in_lanes(f: Any, problems: Any, active: Array, angles: Any, max_steps: int, num_lanes: int) -> NewtonState:
    method = MultipleShooting(SequenceMap(f, active), max_steps=max_steps, period=angles)
    return run_in_lanes(method.init, method.step, method.done, jax.tree.map(jnp.asarray, problems), num_lanes)
