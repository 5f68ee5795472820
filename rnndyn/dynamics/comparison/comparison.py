"""A copy beside its system: every measure, with what the system shows against itself."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._measurements import (
    Measurement,
    dimension_measurement,
    exponent_measurements,
    fixed_point_measurement,
    prediction_measurements,
    spectrum_measurement,
    state_space_measurement,
)
from rnndyn.dynamics.comparison._orbits import cycle_measurements, return_measurement
from rnndyn.dynamics.comparison._runs import Runs, check_gaps, check_system, judge_copy, make_runs
from rnndyn.dynamics.comparison.fixed_point_matching import FixedPointMatch
from rnndyn.dynamics.comparison.verdicts import CopyVerdict, LikenessVerdict
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum
from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.results import Judged, is_verdict, stack_verdicts

NUM_SEGMENTS = 8
"""Into how many pieces the runs are cut at least: 56 ordered pairs say what the system shows against itself."""


def compare_dynamics(
    f: Callable[[Array], Array] | ArrayLike,
    g: Callable[[Array], Array] | ArrayLike,
    initial_states: ArrayLike | None = None,
    *,
    copy_states: ArrayLike | None = None,
    observation: Callable[[Array], Array] | None = None,
    copy_observation: Callable[[Array], Array] | None = None,
    encode: Callable[[Array], Array] | None = None,
    num_steps: int = 10_000,
    num_transient: int = 1000,
    dt: float = 1.0,
    num_exponents: int | None = None,
    num_bins: int = 30,
    smoothing: float = 20.0,
    threshold: float = 0.4,
    horizon: int | None = None,
    num_starts: int = 20,
    error_steps: int = 10,
    num_candidates: int = 64,
    cycle_periods: Iterable[int] = (),
    match_tolerance: float = 0.05,
) -> "DynamicsComparison":
    r"""Compare a copy g with its system f: where states lie, spectra, predictions, exponents, dimensions, fixed points.

    Every measure comes with its null, the system against itself, and with a verdict: with the mean and the spread of
    the null $m_0 \pm s_0$ and the copy's value m, the copy is *as good as identical* where $(m - m_0) / s_0 \le 2$ and
    *different* beyond 4.

    | row | of the system (null) | of the copy |
    |---|---|---|
    | D_stsp, D_H | between pairs of different segments of its runs | between segments of it and of the copy |
    | valid prediction time, error after n steps | of itself, from starts 1e-6 standard deviations off | of the copy |
    | exponents, Kaplan-Yorke and correlation dimension | its value with its standard error | likewise |
    | return map | how far successive maxima of a segment miss the pairs of another one | those of the copy |
    | fixed points, cycles of each period | how many | how many |

    Fixed points and cycles are as good as identical where all of them have partners with as many unstable directions
    within `match_tolerance`. The return map is that of each channel whose maxima are resolved, four samples or more
    apart: of flows; of maps there is no such row.

    **Arguments:**

    - `f`: the system: a map `(N,) -> (N,)`, or recorded series (T, n) or (K, T, n).
    - `g`: the copy: a map, or series.
    - `initial_states`: states of f to start from, (K, N) or (N,). Where f is recorded, g starts from its first rows.
    - `copy_states`: states of g to start from, where they are not those of f.
    - `observation`: what is compared, a function of a state of f, `(N,) -> (n,)`; by default all of it. For series, of
        their rows.
    - `copy_observation`: the same for g.
    - `encode`: the state of g that belongs to an observation, `(n,) -> (M,)`, from which it predicts; by default the
        observation itself where g has no `copy_observation`.
    - `num_steps`, `num_transient`: of each run of a map.
    - `dt`: the time of one step.
    - `num_exponents`: by default all.
    - `num_bins`, `smoothing`: see `state_space_divergence` and `spectrum_distance`; they apply to segments, an eighth
        of all rows each where K is below 8.
    - `threshold`, `horizon`, `num_starts`: of predictions, see `valid_prediction_time`; the horizon is at most, and by
        default, half a segment.
    - `error_steps`: n, after how many steps the error of these predictions is taken, at most the horizon.
    - `num_candidates`: of the searches for fixed points; 0 leaves them out.
    - `cycle_periods`: of maps, the minimal periods whose cycles are searched for in both, such as `range(2, 7)`; by
        default none. Cycles of a flow have no whole number of steps.
    - `match_tolerance`: in standard deviations of the observations.

    **Returns:** a `DynamicsComparison`. A copy that diverges or settles on a point is named as such; what cannot be
    measured of it is `None`.

    **Raises:** `ValueError` for series or states with NaN (a recorded copy that is lost for good diverges; one that
    goes on has missing samples), other shapes, a system that does not vary, different channels, runs too short for the
    spectra.

    A driver: it computes in float64. The nulls hold for the lengths used; of longer runs every copy is different.

    ??? cite "Reference"
        See `state_space_divergence`, `spectrum_distance`, `valid_prediction_time`, `lyapunov_spectrum`,
        `correlation_dimension`, `return_map`, `match_fixed_points`,
        `find_cycles`.
    """
    for name, value, least in (
        ("num_steps", num_steps, NUM_SEGMENTS * 2),
        ("num_transient", num_transient, 0),
        ("num_starts", num_starts, 1),
        ("error_steps", error_steps, 1),
        ("num_candidates", num_candidates, 0),
        ("num_bins", num_bins, 1),
    ):
        check_at_least(name, value, least)
    periods = tuple(cycle_periods)
    for period in periods:
        check_at_least("cycle_periods", period, 1)
    for name, value in (("dt", dt), ("threshold", threshold), ("match_tolerance", match_tolerance)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}.")
    lengths = {"num_steps": num_steps, "num_transient": num_transient}
    with double_precision():
        system = make_runs("f", f, initial_states, observation, **lengths, states_name="initial_states")
        check_system("f", system)
        if callable(g) and copy_states is None:
            copy_states = _copy_starts(system, initial_states, encode, copy_observation)
        copy = make_runs("g", g, copy_states, copy_observation, **lengths, states_name="copy_states")
        _check_channels(system, copy)
        check_gaps("g", copy)
        became, copy = judge_copy(system, copy)
        ours, theirs = _segments(system, copy, smoothing)
        rows = [state_space_measurement(ours, theirs, num_bins), spectrum_measurement(ours, theirs, smoothing)]
        more, spectrum, copy_spectrum = exponent_measurements(system, copy, num_exponents, dt)
        exponent = None if spectrum is None else float(spectrum.exponents[0])
        longest = max(1, ours.shape[1] // 2)
        predictions = prediction_measurements(
            system,
            copy,
            encode or (_identity if copy_observation is None else None),
            longest if horizon is None else min(horizon, longest),
            num_starts,
            threshold,
            error_steps,
            exponent if exponent is not None and exponent > 0 else None,
            dt,
        )
        rows += predictions + more + [dimension_measurement(system, copy)]
        row = return_measurement(ours, theirs)
        rows += [] if row is None else [row]
        points = copy_points = match = None
        if num_candidates:
            row, points, copy_points, match = fixed_point_measurement(system, copy, num_candidates, match_tolerance)
            rows += [] if row is None else [row]
            rows += cycle_measurements(system, copy, periods, num_candidates, match_tolerance)
    return DynamicsComparison(tuple(rows), became, spectrum, copy_spectrum, points, copy_points, match)


class DynamicsComparison(Judged):
    """A copy beside its system.

    - `measurements`: one for each measure, with its verdict.
    - `copy`: what the runs of the copy come to, a `CopyVerdict`.
    - `spectrum`, `copy_spectrum`: the Lyapunov spectra, or `None` where there is no map.
    - `fixed_points`, `copy_fixed_points`, `match`: the fixed points and which belong together, or `None`.
    """

    measurements: tuple[Measurement, ...]
    copy: CopyVerdict
    spectrum: LyapunovSpectrum | None
    copy_spectrum: LyapunovSpectrum | None
    fixed_points: FixedPoints | None
    copy_fixed_points: FixedPoints | None
    match: FixedPointMatch | None

    @property
    def result(self) -> Any:
        """The verdict of each measurement, a batch of `LikenessVerdict`; `message` has them in words."""
        return stack_verdicts([row.result for row in self.measurements])

    @property
    def is_different(self) -> bool:
        """Whether the copy diverges, settles, or differs in any measure."""
        return not is_verdict(self.copy, CopyVerdict.in_range) or bool(
            np.any(is_verdict(self.result, LikenessVerdict.different))
        )

    def __getitem__(self, name: str) -> Measurement:
        """A measurement by its name, such as "D_stsp"."""
        found = {row.name: row for row in self.measurements}
        if name not in found:
            raise KeyError(f"{name!r} is none of {list(found)}.")
        return found[name]

    def table(self) -> str:
        lines = [
            f"The copy {CopyVerdict[self.copy].partition(':')[0]}.",
            f"  {'measure':<24}{'system (null)':>22}{'copy':>22}  verdict",
        ]
        for row in self.measurements:
            word = str(row.message).partition(":")[0]
            lines.append(f"  {row.name:<24}{row.shown('system'):>22}{row.shown('copy'):>22}  {word}")
            if row.note:
                lines.append(f"      {row.note}")
        return "\n".join(lines)


def _identity(x: Array) -> Array:
    return x


def _copy_starts(system: Runs, initial_states: Any, encode: Any, copy_observation: Any) -> np.ndarray:
    """Where the copy starts when nothing is said: where the system is first seen."""
    first = system.observed[:, 0]
    if encode is not None:
        return np.stack([np.asarray(encode(row)) for row in first])
    if copy_observation is None:
        return first
    raise ValueError(
        "copy_states: g is observed through copy_observation, so its states are not those of f. Pass states of g to "
        "start from, or encode, which makes one from an observation."
    )


def _check_channels(system: Runs, copy: Runs) -> None:
    if system.observed.shape[2] != copy.observed.shape[2]:
        raise ValueError(
            f"g: expected the {system.observed.shape[2]} channels of f, got {copy.observed.shape[2]}. Pass "
            "observation and copy_observation, functions of a state, that see the same of both."
        )


def _segments(system: Runs, copy: Runs, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Segments of one length of both."""
    least = max(16, 2 * int(4 * smoothing + 0.5))
    for name, runs in (("f", system), ("g", copy)):
        if runs.segment_length(NUM_SEGMENTS) < least:
            which = name if runs.map is None else "num_steps"
            raise ValueError(
                f"{which}: runs of {runs.observed.shape[1]} rows are cut into segments of "
                f"{runs.segment_length(NUM_SEGMENTS)}, too short for spectra smoothed over {smoothing:g} bins, which "
                f"need {least}. Take longer runs or more of them, or lower smoothing."
            )
    ours, theirs = system.segments(NUM_SEGMENTS), copy.segments(NUM_SEGMENTS)
    length = min(ours.shape[1], theirs.shape[1])
    return ours[:, :length], theirs[:, :length]
