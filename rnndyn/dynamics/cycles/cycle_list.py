"""Lists of cycles, of one minimal period or of several, with the evidence for each cycle."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Complex, Float, Int

from rnndyn.dynamics.kinks import Kinks
from rnndyn.dynamics.numerics.completeness import completeness_note, completeness_of
from rnndyn.dynamics.numerics.tables import one_sided_notes, rows_by_instability
from rnndyn.dynamics.numerics.verdicts import PointVerdict
from rnndyn.results import Judged, Result, first_verdict


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
    - `trap`: where there is no region, a box around the candidates that the map takes into itself, `(2, N)`; or `None`.
    - `angles`: the periods of the coordinates that are angles, `(N,)`, infinite for the others; or `None`.
    - `region`: the box that the map takes into itself, `(2, N)`: its own, or one proved by interval arithmetic for a
        map of bounded range; or `None`.
    - `outside`: cycles outside the region, which no trajectory from inside can reach; or `None`.
    - `continuum`: up to 64 cycles, far from one another, of a family of cycles that are not isolated; or `None`.
    - `is_trap_proved`: whether interval arithmetic proves that the map keeps `trap`. Else no place that leads out was
        found, by 4096 samples and by an ascent towards every face.
    - `kinks`: which cycles have a point on a kink of the map, and what they are there (growth per turn), or `None`
        where none has. Their multipliers are those of one side only, the one JAX takes; the index is not defined.
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
    is_trap_proved: bool = False
    kinks: Kinks | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def period(self) -> int:
        """The minimal period p."""
        return self.points.shape[1]

    @property
    def spectral_radii(self) -> Float[np.ndarray, " K"]:
        """The largest modulus of a multiplier of each cycle; on a kink, the growth factor per turn in the long run."""
        radii = np.max(np.abs(self.multipliers), axis=1, initial=0.0)
        return radii if self.kinks is None else np.where(self.kinks.is_on_kink, self.kinks.growths, radii)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Whether all multipliers lie inside the unit circle; on a kink, whether every direction shrinks."""
        if self.kinks is None:
            return self.spectral_radii < 1
        return np.where(self.kinks.is_on_kink, self.kinks.is_stable, self.spectral_radii < 1)

    @property
    def is_undecided(self) -> Bool[np.ndarray, " K"]:
        """Whether the stability of each cycle is undecided, at a kink; `is_stable` is then false."""
        return np.zeros(len(self), bool) if self.kinks is None else self.kinks.is_undecided

    @property
    def num_unstable(self) -> Int[np.ndarray, " K"]:
        """The number of multipliers outside the unit circle; on a kink 0 where stable, else at least 1."""
        count = np.sum(np.abs(self.multipliers) > 1, axis=1)
        if self.kinks is None:
            return count
        return np.where(self.kinks.is_on_kink, np.where(self.is_stable, 0, np.maximum(count, 1)), count)

    @property
    def result(self) -> Any:
        """What each cycle is worth, a batch `(K,)` of `PointVerdict`; `message` has it in words."""
        kinks = np.zeros(len(self), bool) if self.kinks is None else self.kinks.is_on_kink
        return first_verdict(
            (self.near_jump, PointVerdict.near_jump),
            (self.is_undecided, PointVerdict.undecided),
            (kinks, PointVerdict.on_kink),
            (self.is_degenerate, PointVerdict.degenerate),
            otherwise=PointVerdict.regular,
        )

    @property
    def completeness(self) -> Any:
        """Whether these are all cycles there are, a `CompletenessVerdict`: what `is_balanced` says."""
        return completeness_of(self.is_balanced, self.is_trap_sampled)

    @property
    def is_trap_sampled(self) -> bool:
        """Whether the indices are counted in a box that the map is only seen to keep."""
        return self.trap is not None and not self.is_trap_proved

    @property
    def may_be_complete(self) -> bool | None:
        """Whether the index sum allows that no cycle, of this period or a divisor, is missing; `None`: nothing tells,
        also where the sum differs in a box that the map is only seen to keep."""
        return None if self.is_balanced is False and self.is_trap_sampled else self.is_balanced

    @property
    def is_balanced(self) -> bool | None:
        """Whether the indices sum to `expected_index_sum`; `None`: not known what they must sum to."""
        if self.expected_index_sum is None or self.continuum is not None or self.index_sum is None:
            return None
        # Where the map jumps, the sum counts nothing, and a kink has no index.
        return None if self.near_jump.any() or self.kinks is not None else self.index_sum == self.expected_index_sum

    def select(self, mask: ArrayLike) -> "Cycles":
        """The cycles for which `mask` (`(K,)` booleans, or indices) holds; everything else is kept."""
        chosen = np.asarray(mask)
        names = ("points", "residuals", "errors", "multipliers", "is_degenerate", "num_hits", "near_jump")
        new: list[Any] = [getattr(self, name)[chosen] for name in names]
        new.append(None if self.kinks is None else self.kinks.select(chosen).or_none())
        return eqx.tree_at(
            lambda r: [*(getattr(r, name) for name in names), r.kinks], self, new, is_leaf=lambda node: node is None
        )

    def table(self) -> str:
        if len(self) == 0:
            lines = [f"No cycle of period {self.period} found from {self.num_candidates} starts"]
        else:
            lines = [
                f"{len(self)} cycles of period {self.period}, {self.points.shape[2]} units, "
                f"from {self.num_candidates} starts",
                *rows_by_instability("cycles", self),
            ]
        sums = self.index_sum, self.expected_index_sum, self.is_balanced
        lines.append("  " + completeness_note(*sums, self.trap, self.is_trap_proved))
        lines.extend(one_sided_notes(self))
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
