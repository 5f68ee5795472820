"""The cycles of a map: periodic points of a given minimal period, each cycle once, with its evidence."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.cycles._search import CycleSearch, CycleTable
from rnndyn.dynamics.numerics.completeness import (
    check_until_complete,
    completeness_note,
    completeness_of,
    index_goal,
    warn_incomplete,
)
from rnndyn.dynamics.numerics.deduplication import farthest_points
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.evaluation import evaluate
from rnndyn.dynamics.numerics.evidence import MIN_CONTINUUM
from rnndyn.dynamics.numerics.jumps import near_jump
from rnndyn.dynamics.numerics.periodic_orbits import divisors
from rnndyn.dynamics.numerics.torus import embedded, period_of
from rnndyn.dynamics.numerics.verdicts import PointVerdict
from rnndyn.results import Judged, Result, first_verdict

MAX_RANDOM_SIZE = 8
"""States of up to so many entries are also searched from random point sequences: beyond, these lead nowhere."""


def find_cycles(
    f: Callable[[Array], Array],
    candidates: ArrayLike,
    period: ArrayLike | Iterable[int],
    *,
    max_steps: int = 100,
    max_rounds: int = 6,
    num_random: int | None = None,
    until_complete: bool = False,
    seed: int = 0,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "CycleSet":
    r"""Find cycles $x_0 \to x_1 \to \dots \to x_{p-1} \to x_0$ of minimal period p, polished to rounding in float64.

    All points are solved for at once (multiple shooting), $F(x_i) - x_{i+1} = 0$ with indices modulo p, by the
    trust-region Newton method of `newton`; the cyclic block structure makes a step cost $O(p N^3)$. A long or strongly
    unstable cycle is no harder than a short one, since no iterate $F^p$ is ever formed. Starts are trajectory segments
    of the candidates (the first, and the one that comes closest to closing), for small states also sequences of
    independent random points of the trajectories; further rounds start between the cycles found, where saddles lie,
    until a round finds nothing new.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, as in `find_fixed_points`. Where it has a `region` (a box that it maps into
        itself) candidates inside stay inside, and the index count below applies.
    - `candidates`: states to start from, shape `(K, N)`; see `sample_candidates`.
    - `period`: the minimal period, or several, for instance `range(1, 13)`.
    - `max_steps`: Newton steps for one start.
    - `max_rounds`: the most rounds for one period, the first one included.
    - `num_random`: random sequences in each later round; by default 1024 for states of up to 8 entries, else none.
    - `until_complete`: go on, also from random states of the region, until the index sum is 1 or the rounds run out
        (at least 20).
    - `seed`: of the random sequences.
    - `progress`: show a bar when it takes longer than two seconds.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** a `CycleSet`: `find_cycles(f, candidates, 5)[5]` are the `Cycles` of period 5. Those of period 1 are
    the fixed points. Each cycle appears once, from its smallest point on.

    **Raises:** `ValueError` for bad candidates, for a map that changes the shape or dtype of its state, for a period
    below 1 or none, for `until_complete` without a region or angles.

    **Warns:** when the indices $\operatorname{sign}\det(I - DF^p)$ of all fixed points of $F^p$ found, those of shorter
    cycles included, do not sum to the Lefschetz number of $F^p$: some are missing. It is 1 for a box that is mapped
    into itself, $\det(I - A^p)$ on a torus (`on_torus`) whose angles F winds by the integer matrix A. The converse does
    not hold: missing cycles whose indices cancel leave the sum as it is. Without a region or angles a box around the
    candidates is tried for one that is kept; where none is, the result says that nothing is known
    (`Cycles.expected_index_sum` is `None`).

    Multipliers are eigenvalues of the product of the Jacobians, small ones as accurate as large ones (see
    `docs/cycles.md`). A state on a repelling cycle is reproduced by `f` only until rounding errors have grown; `errors`
    bounds each point, not a trajectory from it.

    Reference: P. Cvitanović et al., *Chaos: Classical and Quantum*, chapter on fixed points and how to get them.
    """
    check_states("candidates", candidates)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("max_rounds", max_rounds, 1)
    periods = _periods(period)
    with double_precision(devices):
        starts = np.asarray(candidates, np.float64)
        size = starts.shape[1]
        f = let_in(f, starts[0])
        region = getattr(f, "region", None)
        if region is not None:
            region = np.stack([np.asarray(bound, np.float64) for bound in region])
        angles = period_of(f, size)
        goal = index_goal(f, starts, region, angles)
        check_until_complete(until_complete, goal)
        if num_random is None:
            num_random = 1024 if size <= MAX_RANDOM_SIZE else 0
        check_at_least("num_random", num_random, 0)
        needed = set(periods)
        if goal.winding is not None and goal.trap is None:
            # The index sum of F^p counts the cycles of every divisor of p.
            needed |= {d for p in periods for d in range(1, p) if p % d == 0}
        search = CycleSearch(
            f,
            starts,
            region,
            angles,
            goal,
            sorted(needed),
            max_steps=max_steps,
            num_random=num_random,
            seed=seed,
            progress=progress,
        )
        for p in sorted(needed):
            search.run(
                p,
                max_rounds=max(max_rounds, 20) if until_complete else max_rounds,
                until_complete=until_complete,
            )
        found = tuple(_assemble(search, p) for p in periods)
    wrong = {p: (c.index_sum, c.expected_index_sum) for p, c in zip(periods, found) if c.may_be_complete is False}
    warn_incomplete("fixed points of the iterated map", wrong)
    return CycleSet(tuple(periods), found)


class Cycles(Judged):
    """Cycles of one minimal period, ordered by the number of unstable directions, then by coordinates.

    - `points`: the cycles, `(K, p, N)`; each from its smallest point on, in the order of the dynamics.
    - `residuals`: the largest $|F(x_i) - x_{i+1}|_\\infty$, measured by one plain call of F per point, `(K,)`.
    - `errors`: estimated distance of the points to the true ones, `(K,)`: the residual that rounding can leave, times
        the norm of the inverse of the multiple-shooting system.
    - `multipliers`: eigenvalues of $DF(x_{p-1}) \\cdots DF(x_0)$ by falling modulus, `(K, N)` complex.
    - `is_degenerate`: whether $I - DF^p$ is singular to the accuracy at which it is known, `(K,)`.
    - `num_hits`: how many starts ended there, `(K,)`, those of searches for a multiple of the period included.
    - `num_candidates`: how many starting sequences of this length were run.
    - `num_unconverged`: how many of them ended on no cycle, of this period or a divisor.
    - `index_sum`: the sum of the indices of all fixed points of F^p found (in the region, in the trap); `None` where it
        has no value to be compared with, or where an index is undefined (degenerate cycles, unstable ones on the edge
        of the region).
    - `expected_index_sum`: what all of them sum to (see `find_cycles`); `None` where that is not known.
    - `near_jump`: whether the map jumps within four errors of a point of the cycle, `(K,)`: it may then lie on one side
        of a cut (angles? see `on_torus`).
    - `trap`: where there is no region, a box around the candidates that the map takes into itself at 4096 sampled
        places (evidence, no proof), `(2, N)`; or `None`.
    - `angles`: the periods of the coordinates that are angles, `(N,)`, infinite for the others; or `None`.
    - `region`: the box that the map takes into itself, `(2, N)`, or `None`.
    - `outside`: cycles outside the region, which no trajectory from inside can reach; or `None`.
    - `continuum`: up to 64 cycles, far from one another, of a family of cycles that are not isolated; or `None`.
    """

    points: Float[np.ndarray, "K p N"]
    residuals: Float[np.ndarray, " K"]
    errors: Float[np.ndarray, " K"]
    multipliers: Complex[np.ndarray, "K N"]
    is_degenerate: Bool[np.ndarray, " K"]
    num_hits: Int[np.ndarray, " K"]
    num_candidates: int
    num_unconverged: int
    index_sum: int | None
    expected_index_sum: int | None
    near_jump: Bool[np.ndarray, " K"]
    trap: Float[np.ndarray, "2 N"] | None = None
    angles: Float[np.ndarray, " N"] | None = None
    region: Float[np.ndarray, "2 N"] | None = None
    outside: "Cycles | None" = None
    continuum: "Cycles | None" = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def period(self) -> int:
        """The minimal period p."""
        return self.points.shape[1]

    @property
    def spectral_radii(self) -> Float[np.ndarray, " K"]:
        """The largest modulus of a multiplier of each cycle."""
        return np.max(np.abs(self.multipliers), axis=1, initial=0.0)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Whether all multipliers of each cycle lie inside the unit circle."""
        return self.spectral_radii < 1

    @property
    def num_unstable(self) -> Int[np.ndarray, " K"]:
        """The number of multipliers outside the unit circle, for each cycle."""
        return np.sum(np.abs(self.multipliers) > 1, axis=1)

    @property
    def result(self) -> Any:
        """What each cycle is worth, a batch `(K,)` of `PointVerdict`; `message` has it in words."""
        return first_verdict(
            (self.near_jump, PointVerdict.near_jump),
            (self.is_degenerate, PointVerdict.degenerate),
            otherwise=PointVerdict.regular,
        )

    @property
    def completeness(self) -> Any:
        """Whether these are all cycles there are, a `CompletenessVerdict`: what `may_be_complete` says."""
        return completeness_of(self.may_be_complete)

    @property
    def may_be_complete(self) -> bool | None:
        """Whether the index sum allows that no cycle, of this period or a divisor, is missing; `None`: cannot tell."""
        if self.expected_index_sum is None or self.continuum is not None or self.index_sum is None:
            return None
        # Where the map jumps, the sum counts nothing.
        return None if self.near_jump.any() else self.index_sum == self.expected_index_sum

    def select(self, mask: ArrayLike) -> "Cycles":
        """The cycles for which `mask` (`(K,)` booleans, or indices) holds; everything else is kept."""
        chosen = np.asarray(mask)
        names = ("points", "residuals", "errors", "multipliers", "is_degenerate", "num_hits", "near_jump")
        return eqx.tree_at(
            lambda r: [getattr(r, name) for name in names], self, [getattr(self, name)[chosen] for name in names]
        )

    def table(self) -> str:
        if len(self) == 0:
            lines = [f"No cycle of period {self.period} found from {self.num_candidates} starts"]
        else:
            lines = [
                f"{len(self)} cycles of period {self.period}, {self.points.shape[2]} units, "
                f"from {self.num_candidates} starts",
                "  unstable  cycles  spectral radius     largest residual  largest error",
            ]
            for count in np.unique(self.num_unstable):
                of = self.num_unstable == count
                low, high = self.spectral_radii[of].min(), self.spectral_radii[of].max()
                lines.append(
                    f"  {count:8d}  {of.sum():6d}  {low:.4g} to {high:.4g}".ljust(40)
                    + f"{self.residuals[of].max():16.2g}  {self.errors[of].max():13.2g}"
                )
        lines.append("  " + completeness_note(self.index_sum, self.expected_index_sum, self.may_be_complete, self.trap))
        if self.near_jump.any():
            lines.append(f"  {self.near_jump.sum()} next to a jump of the map (near_jump): one side of it only")
        if self.is_degenerate.any():
            lines.append(f"  {self.is_degenerate.sum()} degenerate (I - DF^p singular): their index is undefined")
        if self.continuum is not None:
            lines.append(f"  a continuum of cycles: {len(self.continuum)} of them (in .continuum)")
        if self.outside is not None:
            lines.append(f"  outside the region the map can reach: {len(self.outside)} cycles (in .outside)")
        lines.append(f"  {self.num_unconverged} starts ended on no cycle")
        return "\n".join(lines)


