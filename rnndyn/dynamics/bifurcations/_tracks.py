"""Tracks through training while they are followed, from one checkpoint to the next."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn.dynamics.bifurcations.bifurcations import BRANCH_POINT, FLIP, FOLD
from rnndyn.dynamics.bifurcations.continuation import Branch, continue_cycles, continue_fixed_points
from rnndyn.dynamics.bifurcations.training_history import Track, TrainingEvent
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict, TrackVerdict
from rnndyn.dynamics.cycles.cycles import find_cycles
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.interpolation import InterpolatedMap
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.results import is_verdict, stack_verdicts

BIRTH, DEATH = "birth", "death"


@dataclasses.dataclass
class _Growing:
    """A track while it is followed."""

    first: int
    begin: Any
    points: list[np.ndarray]
    multipliers: list[np.ndarray]
    residuals: list[float]
    end: Any = None
    reason: str = ""

    def result(self) -> Track:
        return Track(
            self.first,
            np.stack(self.points),
            np.stack(self.multipliers),
            np.array(self.residuals),
            stack_verdicts([self.begin, TrackVerdict.last_checkpoint if self.end is None else self.end]),
            self.reason,
        )


class Tracker:
    """The tracks and events so far."""

    def __init__(self, times: np.ndarray, max_points: int):
        self.times, self.max_points = times, max_points
        self.tracks: list[_Growing] = []
        self.events: list[TrainingEvent] = []

    def add(self, found: "Found", checkpoint: int, begin: Any) -> int:
        """A new track; its number."""
        self.tracks.append(_Growing(checkpoint, begin, [found.points], [found.multipliers], [found.residual]))
        return len(self.tracks) - 1

    def advance(self, segment: InterpolatedMap, k: int) -> None:
        """Continue every live track from checkpoint k to k + 1."""
        for number, track in enumerate(self.tracks):
            if track.end is not None or track.first + len(track.points) - 1 != k:
                continue
            branch = self._branch(segment, track.points[-1], 0.0)
            arrived = Found.at(branch, -1)
            if branch.parameters[-1] == 1.0:
                same = self._find(arrived.points, k + 1)
                if same is None:
                    track.points.append(arrived.points)
                    track.multipliers.append(arrived.multipliers)
                    track.residuals.append(arrived.residual)
                else:
                    # Two branches cannot end at one regular point: one of the searches gave one object twice.
                    track.end, track.reason = TrackVerdict.lost, f"arrived at {same}"
                self._record(branch, k, (number,))
            elif branch.parameters[-1] == 0.0:
                partner = self._find(arrived.points, k)
                pair = (number,) if partner is None else (number, partner)
                track.end = TrackVerdict.death
                self._record(branch, k, pair, DEATH)
            else:
                if is_verdict(branch.result, BranchVerdict.period_divided)[1]:
                    track.end = TrackVerdict.flip
                else:
                    track.end, track.reason = TrackVerdict.lost, str(branch.message[1])
                self._record(branch, k, (number,))

    def match(self, segment: InterpolatedMap, k: int, found: "list[Found]") -> None:
        """Start tracks at checkpoint k + 1 for what was found there and reached by no track."""
        for item in found:
            if self._find(item.points, k + 1) is not None:
                continue
            branch = self._branch(segment, item.points, 1.0)
            # Followed towards smaller s: that end is the first of the branch.
            arrived = Found.at(branch, 0)
            number = self.add(item, k + 1, TrackVerdict.birth)
            if branch.parameters[0] == 1.0:
                partner = self._find(arrived.points, k + 1)
                if partner is None:
                    partner = self.add(arrived, k + 1, TrackVerdict.birth)
                self._record(branch, k, (number, partner), BIRTH)
            else:
                flips = is_verdict(branch.result, BranchVerdict.period_divided)[0]
                self.tracks[number].begin = TrackVerdict.flip if flips else TrackVerdict.found_late
                self._record(branch, k, (number,))

    def _branch(self, segment: InterpolatedMap, points: np.ndarray, s: float) -> Branch:
        if len(points) == 1:
            return continue_fixed_points(segment, points[0], s, (0.0, 1.0), max_points=self.max_points)
        return continue_cycles(segment, points, s, (0.0, 1.0), max_points=self.max_points)

    def _find(self, points: np.ndarray, checkpoint: int) -> int | None:
        """The track that passes through `points` at a checkpoint."""
        for number, track in enumerate(self.tracks):
            row = checkpoint - track.first
            if 0 <= row < len(track.points) and _same_cycle(track.points[row], points):
                return number
        return None

    def _record(self, branch: Branch, k: int, tracks: tuple[int, ...], fold_kind: str = FOLD) -> None:
        """Add the events of a branch between checkpoints k and k + 1 that are not known yet."""
        folds = branch.of_kind(FOLD)
        # Where a pair dies, its branch turns once more in one direction than in the other.
        outermost = None
        if fold_kind != FOLD and folds:
            outermost = max(folds, key=lambda e: e.parameter if fold_kind == DEATH else -e.parameter)
        for event in branch.bifurcations:
            kind = fold_kind if event is outermost else event.kind
            points = event.points
            shorter = smallest_period(points, 1e-6 * (1 + np.max(np.abs(points))))
            if kind == BRANCH_POINT and shorter < len(points):
                # A doubled cycle shrinks onto the cycle that it doubles, which flips there.
                kind, points = FLIP, points[:shorter]
            step = float((1 - event.parameter) * self.times[k] + event.parameter * self.times[k + 1])
            known = [
                j
                for j, other in enumerate(self.events)
                if other.checkpoint == k
                and abs(other.bifurcation.parameter - event.parameter) < 1e-8  # events are located to 1e-10
                and _same_cycle(other.bifurcation.points[: len(points)], points)
            ]
            if known:
                other = self.events[known[0]]
                both = tuple(sorted({*other.tracks, *tracks}))
                self.events[known[0]] = TrainingEvent(other.step, k, other.kind, both, other.bifurcation)
            else:
                self.events.append(TrainingEvent(step, k, kind, tuple(sorted(tracks)), event))


@dataclasses.dataclass(frozen=True)
class Found:
    """A fixed point or cycle at one checkpoint."""

    points: np.ndarray
    multipliers: np.ndarray
    residual: float

    @staticmethod
    def at(branch: Branch, row: int) -> "Found":
        points = branch.points[row].reshape(branch.period, branch.points.shape[-1])
        return Found(points, branch.multipliers[row], float(branch.residuals[row]))


def search_at(f: Callable[[Array], Array], candidates: ArrayLike, period: int) -> list[Found]:
    """All fixed points, or cycles of one period, that a search finds."""
    with warnings.catch_warnings():
        # That points may be missing shows in the history: they are found at a later checkpoint or not.
        warnings.simplefilter("ignore")
        if period == 1:
            result = find_fixed_points(f, candidates, progress=False)
            points = result.points[:, None]
        else:
            result = find_cycles(f, candidates, period, progress=False)[period]
            points = result.points
    return [Found(p, m, float(r)) for p, m, r in zip(points, result.multipliers, result.residuals, strict=True)]


def _same_cycle(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two cycles agree up to a cyclic shift. Both are polished; 1e-6 leaves room for ill-conditioned ones."""
    if a.shape != b.shape:
        return False
    tolerance = 1e-6 * (1 + np.max(np.abs(a)))
    return any(np.max(np.abs(np.roll(a, k, axis=0) - b)) < tolerance for k in range(len(a)))
