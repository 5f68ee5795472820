"""The cycles of a map: periodic points of a given minimal period, each cycle once, with its evidence."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.cycles._search import CycleSearch, CycleTable
from rnndyn.dynamics.cycles.cycle_list import Cycles, CycleSet
from rnndyn.dynamics.kinks import kinks_at
from rnndyn.dynamics.numerics.completeness import (
    check_until_complete,
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
from rnndyn.dynamics.proofs.trapping import is_kept, region_of_range

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
        if region is None and angles is None:
            region = region_of_range(f, starts)
        goal = index_goal(f, starts, region, angles, is_kept)
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
    wrong = {p: (c.index_sum, c.expected_index_sum) for p, c in zip(periods, found) if c.is_balanced is False}
    warn_incomplete("fixed points of the iterated map", wrong, goal.trap is not None and not goal.is_trap_proved)
    return CycleSet(tuple(periods), found)


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

    program: Any = search.f

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
            kinks=kinks_at(program, part.points, part.errors),
            trap=search.goal.trap,
            is_trap_proved=search.goal.is_trap_proved,
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
