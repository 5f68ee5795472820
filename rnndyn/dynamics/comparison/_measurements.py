"""Each measure of a copy beside what its system shows against itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnndyn.dynamics.candidates import sample_candidates
from rnndyn.dynamics.comparison._runs import Runs, iterate_from, varies
from rnndyn.dynamics.comparison._visited_cells import binned_divergences
from rnndyn.dynamics.comparison.correlation_dimension import correlation_dimension
from rnndyn.dynamics.comparison.fixed_point_matching import FixedPointMatch, match_fixed_points
from rnndyn.dynamics.comparison.prediction import valid_prediction_time
from rnndyn.dynamics.comparison.spectrum_distance import gaussian_kernel, smoothed_spectra
from rnndyn.dynamics.comparison.state_space_divergence import (
    MOST_BINNED,
    default_bounds,
    mixture_divergence,
)
from rnndyn.dynamics.comparison.verdicts import DimensionVerdict, LikenessVerdict
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from rnndyn.results import Judged, is_verdict

IDENTICAL, DIFFERENT = 2.0, 4.0
"""In spreads of the null: one of two runs of one system in twenty is beyond the first, none in thousands beyond the
second, where spreads are normal."""

LEAST_SPREAD = 1e-6
"""Two runs that are equal have no spread; to this the measures are computed."""

DISPLACEMENT = 1e-6
"""In standard deviations: how far off the start of the system's prediction of itself is, as float32 leaves it."""

_SMOOTHING = 1e-5
"""Of D_stsp, states per cell: that of `state_space_divergence`."""

NORMAL_QUARTILES = 1.349
"""How far the quartiles of a normal distribution are apart, in its standard deviations."""


class Measurement(Judged):
    """One measure of a copy beside its system.

    - `name`: which measure.
    - `system`: of the system: for a distance, the mean between its own runs; `None` where not measured.
    - `system_error`: its spread between single pairs of runs, or its standard error.
    - `copy`: of the copy: for a distance, the mean between its runs and those of the system; `None` where not measured.
    - `copy_error`: likewise.
    - `result`: a `LikenessVerdict`.
    - `note`: what else there is to say.
    """

    name: str
    system: float | None
    system_error: float | None
    copy: float | None
    copy_error: float | None
    result: LikenessVerdict
    note: str = ""

    def table(self) -> str:
        return f"{self.name}: system {self.shown('system')}, copy {self.shown('copy')}; {self.message}"

    def shown(self, whose: str) -> str:
        """The value of "system" or "copy" as text."""
        value, error = getattr(self, whose), getattr(self, f"{whose}_error")
        if value is None:
            return "-"
        return f"{value:.4g}" if error is None else f"{value:.4g} +- {error:.2g}"


def measured(
    name: str, system: tuple[Any, Any], copy: tuple[Any, Any], *, side: int = 0, note: str = ""
) -> Measurement:
    """A measurement with its verdict.

    `side`: 0 where either direction is a difference and both errors count; 1 where a copy can only be too large, -1
    where it can only be too small, and its own spread is no excuse.
    """
    (a, da), (b, db) = (
        tuple(None if x is None or not np.isfinite(x) else float(x) for x in pair) for pair in (system, copy)
    )
    if a is None or b is None or da is None:
        return Measurement(name, a, da, b, db, LikenessVerdict.not_measured, note)
    spread = np.hypot(da, db or 0.0) if side == 0 else da
    score = (b - a) / max(spread, LEAST_SPREAD)
    score = abs(score) if side == 0 else side * score
    verdict = LikenessVerdict.undecided
    if score <= IDENTICAL:
        verdict = LikenessVerdict.identical
    elif score > DIFFERENT:
        verdict = LikenessVerdict.different
    return Measurement(name, a, da, b, db, verdict, note)


def state_space_measurement(system: np.ndarray, copy: np.ndarray, num_bins: int) -> Measurement:
    """D_stsp between all pairs of segments; one grid for all."""
    name, rows = "D_stsp", system.reshape(-1, system.shape[2])
    if rows.shape[1] <= MOST_BINNED:
        lower, upper = (np.asarray(corner) for corner in default_bounds(jnp.asarray(rows)))
        both = binned_divergences(np.concatenate([system, copy]), lower, upper, num_bins, _SMOOTHING)
        null, cross = both[: len(system), : len(system)], both[: len(system), len(system) :]
        pair = _spread(null[~np.eye(len(system), dtype=bool)]), _spread(cross)
        note = f"bins, {num_bins} to a dimension"
    else:
        scale = rows.std(0)
        system, copy, note = system / scale, copy / scale, "mixtures of Gaussians"
        if not np.isfinite(copy).all():
            return Measurement(name, None, None, None, None, LikenessVerdict.not_measured, "the copy diverges")
        pair = _null_and_cross(lambda x, y: np.asarray(_mixture_divergences(x, y)), system, copy)
    is_finite = np.isfinite(copy).all()
    row = measured(name, *pair, side=1, note=note)
    if is_finite:
        return row
    # What a copy visits before it diverges is no likeness, however little short runs of the system are like each other.
    verdict = LikenessVerdict.different
    return Measurement(
        name, row.system, row.system_error, row.copy, row.copy_error, verdict, f"{note}; until the copy diverges"
    )


