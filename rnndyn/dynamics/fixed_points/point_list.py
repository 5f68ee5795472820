"""A list of fixed points, with the evidence for each and for the whole."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Complex, Float, Int

from rnndyn.dynamics.fixed_points._search import RootTable, distinct_roots
from rnndyn.dynamics.fixed_points.leftovers import Continuum, Unconverged
from rnndyn.dynamics.fixed_points.paths import (
    HomotopyPaths,
)
from rnndyn.dynamics.kinks import Kinks, KinkVerdict
from rnndyn.dynamics.numerics.completeness import (
    completeness_note,
    completeness_of,
)
from rnndyn.dynamics.numerics.evidence import is_degenerate, robust_scale
from rnndyn.dynamics.numerics.tables import one_sided_notes, rows_by_instability
from rnndyn.dynamics.numerics.verdicts import PointVerdict
from rnndyn.results import Judged, first_verdict, join_verdicts, stack_verdicts, take_verdicts


class FixedPoints(Judged):
    """Fixed points of a map, ordered by the number of unstable directions, then by coordinates.

    - `points`: the fixed points, `(K, N)`.
    - `residuals`: $|F(x) - x|_\\infty$, measured by one plain call of F, `(K,)`.
    - `errors`: estimated distance to the true fixed point, $\\|(I - DF)^{-1}\\|_\\infty$ times the residual that
        rounding can leave, `(K,)`; infinite where I - DF is singular.
    - `jacobians`: DF at the points, `(K, N, N)`.
    - `multipliers`: eigenvalues of DF by falling modulus, `(K, N)` complex.
    - `singular_gaps`: the smallest singular value of I - DF, `(K,)`; zero at a degenerate point.
    - `num_hits`: how many candidates ended there, `(K,)`; 0 where only a path led there, or where it
        is the mirror image of another.
    - `num_candidates`: how many candidates were run, seeds of later rounds included.
    - `unconverged`: the candidates that ended elsewhere.
    - `near_jump`: whether the map jumps within four errors of the point, `(K,)`: the point may then be one side of a
        cut (an angle? see `on_torus`), and its multipliers hold on that side only.
    - `expected_index_sum`: what the indices of all fixed points sum to (Lefschetz): 1 for a map of a box into itself,
        det(I - A) on a torus whose angles it winds by the integer matrix A; `None` where it is not known.
    - `region`: the box that the map takes into itself, `(2, N)`: its own, or one proved by interval arithmetic for a
        map of bounded range; or `None`.
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
    - `still_finding`: whether the last of `max_rounds` rounds still found points, so that more rounds may find more.
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
    still_finding: bool = False

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
    def is_balanced(self) -> bool | None:
        """Whether the indices sum to `expected_index_sum`; `None`: not known what they must sum to."""
        if self.expected_index_sum is None or self.continuum is not None or self.kinks is not None:
            return None
        # Where the map jumps, the sum counts nothing.
        if self.is_degenerate[self._counted].any() or self.near_jump.any():
            return None
        return self.index_sum == self.expected_index_sum

    @property
    def may_be_complete(self) -> bool | None:
        """Whether the index sum allows that no point is missing; `None`: nothing tells, also where the sum differs in a
        box that the map is only seen to keep."""
        return None if self.is_balanced is False and self.is_trap_sampled else self.is_balanced

    @property
    def completeness(self) -> Any:
        """Whether these are all fixed points there are, a `CompletenessVerdict`: what `is_balanced` says."""
        return completeness_of(self.is_balanced, self.is_trap_sampled)

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
            still_finding=any(part.still_finding for part in parts),
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
            lines.extend(rows_by_instability("points", self))
            sums = self.index_sum, self.expected_index_sum, self.is_balanced
            lines.append("  " + completeness_note(*sums, self.trap, self.is_trap_proved))
            lines.extend(one_sided_notes(self))
            if self.is_degenerate.any():
                lines.append(f"  {self.is_degenerate.sum()} degenerate (I - DF singular): not counted in the index sum")
        if self.continuum is not None:
            lines.append("  " + self.continuum.table())
        if self.outside is not None:
            lines.append(f"  outside the region the map can reach: {len(self.outside)} points (in .outside)")
        if self.still_finding:
            lines.append("  the rounds ran out while they still found points: raise max_rounds to find more")
        if self.num_spared:
            lines.append(f"  {self.num_spared} candidates were not run: those before them found nothing new any more")
        if self.paths is not None:
            lines.append("  " + self.paths.table())
        lines.append("  " + unconverged.table())
        return "\n".join(lines)


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
