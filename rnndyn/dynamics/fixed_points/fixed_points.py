"""The fixed points of a map: a search from many candidates at once, and what is found with its evidence."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.fixed_points._pieces import Images, Region
from rnndyn.dynamics.fixed_points._rescue import CHEAP
from rnndyn.dynamics.fixed_points._search import FixedPointSearch
from rnndyn.dynamics.fixed_points._work import Work, alone
from rnndyn.dynamics.fixed_points.leftovers import Unconverged, describe_continuum
from rnndyn.dynamics.fixed_points.paths import (
    PATHS_FOR_MORE,
    PATHS_FOR_ONE,
    HomotopyPaths,
    follow_pairs,
    follow_paths,
    path_starts,
)
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.kinks import kinks_at
from rnndyn.dynamics.numerics.completeness import (
    IndexGoal,
    check_until_complete,
    index_goal,
    warn_incomplete,
    within,
)
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.evidence import MIN_CONTINUUM, is_degenerate
from rnndyn.dynamics.numerics.jumps import JumpLook
from rnndyn.dynamics.numerics.torus import period_of
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.dynamics.proofs.trapping import is_kept
from rnndyn.results import first_verdict

DENSE_LIMIT = 1024
"""States longer than this are searched without forming Jacobians (measured in `benchmarks/fixed_points.py`)."""


def find_fixed_points(
    f: Callable[[Array], Array],
    candidates: ArrayLike,
    *,
    max_steps: int = 100,
    max_rounds: int = 4,
    until_complete: bool = False,
    linear_solver: str = "auto",
    num_paths: int | None = None,
    all_candidates: bool = False,
    seed: int = 0,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> FixedPoints:
    r"""Find solutions of $F(x) = x$ from many candidates at once, each polished to the rounding floor in float64.

    Every candidate runs the trust-region Newton method of `newton`. Further rounds start from mixtures of the points
    found, where saddles lie, until a round finds nothing new; of an odd map, as of a network without biases, the mirror
    image of every point is one too. Converged ends are grouped into points (see
    `group_points`), polished, and linearised. A continuous map of a box into itself has a fixed point (Brouwer): where
    none was found, or the index sum says that one is missing, the solutions of $x = (1 - s)\,a + s\,F(x)$ are followed
    from $x = a$ at s = 0, which leads to one from almost every a.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`; an `equinox.Module` such as `as_map(cell, input)` is cast to float64 and compiled
        once for all networks of one structure. Where `f` has a `region` (a box that it maps into itself), or is proved
        to keep one because its range is bounded, the candidates inside stay inside, and the index count below applies.
    - `candidates`: starting points, shape `(K, N)`; see `sample_candidates`.
    - `max_steps`: Newton steps for one candidate.
    - `max_rounds`: the most rounds, the first one included.
    - `until_complete`: go on, also from random states of the region, until the index sum is 1 or the rounds run out
        (at least 20).
    - `linear_solver`: `"dense"`, `"gmres"` (matrix-free) or `"auto"`: by the size of the state.
    - `num_paths`: how many such paths to follow, also where nothing says that points are missing; 0 for none. By
        default up to 8 where nothing was found in a region, and for states of up to 1024 up to 4 where the indices do
        not sum up; and where more than 16 units have several points, those that lead to the partners of points found.
    - `all_candidates`: run every candidate. By default those for more than 16 units are run in blocks, each as large as
        all before it, in random order, until a block finds nothing new and at most one candidate in a hundred met a
        point that no other met, nor any path: by Good and Turing's estimate that is how likely the next one finds
        something. The rest are `num_spared`, unless the index sum says that points are missing.
    - `seed`: of the random mixtures.
    - `progress`: show a bar when it takes longer than two seconds.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** a `FixedPoints` with NumPy arrays. Candidates that did not converge are in `unconverged`, points
    outside the region in `outside`, a continuum of fixed points in `continuum`.

    **Raises:** `ValueError` for candidates of a wrong shape or dtype, none at all, or with NaN or infinity; for a map
    that changes the shape or dtype of its state; for `until_complete` without a region.

    **Warns:** when the map takes a box into itself and the indices $\operatorname{sign}\det(I - DF)$ do not sum to 1,
    as they do for the complete set of (non-degenerate) fixed points: points are missing. The converse does not hold:
    a pair of missing points of opposite index leaves the sum at 1. For a proof see `enumerate_fixed_points`.

    Reference: D. Sussillo & O. Barak (2013), *Opening the black box*; M. Golub & D. Sussillo (2018),
    *FixedPointFinder*; J. Milnor (1965), *Topology from the Differentiable Viewpoint* (index sum); S. N. Chow,
    J. Mallet-Paret & J. A. Yorke (1978), *Finding zeroes of maps: homotopy methods that are constructive with
    probability one*.
    """
    check_options(candidates, max_steps, max_rounds, num_paths)
    with double_precision(devices):
        starts = np.asarray(candidates, np.float64)
        f = let_in(f, starts[0])
        search = search_for_fixed_points(
            f,
            starts,
            max_steps=max_steps,
            max_rounds=max_rounds,
            until_complete=until_complete,
            linear_solver=linear_solver,
            num_paths=num_paths,
            all_candidates=all_candidates,
            seed=seed,
            progress=progress,
        )
        result = alone(search)
    warn_of_missing(result)
    return result


def check_options(candidates: ArrayLike, max_steps: int, max_rounds: int, num_paths: int | None) -> None:
    """Raise for what `find_fixed_points` does not take."""
    check_states("candidates", candidates)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("max_rounds", max_rounds, 1)
    if num_paths is not None:
        check_at_least("num_paths", num_paths, 0)


def warn_of_missing(result: FixedPoints) -> None:
    """Warn whoever called the caller where the index sum says that points are missing."""
    if result.is_balanced is False:
        sums = {1: (result.index_sum, result.expected_index_sum)}
        warn_incomplete("fixed points", sums, result.is_trap_sampled, stacklevel=4)


def search_for_fixed_points(
    f: Any,
    starts: np.ndarray,
    *,
    max_steps: int,
    max_rounds: int,
    until_complete: bool,
    linear_solver: str,
    num_paths: int | None,
    all_candidates: bool,
    seed: int,
    progress: bool,
) -> Work[FixedPoints]:
    """What `find_fixed_points` does with a program, as pieces of work."""
    region, period = _region(f), period_of(f, starts.shape[1])
    if region is None and period is None:
        region = yield Region(f, starts)
    goal = index_goal(f, starts, region, period, is_kept)
    check_until_complete(until_complete, goal)
    if num_paths is not None and num_paths > 0 and period is not None:
        raise ValueError("num_paths: paths from constant maps do not go round angles; leave num_paths out.")
    if linear_solver == "auto":
        linear_solver = "dense" if starts.shape[1] <= DENSE_LIMIT else "gmres"
    search = FixedPointSearch(
        f, starts, region, period, max_steps=max_steps, linear_solver=linear_solver, progress=progress
    )
    yield from search.begin()
    rng = np.random.default_rng(seed)
    paths, rest = None, starts[:0]
    if starts.shape[1] <= CHEAP or all_candidates:
        yield from search.run(starts)
    else:
        paired: list[HomotopyPaths | None] = [None]

        def after_first() -> Work[None]:
            if num_paths is None:
                paired[0] = yield from follow_pairs(search, np.random.default_rng([seed, 2]))

        rest = yield from search.run_blocks(starts, seed, after_first)
        paths = paired[0]
    rounds_left = max(max_rounds, 20) - 1 if until_complete else max_rounds - 1
    still_finding = False
    for _ in range(rounds_left):
        num_before = search.num_found
        yield from search.run(search.seeds(rng, uniform=until_complete))
        unbalanced = until_complete and (yield from _assemble(search, goal)).is_balanced is False
        still_finding = search.num_found > num_before
        if not still_finding and not unbalanced:
            break
    more = yield from _paths_where_points_are_missing(search, goal, rng, num_paths)
    paths = paths if more is None else more.join(paths)
    # Where no candidate arrived, the others would not either.
    if len(rest) and search.num_arrived and (yield from _assemble(search, goal)).is_balanced is False:
        yield from search.run(rest)
        rest = rest[:0]
        if num_paths is None and (yield from _assemble(search, goal)).is_balanced is False:
            more = yield from follow_pairs(search, rng)
            paths = paths if more is None else more.join(paths)
    return _with_kinks(f, (yield from _assemble(search, goal, paths, len(rest), still_finding)))


def _with_kinks(f: Any, result: FixedPoints) -> FixedPoints:
    """The result with what its points are where they lie on a kink, those outside of the region included."""
    outside = None if result.outside is None else _with_kinks(f, result.outside)
    kinks = kinks_at(f, result.points, result.errors)
    return eqx.tree_at(lambda r: (r.outside, r.kinks), result, (outside, kinks), is_leaf=lambda node: node is None)


def _region(f: Any) -> np.ndarray | None:
    """The box of a map that has one, as an array (2, N)."""
    region = getattr(f, "region", None)
    return None if region is None else np.stack([np.asarray(bound, np.float64) for bound in region])


def _paths_where_points_are_missing(
    search: FixedPointSearch, goal: IndexGoal, rng: np.random.Generator, num_paths: int | None
) -> Work[HomotopyPaths | None]:
    """Follow as many paths as were asked for, or else until the points found may be all, or one where none was."""

    def never() -> Work[bool]:
        yield from ()
        return False

    def any_found() -> Work[bool]:
        return len((yield from _assemble(search, goal))) > 0

    def may_be_all() -> Work[bool]:
        return (yield from _assemble(search, goal)).is_balanced is not False

    if num_paths is not None:
        if num_paths == 0:
            return None
        return (yield from follow_paths(search, path_starts(search, rng, num_paths), never))
    if search.region is None or search.period is not None:
        return None
    found = yield from _assemble(search, goal)
    if len(found) == 0 and found.continuum is None:
        return (yield from follow_paths(search, path_starts(search, rng, PATHS_FOR_ONE), any_found))
    if found.is_balanced is False and CHEAP < search.candidates.shape[1] <= DENSE_LIMIT and search.num_found > 1:
        return (yield from follow_pairs(search, rng))
    if found.is_balanced is False and search.candidates.shape[1] <= DENSE_LIMIT:
        return (yield from follow_paths(search, path_starts(search, rng, PATHS_FOR_MORE), may_be_all))
    return None


def _assemble(
    search: FixedPointSearch,
    goal: IndexGoal,
    paths: HomotopyPaths | None = None,
    num_spared: int = 0,
    still_finding: bool = False,
) -> Work[FixedPoints]:
    """Sort what was found into isolated points, points out of reach, and a continuum."""
    roots, region = search.roots, search.region
    reachable = within(roots.points, roots.errors, region)
    degenerate = is_degenerate(roots.gaps, roots.jacobians) & reachable
    continuum = None
    isolated = reachable
    if degenerate.sum() >= MIN_CONTINUUM:
        continuum = describe_continuum(roots.take(degenerate), search.period)
        isolated = reachable & ~degenerate
    points, residuals, stalled = search.unconverged
    how = first_verdict(
        (~np.isfinite(residuals), NewtonVerdict.not_finite),
        (stalled, NewtonVerdict.stalled),
        otherwise=NewtonVerdict.out_of_steps,
    )
    unconverged = Unconverged(points, residuals, how)

    def collect(mask: np.ndarray, **extra: Any) -> Work[FixedPoints]:
        part = roots.take(mask).sorted()
        look = JumpLook(part.points, part.errors, part.jacobians, search.period)
        images = (yield Images(search.f, look.places)) if len(part) else part.points
        return FixedPoints(
            *vars(part).values(),
            num_candidates=search.num_candidates,
            unconverged=unconverged,
            near_jump=look.judge(images),
            period=search.period,
            **extra,
        )

    outside = None if reachable.all() else (yield from collect(~reachable))
    inside = yield from collect(
        isolated,
        expected_index_sum=goal.expected(1),
        region=region,
        trap=goal.trap,
        is_trap_proved=goal.is_trap_proved,
        outside=outside,
        continuum=continuum,
        paths=paths,
        num_spared=num_spared,
        still_finding=still_finding,
    )
    return inside