class CycleSet(Result):
    """The cycles of the periods that were asked for: `cycle_set[p]` are those of minimal period p.

    `len` is the number of cycles of all periods together, and iteration goes over the `Cycles`.

    - `periods`: the minimal periods in steps, in the order in which they were asked for.
    - `cycles`: one `Cycles` for each of them, in the same order; of length 0, with its counts of starts, where no cycle
        of that period was found.
    """

    periods: tuple[int, ...]
    cycles: tuple[Cycles, ...]

    @property
    def by_period(self) -> dict[int, Cycles]:
        """The cycles of each period."""
        return dict(zip(self.periods, self.cycles))

    @property
    def counts(self) -> dict[int, int]:
        """How many cycles were found of each period."""
        return {p: len(cycles) for p, cycles in self.by_period.items()}

    @property
    def only(self) -> Cycles:
        """The cycles of the one period that was asked for; raises `ValueError` where there were several."""
        if len(self.cycles) != 1:
            raise ValueError(f"periods {self.periods} were asked for: say which, as in cycles[{self.periods[0]}].")
        return self.cycles[0]

    @property
    def points(self) -> Float[np.ndarray, "K p N"]:
        """The points of the cycles of the one period that was asked for, `(K, p, N)`."""
        return self.only.points

    @property
    def multipliers(self) -> Complex[np.ndarray, "K N"]:
        """The multipliers of the cycles of the one period that was asked for, by falling modulus, `(K, N)`."""
        return self.only.multipliers

    def __getitem__(self, period: int) -> Cycles:
        return self.by_period[period]

    def __iter__(self) -> Iterator[Cycles]:
        return iter(self.cycles)

    def __len__(self) -> int:
        return sum(len(cycles) for cycles in self.cycles)

    def table(self) -> str:
        lines = [f"{len(self)} cycles", "  period  cycles  stable  spectral radii        largest error  index sum"]
        for cycles in self.cycles:
            radii = cycles.spectral_radii
            span = f"{radii.min():.4g} to {radii.max():.4g}" if len(cycles) else ""
            error = f"{cycles.errors.max():.2g}" if len(cycles) else ""
            lines.append(
                f"  {cycles.period:6d}  {len(cycles):6d}  {cycles.is_stable.sum():6d}  {span:20}  {error:>13}  "
                f"{cycles.index_sum!s:>9}"
            )
        return "\n".join(lines)


