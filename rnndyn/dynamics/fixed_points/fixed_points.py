"""The fixed points of a map: a search from many candidates at once, and what is found with its evidence."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.fixed_points._rescue import CHEAP
from rnndyn.dynamics.fixed_points._search import FixedPointSearch, RootTable, distinct_roots
from rnndyn.dynamics.fixed_points.leftovers import Continuum, Unconverged, describe_continuum
from rnndyn.dynamics.fixed_points.paths import (
    PATHS_FOR_MORE,
    PATHS_FOR_ONE,
    HomotopyPaths,
    follow_beyond,
    follow_paths,
    path_starts,
)
from rnndyn.dynamics.kinks import Kinks, KinkVerdict, kinks_at
from rnndyn.dynamics.numerics.completeness import (
    IndexGoal,
    check_until_complete,
    completeness_note,
    completeness_of,
    index_goal,
    warn_incomplete,
    within,
)
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.evidence import MIN_CONTINUUM, is_degenerate, robust_scale
from rnndyn.dynamics.numerics.jumps import near_jump
from rnndyn.dynamics.numerics.torus import period_of
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict, PointVerdict
from rnndyn.dynamics.proofs.trapping import is_kept
from rnndyn.results import Judged, first_verdict, join_verdicts, stack_verdicts, take_verdicts

DENSE_LIMIT = 400
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
) -> "FixedPoints":
    r"""Find solutions of $F(x) = x$ from many candidates at once, each polished to the rounding floor in float64.

    Every candidate runs the trust-region Newton method of `newton`. Further rounds start from mixtures of the points
    found, where saddles lie, until a round finds nothing new. Converged ends are grouped into points (see
    `group_points`), polished, and linearised. A continuous map of a box into itself has a fixed point (Brouwer): where
    none was found, or the index sum says that one is missing, the solutions of $x = (1 - s)\,a + s\,F(x)$ are followed
    from $x = a$ at s = 0, which leads to one from almost every a.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`; an `equinox.Module` such as `as_map(cell, input)` is cast to float64 and compiled
        once for all networks of one structure. Where `f` has a `region` (a box that it maps into itself) the
        candidates inside stay inside, and the index count below applies.
    - `candidates`: starting points, shape `(K, N)`; see `sample_candidates`.
    - `max_steps`: Newton steps for one candidate.
    - `max_rounds`: the most rounds, the first one included.
    - `until_complete`: go on, also from random states of the region, until the index sum is 1 or the rounds run out
        (at least 20).
    - `linear_solver`: `"dense"`, `"gmres"` (matrix-free) or `"auto"`: by the size of the state.
    - `num_paths`: how many such paths to follow, also where nothing says that points are missing; 0 for none. By
        default up to 8 where nothing was found in a region, and for states of up to 400 up to 4 where the indices do
        not sum up, and up to 3, followed on past s = 1, where more than 16 units have several points.
    - `all_candidates`: run every candidate. By default those for more than 16 units are run in blocks, each as large as
        all before it, in random order, until a block finds nothing new and at most one candidate in a hundred met a
        point that no other met: by Good and Turing's estimate that is how likely the next one finds something. The rest
        are `num_spared`, unless the index sum says that points are missing.
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
    check_states("candidates", candidates)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("max_rounds", max_rounds, 1)
    if num_paths is not None:
        check_at_least("num_paths", num_paths, 0)
    with double_precision(devices):
        starts = np.asarray(candidates, np.float64)
        f = let_in(f, starts[0])
        region, period = _region(f), period_of(f, starts.shape[1])
        goal = index_goal(f, starts, region, period, is_kept)
        check_until_complete(until_complete, goal)
        if num_paths is not None and num_paths > 0 and period is not None:
            raise ValueError("num_paths: paths from constant maps do not go round angles; leave num_paths out.")
        if linear_solver == "auto":
            linear_solver = "dense" if starts.shape[1] <= DENSE_LIMIT else "gmres"
        search = FixedPointSearch(
            f, starts, region, period, max_steps=max_steps, linear_solver=linear_solver, progress=progress
        )
        rng = np.random.default_rng(seed)
        paths, rest = None, starts[:0]
        if starts.shape[1] <= CHEAP or all_candidates:
            search.run(starts)
        else:
            after_first = lambda: beyond.append(follow_beyond(search, seed))
            beyond: list[HomotopyPaths | None] = []
            rest = search.run_blocks(starts, seed, after_first if num_paths is None else lambda: None)
            paths = beyond[0] if beyond else None
        rounds_left = max(max_rounds, 20) - 1 if until_complete else max_rounds - 1
        for _ in range(rounds_left):
            num_before = search.num_found
            search.run(search.seeds(rng, uniform=until_complete))
            unbalanced = until_complete and _assemble(search, goal).may_be_complete is False
            if search.num_found == num_before and not unbalanced:
                break
        more = _paths_where_points_are_missing(search, goal, rng, num_paths)
        paths = paths if more is None else more.join(paths)
        # Where no candidate arrived, the others would not either.
        if len(rest) and search.num_arrived and _assemble(search, goal).may_be_complete is False:
            search.run(rest)
            rest = rest[:0]
        result = _with_kinks(f, _assemble(search, goal, paths, len(rest)))
    if result.may_be_complete is False:
        sums = {1: (result.index_sum, result.expected_index_sum)}
        warn_incomplete("fixed points", sums, result.is_trap_sampled)
    return result


class FixedPoints(Judged):
    """Fixed points of a map, ordered by the number of unstable directions, then by coordinates.

    - `points`: the fixed points, `(K, N)`.
    - `residuals`: $|F(x) - x|_\\infty$, measured by one plain call of F, `(K,)`.
    - `errors`: estimated distance to the true fixed point, $\\|(I - DF)^{-1}\\|_\\infty$ times the residual that
        rounding can leave, `(K,)`; infinite where I - DF is singular.
    - `jacobians`: DF at the points, `(K, N, N)`.
    - `multipliers`: eigenvalues of DF by falling modulus, `(K, N)` complex.
    - `singular_gaps`: the smallest singular value of I - DF, `(K,)`; zero at a degenerate point.
    - `num_hits`: how many candidates ended there, `(K,)`; 0 where only a path led there.
    - `num_candidates`: how many candidates were run, seeds of later rounds included.
    - `unconverged`: the candidates that ended elsewhere.
    - `near_jump`: whether the map jumps within four errors of the point, `(K,)`: the point may then be one side of a
        cut (an angle? see `on_torus`), and its multipliers hold on that side only.
    - `expected_index_sum`: what the indices of all fixed points sum to (Lefschetz): 1 for a map of a box into itself,
        det(I - A) on a torus whose angles it winds by the integer matrix A; `None` where it is not known.
    - `region`: the box that the map takes into itself, `(2, N)`, or `None`.
    - `period`: of the coordinates that are angles, `(N,)`, infinite for the others; or `None`.
    - `trap`: where there is no region, a box around the candidates that the map takes into itself, `(2, N)`; or `None`.
        The index sum then counts the points inside.
    - `is_trap_proved`: whether interval arithmetic proves that it does. Else no place that leads out was found, by 4096
        samples and by an ascent towards every face.
    - `outside`: fixed points outside the region, which no trajectory from inside can reach; or `None`.
    - `continuum`: fixed points that are not isolated, or `None`.
    - `kinks`: which points lie on a kink of the map, and what they are there (see `linearize_one_sided`), or `None`
        where none does. Their multipliers are those of one side only, the one JAX takes; the index is not defined.
    - `paths`: the paths from constant maps that were followed where points were missing, or `None`.
    - `num_spared`: candidates that were not run, since those before them found nothing new any more.
    """

    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    errors: Float[np.ndarray, " K"]
    jacobians: Float[np.ndarray, "K N N"]
    multipliers: Complex[np.ndarray, "K N"]
    singular_gaps: Float[np.ndarray, " K"]
    num_hits: Int[np.ndarray, " K"]
    num_candidates: int
    unconverged: "Unconverged"
    near_jump: Bool[np.ndarray, " K"]
    expected_index_sum: int | None = None
    region: Float[np.ndarray, "2 N"] | None = None
    period: Float[np.ndarray, " N"] | None = None
    trap: Float[np.ndarray, "2 N"] | None = None
    is_trap_proved: bool = False
    outside: "FixedPoints | None" = None
    continuum: "Continuum | None" = None
    kinks: Kinks | None = None
    paths: HomotopyPaths | None = None
    num_spared: int = 0

    def __len__(self) -> int:
        return len(self.points)

    @property
    def spectral_radii(self) -> Float[np.ndarray, " K"]:
        """The largest modulus of a multiplier of each point; on a kink, the growth factor in the long run."""
        radii = np.max(np.abs(self.multipliers), axis=1, initial=0.0)
        return radii if self.kinks is None else np.where(self.kinks.is_on_kink, self.kinks.growths, radii)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Whether all multipliers lie inside the unit circle; on a kink, whether every direction shrinks."""
        if self.kinks is None:
            return self.spectral_radii < 1
        return np.where(self.kinks.is_on_kink, self.kinks.is_stable, self.spectral_radii < 1)

    @property
    def result(self) -> Any:
        """What each point is worth, a batch `(K,)` of `PointVerdict`; `message` has it in words."""
        kinks = np.zeros(len(self), bool) if self.kinks is None else self.kinks.is_on_kink
        return first_verdict(
            (self.near_jump, PointVerdict.near_jump),
            (self.is_undecided, PointVerdict.undecided),
            (kinks, PointVerdict.on_kink),
            (self.is_degenerate, PointVerdict.degenerate),
            otherwise=PointVerdict.regular,
        )

    @property
    def is_undecided(self) -> Bool[np.ndarray, " K"]:
        """Whether the stability of each point hangs on rounding, at a kink; `is_stable` is then false."""
        return np.zeros(len(self), bool) if self.kinks is None else self.kinks.is_undecided

    @property
    def num_unstable(self) -> Int[np.ndarray, " K"]:
        """The number of multipliers outside the unit circle; on a kink 0 where stable, else at least 1."""
        count = np.sum(np.abs(self.multipliers) > 1, axis=1)
        if self.kinks is None:
            return count
        return np.where(self.kinks.is_on_kink, np.where(self.is_stable, 0, np.maximum(count, 1)), count)

    @property
    def is_degenerate(self) -> Bool[np.ndarray, " K"]:
        """Whether I - DF is singular to the accuracy at which DF is known: the index is then undefined."""
        return is_degenerate(self.singular_gaps, self.jacobians)

    @property
    def indices(self) -> Int[np.ndarray, " K"]:
        """The index sign det(I - DF) of each point; 0 where it is degenerate."""
        sign, _ = np.linalg.slogdet(np.eye(self.points.shape[1]) - self.jacobians)
        unknown = self.is_degenerate if self.kinks is None else self.is_degenerate | self.kinks.is_on_kink
        return np.where(unknown, 0, sign).astype(int)

    @property
    def index_sum(self) -> int:
        """The sum of the indices (in `trap`, where there is one), to be compared with `expected_index_sum`."""
        return int(self.indices[self._counted].sum())

    @property
    def may_be_complete(self) -> bool | None:
        """Whether the index sum allows that no point is missing; `None`: not known, nothing tells."""
        if self.expected_index_sum is None or self.continuum is not None or self.kinks is not None:
            return None
        # Where the map jumps, the sum counts nothing.
        if self.is_degenerate[self._counted].any() or self.near_jump.any():
            return None
        return self.index_sum == self.expected_index_sum

    @property
    def completeness(self) -> Any:
        """Whether these are all fixed points there are, a `CompletenessVerdict`: what `may_be_complete` says."""
        return completeness_of(self.may_be_complete, self.is_trap_sampled)

    @property
    def is_trap_sampled(self) -> bool:
        """Whether the index sum holds for a box that the map is seen, but not proved, to keep."""
        return self.trap is not None and not self.is_trap_proved

    @property
    def _counted(self) -> Bool[np.ndarray, " K"]:
        if self.trap is None:
            return np.ones(len(self), bool)
        return np.all((self.points >= self.trap[0]) & (self.points <= self.trap[1]), axis=1)

    def select(self, mask: ArrayLike) -> "FixedPoints":
        """The points for which `mask` (`(K,)` booleans, or indices) holds; everything else is kept."""
        chosen = np.asarray(mask)
        names = ("points", "residuals", "errors", "jacobians", "multipliers", "singular_gaps", "num_hits", "near_jump")
        new: list[Any] = [getattr(self, name)[chosen] for name in names]
        new.append(None if self.kinks is None else self.kinks.select(chosen).or_none())
        return eqx.tree_at(
            lambda r: [*(getattr(r, name) for name in names), r.kinks], self, new, is_leaf=lambda node: node is None
        )

    @staticmethod
    def concatenate(parts: "Sequence[FixedPoints]") -> "FixedPoints":
        """The points of several searches of one map, each once, with what did not converge in any of them.

        **Arguments:**

        - `parts`: at least one result, all of the same map. Points outside the region and continua are those of the
            first part that has any.

        **Returns:** one `FixedPoints`.

        **Raises:** `ValueError` for no parts, or parts of states of different length.
        """
        if not parts or len({part.points.shape[1] for part in parts}) != 1:
            raise ValueError("parts: expected one or more results for states of one length.")
        roots = _as_roots(parts[0])
        for part in parts[1:]:
            roots = roots.join(_as_roots(part))
        roots = distinct_roots(roots, robust_scale(roots.points), parts[0].period).sorted()
        # The rows of the table are rows of the parts, whose marks are found by their coordinates.
        jumps = [part.points[part.near_jump] for part in parts if part.near_jump.any()]
        marked = {row.tobytes() for row in np.concatenate(jumps)} if jumps else set()
        lost = [part.unconverged for part in parts]
        unconverged = Unconverged(
            np.concatenate([ends.points for ends in lost]),
            np.concatenate([ends.residuals for ends in lost]),
            join_verdicts([ends.result for ends in lost]),
        )
        first = lambda name: next((getattr(part, name) for part in parts if getattr(part, name) is not None), None)
        return FixedPoints(
            *vars(roots).values(),
            num_candidates=sum(part.num_candidates for part in parts),
            unconverged=unconverged,
            near_jump=np.array([row.tobytes() in marked for row in roots.points], bool),
            expected_index_sum=first("expected_index_sum"),
            region=first("region"),
            period=first("period"),
            trap=first("trap"),
            is_trap_proved=next((part.is_trap_proved for part in parts if part.trap is not None), False),
            outside=first("outside"),
            continuum=first("continuum"),
            kinks=_kinks_of_rows(roots.points, parts),
            paths=first("paths"),
            num_spared=sum(part.num_spared for part in parts),
        )

    def table(self) -> str:
        unconverged = self.unconverged
        lines = []
        if len(self) == 0:
            best = f"{unconverged.best:.3g}" if len(unconverged) else "none"
            lines.append(f"No isolated fixed point found from {self.num_candidates} candidates. Best residual: {best}.")
        else:
            lines.append(
                f"{len(self)} fixed points of {self.points.shape[1]} units from {self.num_candidates} candidates"
            )
            lines.append("  unstable  points  spectral radius     largest residual  largest error")
            for count in np.unique(self.num_unstable):
                of = self.num_unstable == count
                low, high = self.spectral_radii[of].min(), self.spectral_radii[of].max()
                lines.append(
                    f"  {count:8d}  {of.sum():6d}  {low:.4g} to {high:.4g}".ljust(40)
                    + f"{self.residuals[of].max():16.2g}  {self.errors[of].max():13.2g}"
                )
            sums = self.index_sum, self.expected_index_sum, self.may_be_complete
            lines.append("  " + completeness_note(*sums, self.trap, self.is_trap_proved))
            if self.near_jump.any():
                lines.append(f"  {self.near_jump.sum()} next to a jump of the map (near_jump): one side of it only")
            if self.kinks is not None:
                lines.append(
                    f"  {int(self.kinks.is_on_kink.sum())} on a kink of the map, where growth in the long run decides "
                    f"({int(self.is_undecided.sum())} undecided): their multipliers are those of one side"
                )
            if self.is_degenerate.any():
                lines.append(f"  {self.is_degenerate.sum()} degenerate (I - DF singular): not counted in the index sum")
        if self.continuum is not None:
            lines.append("  " + self.continuum.table())
        if self.outside is not None:
            lines.append(f"  outside the region the map can reach: {len(self.outside)} points (in .outside)")
        if self.num_spared:
            lines.append(f"  {self.num_spared} candidates were not run: those before them found nothing new any more")
        if self.paths is not None:
            lines.append("  " + self.paths.table())
        lines.append("  " + unconverged.table())
        return "\n".join(lines)


def _with_kinks(f: Any, result: FixedPoints) -> FixedPoints:
    """The result with what its points are where they lie on a kink, those outside of the region included."""
    outside = None if result.outside is None else _with_kinks(f, result.outside)
    kinks = kinks_at(f, result.points, result.errors)
    return eqx.tree_at(lambda r: (r.outside, r.kinks), result, (outside, kinks), is_leaf=lambda node: node is None)


def _kinks_of_rows(points: np.ndarray, parts: "Sequence[FixedPoints]") -> Kinks | None:
    """What the parts say of points that are among theirs."""
    growths: list[float] = [np.nan] * len(points)
    verdicts: list[Any] = [KinkVerdict.smooth] * len(points)
    for part in parts:
        if part.kinks is not None:
            same = np.all(points[:, None] == part.points, axis=2)
            for row, where in zip(*np.nonzero(same & part.kinks.is_on_kink)):
                growths[row], verdicts[row] = part.kinks.growths[where], take_verdicts(part.kinks.result, where)
    return Kinks(np.array(growths), stack_verdicts(verdicts)).or_none() if verdicts else None


def _region(f: Any) -> np.ndarray | None:
    """The box of a map that has one, as an array (2, N)."""
    region = getattr(f, "region", None)
    return None if region is None else np.stack([np.asarray(bound, np.float64) for bound in region])


def _as_roots(result: FixedPoints) -> RootTable:
    return RootTable(
        result.points,
        result.residuals,
        result.errors,
        result.jacobians,
        result.multipliers,
        result.singular_gaps,
        result.num_hits,
    )


def _paths_where_points_are_missing(
    search: FixedPointSearch, goal: IndexGoal, rng: np.random.Generator, num_paths: int | None
) -> HomotopyPaths | None:
    """Follow as many paths as were asked for, or else until the points found may be all, or one where none was."""
    if num_paths is not None:
        return follow_paths(search, path_starts(search, rng, num_paths), lambda: False) if num_paths else None
    if search.region is None or search.period is not None:
        return None
    result = lambda: _assemble(search, goal)
    found = result()
    if len(found) == 0 and found.continuum is None:
        return follow_paths(search, path_starts(search, rng, PATHS_FOR_ONE), lambda: len(result()) > 0)
    if found.may_be_complete is False and search.candidates.shape[1] <= DENSE_LIMIT:
        starts = path_starts(search, rng, PATHS_FOR_MORE)
        return follow_paths(search, starts, lambda: result().may_be_complete is not False)
    return None


def _assemble(
    search: FixedPointSearch, goal: IndexGoal, paths: HomotopyPaths | None = None, num_spared: int = 0
) -> FixedPoints:
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

    def collect(mask: np.ndarray, **extra: Any) -> FixedPoints:
        part = roots.take(mask).sorted()
        return FixedPoints(
            *vars(part).values(),
            num_candidates=search.num_candidates,
            unconverged=unconverged,
            near_jump=near_jump(search.f, part.points, part.errors, part.jacobians, search.period),
            period=search.period,
            **extra,
        )

    return collect(
        isolated,
        expected_index_sum=goal.expected(1),
        region=region,
        trap=goal.trap,
        is_trap_proved=goal.is_trap_proved,
        outside=collect(~reachable) if not reachable.all() else None,
        continuum=continuum,
        paths=paths,
        num_spared=num_spared,
    )
