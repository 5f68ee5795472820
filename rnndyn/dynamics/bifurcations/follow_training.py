"""What training does to the fixed points and cycles of a network: births, deaths, and exchanges of stability."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float
from tqdm.auto import tqdm

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.bifurcations.bifurcations import BRANCH_POINT, FLIP, FOLD, Bifurcation
from rnndyn.dynamics.bifurcations.continuation import Branch, continue_cycles, continue_fixed_points
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict, TrackVerdict
from rnndyn.dynamics.cycles.cycles import find_cycles
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.interpolation import InterpolatedMap, interpolate_maps
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.results import Judged, Result, is_verdict, stack_verdicts

BIRTH, DEATH = "birth", "death"


def follow_training(
    maps: Sequence[Callable[[Array], Array]],
    candidates: ArrayLike,
    steps: Sequence[float | int] | ArrayLike | None = None,
    *,
    periods: Sequence[int] = (1,),
    search: bool = True,
    max_points: int = 2000,
    progress: bool = True,
) -> "FixedPointHistory":
    r"""Follow the fixed points and cycles of a network from checkpoint to checkpoint of its training.

    Between checkpoints k and k + 1 the weights are interpolated, $(1 - s)\,w_k + s\,w_{k+1}$, and every fixed point and
    cycle is continued in s. Its branch either reaches s = 1, where it is the same object at the next checkpoint, or
    turns at a fold and comes back to s = 0 as another one: both die there. Objects that a search at checkpoint k + 1
    finds, and no branch has reached, are continued back to their birth.

    **Arguments:**

    - `maps`: one map `(N,) -> (N,)` per checkpoint, all of one structure, such as `as_map(cell, input)` of each cell.
    - `candidates`: where the search starts at every checkpoint, shape `(K, N)`; see `sample_candidates`.
    - `steps`: the training step of each checkpoint, increasing; 0, 1, 2, ... when not given.
    - `periods`: which periods to follow; 1 for fixed points.
    - `search`: whether to search at every checkpoint. Without, only the first one is searched, and births are not seen.
    - `max_points`: the most points of one branch between two checkpoints.
    - `progress`: show a bar over the checkpoints when it takes longer than two seconds.

    **Returns:** a `FixedPointHistory`. The step of an event is interpolated, $(1 - s)\,t_k + s\,t_{k+1}$: the path of
    the weights between two checkpoints is not known, so an event is sure to lie between them only if it is generic, and
    more checkpoints tell its step more exactly.

    **Raises:** `ValueError` for fewer than two maps, maps of different structure, or steps that do not increase.
    """
    check_states("candidates", candidates)
    check_at_least("maps: their number", len(maps), 2)
    times = np.arange(len(maps), dtype=float) if steps is None else np.asarray(steps, float)
    if times.shape != (len(maps),) or not (np.diff(times) > 0).all():
        raise ValueError(f"steps: expected {len(maps)} increasing numbers, one per map, got {steps!r}.")
    if not periods or any(int(p) != p or p < 1 for p in periods):
        raise ValueError(f"periods: expected whole numbers from 1, got {periods!r}.")
    segments = [interpolate_maps(a, b) for a, b in itertools.pairwise(maps)]
    tracker = _Tracker(times, max_points)
    for period in periods:
        for points in _search(maps[0], candidates, period):
            tracker.add(points, 0, TrackVerdict.first_checkpoint)
    for k, segment in enumerate(tqdm(segments, desc="checkpoints", delay=2.0, leave=False, disable=not progress)):
        tracker.advance(segment, k)
        if search:
            for period in periods:
                tracker.match(segment, k, _search(maps[k + 1], candidates, period))
    return FixedPointHistory(
        steps=times,
        tracks=tuple(track.result() for track in tracker.tracks),
        events=tuple(sorted(tracker.events, key=lambda event: event.step)),
    )


class FixedPointHistory(Result):
    """The fixed points and cycles of a network at each of T checkpoints of its training, and what became of them.

    - `steps`: the training step of each checkpoint, as given, increasing, `(T,)`; 0, 1, 2, ... where none were given.
    - `tracks`: one `Track` for every fixed point or cycle, with the checkpoints at which it exists, in the order in
        which they were found; empty where the searches found nothing. One that could not be followed to the next
        checkpoint ends there: its `end` is `"lost"`, with the reason, and the object may come back as another track.
    - `events`: one `TrainingEvent` for every bifurcation met between two checkpoints, by `step`; empty where there was
        none. A bifurcation that was bracketed but not solved for is among them (see its `result`).
    """

    steps: Float[np.ndarray, " T"]
    tracks: "tuple[Track, ...]"
    events: "tuple[TrainingEvent, ...]"

    def at(self, checkpoint: int) -> "tuple[int, ...]":
        """The numbers of the tracks that exist at a checkpoint."""
        return tuple(k for k, track in enumerate(self.tracks) if track.first <= checkpoint <= track.last)

    def table(self) -> str:
        lines = [f"{len(self.tracks)} fixed points and cycles over {len(self.steps)} checkpoints"]
        lines += [f"  {k}: {track.table()}" for k, track in enumerate(self.tracks)]
        lines += ["  " + event.table() for event in self.events] or ["  no events"]
        return "\n".join(lines)


class Track(Judged):
    """One fixed point or cycle over the checkpoints `first` to `last`.

    - `points`: `(L, P, N)`, one row per checkpoint.
    - `multipliers`: by falling modulus, `(L, N)` complex.
    - `residuals`: $|F(x_i) - x_{i+1}|_\\infty$, `(L,)`.
    - `result`: why it begins and why it ends, a batch `(2,)` of `TrackVerdict`; `begin` and `end` have it in words.
    - `reason`: of a track that is lost, why its branch ended; empty otherwise.
    """

    first: int
    points: Float[np.ndarray, "L P N"]
    multipliers: Complex[np.ndarray, "L N"]
    residuals: Float[np.ndarray, " L"]
    result: TrackVerdict
    reason: str

    @property
    def begin(self) -> str:
        """`"first checkpoint"`, `"birth"` (at a fold), `"flip"` (a doubled cycle, at the flip of the cycle that it
        doubles) or `"found late"`."""
        return str(self.message[0])

    @property
    def end(self) -> str:
        """`"last checkpoint"`, `"death"` (at a fold), `"flip"`, or `"lost"` with the reason."""
        return str(self.message[1]) + (f" ({self.reason})" if self.reason else "")

    @property
    def last(self) -> int:
        """The last checkpoint at which it exists."""
        return self.first + len(self.points) - 1

    @property
    def period(self) -> int:
        """1 for a fixed point."""
        return self.points.shape[1]

    @property
    def is_stable(self) -> Bool[np.ndarray, " L"]:
        """At each checkpoint, whether all multipliers lie inside the unit circle."""
        return np.max(np.abs(self.multipliers), axis=1) < 1

    def table(self) -> str:
        what = "fixed point" if self.period == 1 else f"cycle of period {self.period}"
        return (
            f"{what}, checkpoints {self.first} ({self.begin}) to {self.last} ({self.end}), "
            f"stable at {int(self.is_stable.sum())} of {len(self.points)}"
        )


class TrainingEvent(Result):
    """A bifurcation met between two checkpoints.

    - `step`: interpolated between those of the checkpoints.
    - `checkpoint`: the checkpoint before it.
    - `kind`: `"birth"` or `"death"` of a pair (a fold), `"fold"` (of a pair that lives between two checkpoints only),
        or `"branch point"`, `"flip"`, `"neimark-sacker"`, `"border collision"`: an exchange of stability.
    - `tracks`: the numbers of the tracks concerned.
    - `bifurcation`: with its parameter s on the segment between the checkpoints.
    """

    step: float
    checkpoint: int
    kind: str
    tracks: tuple[int, ...]
    bifurcation: Bifurcation

    def table(self) -> str:
        tracks = ", ".join(map(str, self.tracks))
        return f"step {self.step:.8g}: {self.kind} of {tracks} ({self.bifurcation.table()})"


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


class _Tracker:
    """The tracks and events so far."""

    def __init__(self, times: np.ndarray, max_points: int):
        self.times, self.max_points = times, max_points
        self.tracks: list[_Growing] = []
        self.events: list[TrainingEvent] = []

    def add(self, found: "_Found", checkpoint: int, begin: Any) -> int:
        """A new track; its number."""
        self.tracks.append(_Growing(checkpoint, begin, [found.points], [found.multipliers], [found.residual]))
        return len(self.tracks) - 1

    def advance(self, segment: InterpolatedMap, k: int) -> None:
        """Continue every live track from checkpoint k to k + 1."""
        for number, track in enumerate(self.tracks):
            if track.end is not None or track.first + len(track.points) - 1 != k:
                continue
            branch = self._branch(segment, track.points[-1], 0.0)
            arrived = _Found.at(branch, -1)
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

    def match(self, segment: InterpolatedMap, k: int, found: "list[_Found]") -> None:
        """Start tracks at checkpoint k + 1 for what was found there and reached by no track."""
        for item in found:
            if self._find(item.points, k + 1) is not None:
                continue
            branch = self._branch(segment, item.points, 1.0)
            # Followed towards smaller s: that end is the first of the branch.
            arrived = _Found.at(branch, 0)
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
class _Found:
    """A fixed point or cycle at one checkpoint."""

    points: np.ndarray
    multipliers: np.ndarray
    residual: float

    @staticmethod
    def at(branch: Branch, row: int) -> "_Found":
        points = branch.points[row].reshape(branch.period, branch.points.shape[-1])
        return _Found(points, branch.multipliers[row], float(branch.residuals[row]))


def _search(f: Callable[[Array], Array], candidates: ArrayLike, period: int) -> list[_Found]:
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
    return [_Found(p, m, float(r)) for p, m, r in zip(points, result.multipliers, result.residuals, strict=True)]


def _same_cycle(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two cycles agree up to a cyclic shift. Both are polished; 1e-6 leaves room for ill-conditioned ones."""
    if a.shape != b.shape:
        return False
    tolerance = 1e-6 * (1 + np.max(np.abs(a)))
    return any(np.max(np.abs(np.roll(a, k, axis=0) - b)) < tolerance for k in range(len(a)))