def _periods(period: Any) -> list[int]:
    # A NumPy or JAX array without axes is as good as an integer.
    one = getattr(period, "ndim", None) == 0 or not isinstance(period, Iterable)
    given: list[Any] = [period] if one else list(period)
    periods = [p.item() if getattr(p, "ndim", None) == 0 else p for p in given]
    if not periods:
        raise ValueError("period: expected at least one period, got none.")
    for p in periods:
        if not isinstance(p, int) or isinstance(p, bool) or p < 1:
            raise ValueError(f"period: expected a whole number of at least 1, got {p!r}.")
    if len(set(periods)) < len(periods):
        raise ValueError(f"period: expected different periods, got {periods}.")
    return [int(p) for p in periods]


def _assemble(search: CycleSearch, period: int) -> Cycles:
    table = search.tables[period].sorted()
    reachable = search.reachable(table)
    in_continuum = table.degenerate & reachable
    if in_continuum.sum() < MIN_CONTINUUM:
        in_continuum = np.zeros(len(table), bool)
    # Next to a box that was only seen to be kept, divisors that nobody asked for are not searched.
    expected = search.goal.expected(period) if set(divisors(period)) <= set(search.tables) else None
    index_sum = None if expected is None else search.index_sum(period)

    def marked(part: CycleTable) -> np.ndarray:
        if len(part) == 0:
            return np.zeros(0, bool)
        points = part.points.reshape(-1, search.size)
        _, jacobians = evaluate(search.f, points)
        jumps = near_jump(search.f, points, np.repeat(part.errors, period), jacobians, search.angles)
        return np.asarray(np.any(jumps.reshape(len(part), period), axis=1))

    def collect(part: CycleTable, **extra: Any) -> Cycles:
        return Cycles(
            part.points,
            part.residuals,
            part.errors,
            part.multipliers,
            part.degenerate,
            part.hits,
            search.num_candidates[period],
            search.num_unconverged[period],
            index_sum,
            expected,
            marked(part),
            trap=search.goal.trap,
            angles=search.angles,
            **extra,
        )

    outside = table.take(~reachable)
    continuum = table.take(in_continuum)
    if len(continuum):
        continuum = continuum.take(farthest_points(embedded(continuum.points[:, 0], search.angles), 64))
    return collect(
        table.take(reachable & ~in_continuum),
        region=search.region,
        outside=collect(outside) if len(outside) else None,
        continuum=collect(continuum) if len(continuum) else None,
    )
