"""All fixed points and cycles of piecewise-linear maps, exactly, from the linear regions that they visit."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.linear_regions._itineraries import AdmissibleCycles
from rnndyn.dynamics.linear_regions._limits import Itineraries, WorkLimit, WorkLimitReached
from rnndyn.dynamics.linear_regions._regions import hop_regions, search_region_graph
from rnndyn.dynamics.linear_regions._relu_map import ReluMap, distinct_itineraries
from rnndyn.dynamics.linear_regions._signs import search_signs
from rnndyn.dynamics.numerics.drivers import double_precision, map_in_chunks, to_double
from rnndyn.dynamics.numerics.verdicts import CompletenessVerdict, PointVerdict
from rnndyn.results import Judged, Result, first_verdict, is_verdict


def enumerate_cycles(
    cell: Any,
    input: ArrayLike | None,
    max_period: int,
    *,
    max_tests: int = 20_000,
    num_starts: int = 500,
    max_hops: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> "EnumeratedCycles":
    r"""Find every cycle of minimal period 1 to `max_period` of a piecewise-linear cell with its input held.

    The map is $z \mapsto A z + W_1 \mathrm{relu}(W_2 z + h_2) + h_1$. Where the pattern of active ReLUs is known it is
    affine, $z \mapsto M z + v$, so a cycle that visits a known sequence of patterns, its *itinerary*, solves one linear
    system. It is a cycle of the map when each of its points lies in the region of its pattern.

    **Arguments:**

    - `cell`: a `PiecewiseLinearCell`, or anything callable as `cell(state, input)` with `input_size` and
        `relu_form(input)`, which gives the arrays `linear` (A), `outer` (W_1), `inner` (W_2), `inner_bias` (h_2)
        and `offset` (h_1).
    - `input`: the held input, shape `(I,)`; `None` for zero.
    - `max_period`: the longest period.
    - `max_tests`: how many feasibility tests each exhaustive method may make before it gives up; a test takes a few
        tenths of a millisecond for small networks, and larger ones count for more.
    - `num_starts`, `max_hops`, `seed`: guesses, and hops from each, of the sampled search where both give up.
    - `progress`: show a bar when it takes longer than two seconds.

    **Returns:** an `EnumeratedCycles`: `result[p]` are the cycles of period p, with `proved` and the evidence.

    **Raises:** `ValueError` for a cell that has no `relu_form`, an input of another width, weights or inputs that are
    NaN or infinite, a period that is no whole number of at least 1, a work limit below 1.

    Two exhaustive methods exclude itineraries in bulk. With few linear regions, words of regions that some orbit can
    follow are grown until few closed walks are left (symbolic dynamics); with many, branch and bound over the signs
    of the pre-activations solves the linear complementarity problem of all points together. Whatever is excluded is
    excluded by Farkas multipliers that are checked with bounds on every rounding error, so with `proved` no other
    cycle stays within $|z|_\infty$ < `radius`; no box of states is assumed. Where the work limit does not suffice for a
    period, its cycles are sampled by region hopping, and `proved` is false.

    Two cases are named rather than decided. A cycle with a point on the border of its region within rounding error
    is listed with `is_on_border`: it solves the equations, but a change of the weights by rounding may create or remove
    it, and its multipliers are those of one side. An itinerary with a singular system has a family of cycles or none;
    families are in `families`. See `docs/piecewise_linear.md`.

    Reference: L. Eisenmann, Z. Monfared, N. Göring & D. Durstewitz (2023), *Bifurcations and loss jumps in RNN
    training*; R. W. Cottle, J.-S. Pang & R. E. Stone (1992), *The Linear Complementarity Problem*.
    """
    if not isinstance(max_period, int | np.integer) or max_period < 1:
        raise ValueError(f"max_period: expected a whole number of at least 1, got {max_period!r}.")
    check_at_least("max_tests", max_tests, 1)
    check_at_least("num_starts", num_starts, 2)
    check_at_least("max_hops", max_hops, 1)
    with double_precision():
        cell = to_double(cell)
        given = _relu_map(cell, input)
        held = np.zeros(cell.input_size) if input is None else np.asarray(input, np.float64)
        relu_map, scale = given.simplified()
        itineraries = _search(relu_map, max_period, max_tests, progress)
        rng = np.random.default_rng(seed)
        for period in range(1, max_period + 1):
            if period not in itineraries.by_period:
                found = hop_regions(relu_map, period, num_starts=num_starts, max_hops=max_hops, rng=rng)
                itineraries.by_period[period] = distinct_itineraries(found)
        tables: list[AdmissibleCycles] = []
        for period in range(1, max_period + 1):
            tables.append(AdmissibleCycles(relu_map, itineraries.by_period[period], tables))
        return EnumeratedCycles(
            tuple(
                _result(table, itineraries.radii.get(period), given, scale, cell, held)
                for period, table in enumerate(tables, 1)
            )
        )


class PiecewiseLinearCycles(Judged):
    """The cycles of one minimal period p, ordered by the number of unstable directions, then by coordinates.

    - `points`: the cycles, `(K, p, N)`; each from its smallest point on, in the order of the dynamics.
    - `patterns`: which ReLUs are on at the points, `(K, p, L)`.
    - `multipliers`: eigenvalues of the product of the Jacobians by falling modulus, `(K, N)` complex.
    - `residuals`: the largest $|F(z_t) - z_{t+1}|_\\infty$, measured by one plain call of the cell per point, `(K,)`.
    - `errors`: bounds on the distance of the points to the true ones, `(K,)`.
    - `border_distances`: the smallest distance of a point from a border between linear regions, `(K,)`.
    - `is_on_border`: whether that is zero within the error: the cycle exists up to rounding only, `(K,)`.
    - `families`: cycles that are not isolated, one entry for each sequence of regions.
    - `completeness`: whether the list is complete within `radius` or a sample, a `CompletenessVerdict`.
    - `radius`: where `proved`, no other cycle has all its states within this radius (largest component); else 0.
    """

    points: Float[np.ndarray, "K p N"]
    patterns: Bool[np.ndarray, "K p L"]
    multipliers: Complex[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    errors: Float[np.ndarray, " K"]
    border_distances: Float[np.ndarray, " K"]
    is_on_border: Bool[np.ndarray, " K"]
    families: tuple["CycleFamily", ...]
    completeness: CompletenessVerdict
    radius: float

    def __len__(self) -> int:
        return len(self.points)

    @property
    def proved(self) -> bool:
        """Whether the list is complete within `radius`; otherwise it is a sample."""
        return is_verdict(self.completeness, CompletenessVerdict.proved)

    @property
    def result(self) -> Any:
        """What each cycle is worth, a batch `(K,)` of `PointVerdict`; `message` has it in words."""
        return first_verdict((self.is_on_border, PointVerdict.on_border), otherwise=PointVerdict.regular)

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
    def num_unstable(self) -> np.ndarray:
        """The number of multipliers outside the unit circle, for each cycle."""
        return np.sum(np.abs(self.multipliers) > 1, axis=1)

    def table(self) -> str:
        claim = f"proved complete within |z| < {self.radius:.3g}" if self.proved else "sampled, others may exist"
        lines = [f"{len(self)} cycles of period {self.period}, {self.points.shape[2]} units: {claim}"]
        if len(self):
            lines.append("  unstable  spectral radius  residual    error  distance to a border")
        for k in range(len(self)):
            note = "  (on it)" if self.is_on_border[k] else ""
            lines.append(
                f"  {self.num_unstable[k]:8d}  {self.spectral_radii[k]:15.6g}  {self.residuals[k]:8.1e}  "
                f"{self.errors[k]:7.1e}  {self.border_distances[k]:20.3g}{note}"
            )
        lines += [f"  {family.table()}" for family in self.families]
        return "\n".join(lines)


class CycleFamily(Result):
    """Cycles of one itinerary that form an affine set, cut by the borders of their regions.

    Where the product of the Jacobians along an itinerary has the eigenvalue 1, its cycles are not isolated: they are
    the solutions of a singular linear system, as the states of a line attractor are. Multipliers across the set are
    those of any of its cycles; along it they are 1.

    - `points`: one of them, `(p, N)`, in the order of the dynamics.
    - `dimension`: of the set: how many directions the cycles can be moved in.
    - `residual`: the largest $|F(z_t) - z_{t+1}|_\\infty$ at `points`, measured by plain calls of the cell.
    """

    points: Float[np.ndarray, "p N"]
    dimension: int
    residual: float

    def table(self) -> str:
        return f"a family of dimension {self.dimension} of cycles of period {len(self.points)}"


class EnumeratedCycles(Result):
    """The cycles of all periods up to a longest one: `result[p]` are those of minimal period p.

    Returned by `enumerate_cycles`. Iteration runs over the periods; `len` is the number of cycles of all of them, and
    `counts` tells how many each period has. `proved` holds where the list of every period is complete within its
    radius; `completeness` is else the reason of the first period where it is not.

    - `cycles`: one `PiecewiseLinearCycles` for each period 1, 2, ..., empty ones included.

    **Raises:** `KeyError` for a period that was not searched.
    """

    cycles: tuple[PiecewiseLinearCycles, ...]

    @property
    def max_period(self) -> int:
        """The longest period searched."""
        return len(self.cycles)

    @property
    def counts(self) -> dict[int, int]:
        """How many cycles there are of each period."""
        return {cycles.period: len(cycles) for cycles in self.cycles}

    @property
    def completeness(self) -> Any:
        """Whether the lists are complete: that of the first period for which it is not proved, where there is one."""
        return next((c.completeness for c in self.cycles if not c.proved), CompletenessVerdict.proved)

    @property
    def proved(self) -> bool:
        """Whether the list is complete for every period."""
        return is_verdict(self.completeness, CompletenessVerdict.proved)

    def __getitem__(self, period: int) -> PiecewiseLinearCycles:
        if not 1 <= period <= self.max_period:
            raise KeyError(f"period {period} was not searched: periods 1 to {self.max_period} were.")
        return self.cycles[period - 1]

    def __iter__(self) -> Iterator[PiecewiseLinearCycles]:
        return iter(self.cycles)

    def __len__(self) -> int:
        return sum(len(cycles) for cycles in self.cycles)

    def table(self) -> str:
        lines = [
            f"{len(self)} cycles of periods 1 to {self.max_period}",
            "  period  cycles  stable  on a border  families  spectral radii        largest error  complete",
        ]
        for cycles in self.cycles:
            radii = cycles.spectral_radii
            span = f"{radii.min():.4g} to {radii.max():.4g}" if len(cycles) else ""
            error = f"{cycles.errors.max():.2g}" if len(cycles) else ""
            claim = f"|z| < {cycles.radius:.2g}" if cycles.proved else "not proved"
            lines.append(
                f"  {cycles.period:6d}  {len(cycles):6d}  {cycles.is_stable.sum():6d}  "
                f"{cycles.is_on_border.sum():11d}  {len(cycles.families):8d}  {span:20}  {error:>13}  {claim}"
            )
        return "\n".join(lines)


def _relu_map(cell: Any, input: ArrayLike | None) -> ReluMap:
    """The arrays of the cell with its input held, checked."""
    if not hasattr(cell, "relu_form"):
        raise ValueError(
            f"cell: expected a piecewise-linear cell with a method relu_form(input), got a {type(cell).__name__}. "
            "For a smooth map use find_cycles or enumerate_fixed_points."
        )
    size = cell.input_size
    held = np.zeros(size) if input is None else np.asarray(input, np.float64)
    if held.shape != (size,):
        raise ValueError(f"input: expected shape ({size},), the input width of the cell, got {held.shape}.")
    if not np.isfinite(held).all():
        raise ValueError("input: it holds NaN or infinity.")
    relu_map = ReluMap.of(cell.relu_form(jnp.asarray(held)))
    if not all(np.isfinite(array).all() for array in vars(relu_map).values()):
        raise ValueError("cell: some of its weights are NaN or infinite.")
    return relu_map


def _search(relu_map: ReluMap, max_period: int, max_tests: int, progress: bool) -> Itineraries:
    """Exhaustive searches, as far as they get: by signs for what is quickly done, by the region graph, by signs again.

    Either can be the faster one by orders of magnitude: the graph where there are few regions and long periods, the
    signs where there are many regions (measured in `docs/piecewise_linear.md`).
    """
    found = Itineraries()
    # Fixed points alone are a small problem for the signs, and regions a large number.
    _add_by_signs(found, relu_map, max_period, max_tests if max_period == 1 else max_tests // 10, progress)
    if len(found.radii) < max_period:
        with WorkLimit(max_tests, progress=progress) as limit:
            by_graph = search_region_graph(relu_map, max_period, limit)
        for period in by_graph.radii:
            if period not in found.radii:
                found.add(period, by_graph.by_period[period], by_graph.radii[period])
    if 1 < max_period > len(found.radii):
        _add_by_signs(found, relu_map, max_period, max_tests, progress)
    return found


def _add_by_signs(found: Itineraries, relu_map: ReluMap, max_period: int, max_tests: int, progress: bool) -> None:
    """Add the periods that are missing, from the lowest, as long as the work limit allows."""
    # Longer periods need more work still, so the first that is too much ends the search.
    with WorkLimit(max_tests, progress=progress) as limit, contextlib.suppress(WorkLimitReached):
        for period in range(1, max_period + 1):
            if period not in found.radii:
                itineraries, radius = search_signs(relu_map, period, limit)
                found.add(period, distinct_itineraries(itineraries), radius)


def _result(
    table: AdmissibleCycles, radius: float | None, given: ReluMap, scale: float, cell: Any, input: np.ndarray
) -> PiecewiseLinearCycles:
    """The table in the units of the cell, sorted, with residuals of the cell itself."""
    rotated = [np.roll(points, -np.lexsort(points.T[::-1])[0], axis=0) for points in table.points]
    points = scale * np.reshape(rotated, table.points.shape)
    num_unstable = np.sum(np.abs(table.multipliers) > 1, axis=1)
    order = np.lexsort((*points[:, 0].T[::-1], num_unstable))
    norms = np.linalg.norm(table.map.inner, axis=1)
    distances = np.min(np.abs(table.map.borders(table.points)) / norms, axis=(1, 2), initial=np.inf)
    families = []
    for family in table.families:
        cycle = scale * family.point
        residual = float(_residuals(cell, input, cycle[None])[0])
        families.append(CycleFamily(cycle, family.dimension, residual))
    return PiecewiseLinearCycles(
        points[order],
        given.borders(points[order]) > 0,
        table.multipliers[order],
        _residuals(cell, input, points)[order],
        scale * table.errors[order],
        scale * distances[order],
        table.on_border[order],
        tuple(families),
        completeness=CompletenessVerdict.sampled if radius is None else CompletenessVerdict.proved,
        radius=scale * min(radius, table.excluded_radius) if radius is not None else 0.0,
    )


def _residuals(cell: Any, input: np.ndarray, cycles: Float[np.ndarray, "K p N"]) -> Float[np.ndarray, " K"]:
    if len(cycles) == 0:
        return np.zeros(0)
    states = cycles.reshape(-1, cycles.shape[2])
    images = map_in_chunks(
        lambda part: _step(cell, input, part),
        states,
        bytes_per_item=64 * states.shape[1],
        description="",
        progress=False,
    )
    return np.max(np.abs(images.reshape(cycles.shape) - np.roll(cycles, -1, axis=1)), axis=(1, 2))


@compiled
def _step(cell: Any, input: Any, states: Any) -> Array:
    return jax.vmap(lambda state: cell(state, jnp.asarray(input)))(jnp.asarray(states))
