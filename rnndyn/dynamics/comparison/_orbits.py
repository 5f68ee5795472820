"""Return maps and cycles of a copy beside those of its system."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from rnndyn.dynamics.candidates import sample_candidates
from rnndyn.dynamics.comparison._measurements import Measurement, measured
from rnndyn.dynamics.comparison._runs import Runs
from rnndyn.dynamics.comparison.return_map import return_map
from rnndyn.dynamics.comparison.verdicts import LikenessVerdict
from rnndyn.dynamics.cycles.cycles import find_cycles

LEAST_MAXIMA = 20
"""Of a segment: with fewer, the next maximum is not looked up nearby but far away."""

LEAST_GAP = 4.0
"""Samples from a maximum to the next one, in the median: below, a maximum is not resolved, as in a map."""


def return_measurement(system: np.ndarray, copy: np.ndarray) -> Measurement | None:
    """How far successive maxima of segments (R, L, n) miss the return map of other segments; `None` for a map."""
    ours = [_maxima(segment) for segment in system]
    theirs = [_maxima(segment) for segment in copy]
    channels = [c for c in range(system.shape[2]) if all(found[c] is not None for found in ours)]
    if not channels:
        return None
    if any(found[c] is None for found in theirs for c in channels):
        note = "the copy has too few maxima, or none that are resolved"
        return Measurement("return map", None, None, None, None, LikenessVerdict.not_measured, note)

    def misses(x: list[Any], y: list[Any]) -> float:
        return float(np.mean([_miss(x[c], y[c]) for c in channels]))

    null = [misses(x, y) for i, x in enumerate(ours) for j, y in enumerate(ours) if i != j]
    cross = [misses(x, y) for x in ours for y in theirs]
    note = f"misses of the next maximum, in standard deviations of the maxima; channels {channels}"
    pairs = [(np.mean(values), np.std(values, ddof=1)) for values in (null, cross)]
    return measured("return map", *pairs, side=1, note=note)


def _maxima(segment: np.ndarray) -> list[np.ndarray | None]:
    """Pairs of successive maxima of each channel, where there are enough of them."""
    found: list[np.ndarray | None] = []
    for signal in segment.T:
        inner = (signal[1:-1] > signal[:-2]) & (signal[1:-1] >= signal[2:])
        at = np.flatnonzero(inner)
        resolved = np.isfinite(signal).all() and len(at) > LEAST_MAXIMA and np.median(np.diff(at)) >= LEAST_GAP
        found.append(return_map(signal).pairs if resolved else None)
    return found


def _miss(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square distance of the next maximum in y from that in x after the maximum nearest to it."""
    order = np.argsort(x[:, 0], kind="stable")
    ranked = x[order, 0]
    above = np.clip(np.searchsorted(ranked, y[:, 0]), 1, len(x) - 1)
    is_below = y[:, 0] - ranked[above - 1] <= ranked[above] - y[:, 0]
    nearest = order[np.where(is_below, above - 1, above)]
    return float(np.sqrt(np.mean((y[:, 1] - x[nearest, 1]) ** 2)) / x[:, 0].std())


def cycle_measurements(
    system: Runs, copy: Runs, periods: Sequence[int], num_candidates: int, tolerance: float
) -> list[Measurement]:
    """The cycles of both maps, a row for each period: matched by place and number of unstable directions."""
    if not periods:
        return []
    found = []
    for runs in (system, copy):
        states = None if runs.states is None else runs.states.reshape(-1, runs.states.shape[-1])
        states = None if states is None else states[np.isfinite(states).all(axis=1)]
        if runs.map is None or states is None or len(states) == 0:
            note = "cycles are those of maps whose runs stay finite"
            verdict = LikenessVerdict.not_measured
            return [Measurement(f"cycles of period {p}", None, None, None, None, verdict, note) for p in periods]
        candidates = np.asarray(sample_candidates(states, num_candidates, key=jax.random.key(0)))
        found.append(find_cycles(runs.map, candidates, tuple(periods), progress=False))
    scale = system.observed.reshape(-1, system.observed.shape[2]).std(0)
    rows = []
    for period in periods:
        ours, theirs = (cycles[period] for cycles in found)
        places = [
            runs.observe(np.asarray(cycles.points)) / scale if len(cycles.points) else np.zeros((0, period, len(scale)))
            for runs, cycles in ((system, ours), (copy, theirs))
        ]
        kinds = [np.asarray(cycles.num_unstable) for cycles in (ours, theirs)]
        distances = _matched(places, kinds)
        complete = len(distances) == len(places[0]) == len(places[1])
        near = complete and bool(np.all(distances <= tolerance))
        verdict = LikenessVerdict.different
        if complete:
            verdict = LikenessVerdict.identical if near else LikenessVerdict.undecided
        note = f"{len(distances)} matched"
        if len(distances):
            note += f", up to {distances.max():.2g} standard deviations apart"
        counts = [float(len(place)) for place in places]
        rows.append(Measurement(f"cycles of period {period}", counts[0], None, counts[1], None, verdict, note))
    return rows


def _matched(places: list[np.ndarray], kinds: list[np.ndarray]) -> np.ndarray:
    """Distances of the cycles (K, p, n) that belong together: the largest of a pair's points, at the best shift."""
    first, second = places
    if not (len(first) and len(second)):
        return np.zeros(0)
    shifts = [np.roll(second, shift, axis=1) for shift in range(second.shape[1])]
    apart = [np.linalg.norm(first[:, None] - moved[None], axis=-1).max(axis=-1) for moved in shifts]
    distance = np.min(apart, axis=0)
    forbidden = kinds[0][:, None] != kinds[1][None, :]
    pairs = linear_sum_assignment(np.where(forbidden, 1e6 * (1 + distance.max()), distance))
    kept = ~forbidden[pairs]
    return distance[pairs][kept]