def spectrum_measurement(system: np.ndarray, copy: np.ndarray, smoothing: float) -> Measurement:
    """D_H between all pairs of segments."""
    name = "D_H"
    if not np.isfinite(copy).all() or not varies(copy):
        note = "the copy has no spectrum: it stands still or diverges"
        return Measurement(name, None, None, None, None, LikenessVerdict.not_measured, note)
    kernel = jnp.asarray(gaussian_kernel(smoothing))
    roots = [np.sqrt(np.asarray(_spectra(jnp.asarray(runs), kernel))) for runs in (system, copy)]
    return measured(name, *_null_and_cross(_hellinger_distances, *roots), side=1, note=f"sigma {smoothing:g}")


def _null_and_cross(table: Any, system: np.ndarray, copy: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Mean and spread between different segments of the system, and between segments of system and copy."""
    return _spread(table(system, system)[~np.eye(len(system), dtype=bool)]), _spread(table(system, copy))


def _spread(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1))


# Compiled here, once for all comparisons of series of one length.
@jax.jit
def _mixture_divergences(xs: Any, ys: Any) -> Any:
    of_one = lambda x: jax.lax.map(lambda y: mixture_divergence(x, y, 1.0, 1000, jax.random.key(0)), ys)
    return jax.lax.map(of_one, xs)


@jax.jit
def _spectra(runs: Any, kernel: Any) -> Any:
    return jax.lax.map(lambda run: smoothed_spectra(run, kernel), runs)


def _hellinger_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean over channels of the distances of spectra, given by their roots (R, frequencies, n): a table (R, S)."""
    of_one = lambda root: np.sqrt(np.sum((second - root) ** 2, axis=1) / 2).mean(axis=1)
    return np.stack([of_one(root) for root in first])


def exponent_measurements(
    system: Runs, copy: Runs, num_exponents: int | None, dt: float
) -> tuple[list[Measurement], LyapunovSpectrum | None, LyapunovSpectrum | None]:
    """The exponents and the Kaplan-Yorke dimension of both, where they are maps."""
    spectra = [_spectrum(runs, num_exponents, dt) for runs in (system, copy)]
    if all(s is None for s in spectra):
        return [], None, None
    known = min(len(s.exponents) for s in spectra if s is not None)
    rows = []
    for i in range(known):
        pairs = [(None, None) if s is None else (s.exponents[i], s.stderr[i]) for s in spectra]
        rows.append(measured(f"exponent {i + 1}", *pairs))
    pairs = [(None, None) if s is None else (s.kaplan_yorke_dimension, s.kaplan_yorke_stderr) for s in spectra]
    rows.append(measured("Kaplan-Yorke dimension", *pairs))
    return rows, spectra[0], spectra[1]


def _spectrum(runs: Runs, num_exponents: int | None, dt: float) -> LyapunovSpectrum | None:
    if runs.map is None or runs.states is None:
        return None
    start = runs.states[0, 0]
    if not np.isfinite(runs.states[0]).all():
        return None
    k = None if num_exponents is None else min(num_exponents, start.size)
    return lyapunov_spectrum(runs.map, start, runs.states.shape[1] - 1, num_exponents=k, dt=dt)


def dimension_measurement(system: Runs, copy: Runs) -> Measurement:
    """The correlation dimension of both."""
    pairs, notes = [], []
    for name, runs in (("system", system), ("copy", copy)):
        series = runs.observed[0][-10_000:]
        if len(series) < 100 or not np.isfinite(series).all():
            pairs.append((None, None))
            continue
        found = correlation_dimension(series)
        believed = is_verdict(found.result, DimensionVerdict.converged, DimensionVerdict.discrete)
        pairs.append((found.dimension, found.stderr) if believed else (None, None))
        if not believed:
            notes.append(f"{name}: {str(found.message).partition(':')[0]}")
    return measured("correlation dimension", *pairs, note="; ".join(notes))


def prediction_measurements(
    system: Runs,
    copy: Runs,
    encode: Any,
    horizon: int,
    num_starts: int,
    threshold: float,
    error_steps: int,
    exponent: float | None,
    dt: float,
) -> list[Measurement]:
    """For how long the copy predicts the system, and how well; and the system itself, from starts a little off."""
    if copy.map is None or encode is None:
        return []
    num_runs, num_rows, _ = system.observed.shape
    per_run = -(-num_starts // num_runs)
    places = np.linspace(0, num_rows - horizon - 1, per_run).astype(int)
    windows = np.stack([system.observed[:, p + 1 : p + 1 + horizon] for p in places], axis=1)
    truth = windows.reshape(-1, horizon, windows.shape[-1])[:num_starts]
    here = system.observed[:, places].reshape(len(windows) * per_run, -1)[:num_starts]
    starts = np.asarray(jax.vmap(encode)(jnp.asarray(here)))
    predictions = [copy.observe(np.asarray(iterate_from(copy.map, starts, horizon)))]
    if system.map is not None and system.states is not None:
        states = system.states[:, places].reshape(len(windows) * per_run, -1)[:num_starts]
        scale = system.states.reshape(-1, states.shape[1]).std(0)
        rng = np.random.default_rng(0)
        displaced = states + DISPLACEMENT * scale * rng.standard_normal(states.shape)
        predictions.insert(0, system.observe(np.asarray(iterate_from(system.map, displaced, horizon))))
    times, errors = [], []
    step = min(error_steps, horizon)
    deviations = truth.reshape(-1, truth.shape[2]).std(0)
    for prediction in predictions:
        found = valid_prediction_time(truth, prediction, threshold=threshold, lyapunov_exponent=exponent, dt=dt)
        low, high = np.asarray(found.quartiles)
        times.append((found.median, (high - low) / NORMAL_QUARTILES))
        # What overflows is worse than anything that does not.
        with np.errstate(over="ignore", invalid="ignore"):
            each = np.sqrt(np.mean(((prediction - truth)[:, step - 1] / deviations) ** 2, axis=1))
        low, median, high = np.quantile(np.where(np.isnan(each), np.inf, each), [0.25, 0.5, 0.75], method="nearest")
        errors.append((median, (high - low) / NORMAL_QUARTILES if np.isfinite(high) else None))
    note = f"{'time' if exponent is None else 'Lyapunov times'}, threshold {threshold:g}, {len(truth)} starts"
    if len(predictions) == 1:  # a recording cannot be started anew
        times.insert(0, (None, None))
        errors.insert(0, (None, None))
    else:
        note += f"; of the system: starts {DISPLACEMENT:g} off"
    time = measured("valid prediction time", *times, side=-1, note=note)
    name, note = f"error after {step} step{'s' if step > 1 else ''}", "standard deviations, median over the same starts"
    if not np.isfinite(errors[1][0]):
        note, of_system = f"{note}; most predictions overflow", [None if x is None else float(x) for x in errors[0]]
        return [time, Measurement(name, *of_system, None, None, LikenessVerdict.different, note)]  # pyright: ignore[reportCallIssue]
    return [time, measured(name, *errors, side=1, note=note)]


def fixed_point_measurement(
    system: Runs, copy: Runs, num_candidates: int, tolerance: float
) -> tuple[Measurement | None, FixedPoints | None, FixedPoints | None, FixedPointMatch | None]:
    """The fixed points of both maps, matched by place and number of unstable directions."""
    found = [_fixed_points(runs, num_candidates) for runs in (system, copy)]
    ours, theirs = found
    if ours is None or theirs is None:
        return None, ours, theirs, None
    scale = system.observed.reshape(-1, system.observed.shape[2]).std(0)
    places = [
        runs.observe(points.points[None])[0] if len(points.points) else np.zeros((0, len(scale)))
        for runs, points in ((system, ours), (copy, theirs))
    ]
    match = match_fixed_points(
        places[0] / scale, places[1] / scale, ours.num_unstable, theirs.num_unstable, group="none"
    )
    distance = match.largest_distance
    # Complete without a distance: neither has any.
    near = match.complete and (distance is None or distance <= tolerance)
    if not match.complete:
        verdict = LikenessVerdict.different
    else:
        verdict = LikenessVerdict.identical if near else LikenessVerdict.undecided
    note = f"{len(match.pairs)} matched"
    if distance is not None:
        note += f", up to {distance:.2g} standard deviations apart"
    row = Measurement("fixed points", float(len(ours)), None, float(len(theirs)), None, verdict, note)
    return row, ours, theirs, match


def _fixed_points(runs: Runs, num_candidates: int) -> FixedPoints | None:
    if runs.map is None or runs.states is None:
        return None
    states = runs.states.reshape(-1, runs.states.shape[-1])
    states = states[np.isfinite(states).all(1)]
    if len(states) == 0:
        return None
    candidates = np.asarray(sample_candidates(states, num_candidates, key=jax.random.key(0)))
    return find_fixed_points(runs.map, candidates, progress=False)
