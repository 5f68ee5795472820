"""What training does to the fixed points and cycles of a network: births, deaths, and exchanges of stability."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, ArrayLike
from tqdm.auto import tqdm

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.bifurcations._tracks import Tracker, search_at
from rnndyn.dynamics.bifurcations.training_history import FixedPointHistory
from rnndyn.dynamics.bifurcations.verdicts import TrackVerdict
from rnndyn.dynamics.interpolation import interpolate_maps


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
    tracker = Tracker(times, max_points)
    for period in periods:
        for points in search_at(maps[0], candidates, period):
            tracker.add(points, 0, TrackVerdict.first_checkpoint)
    for k, segment in enumerate(tqdm(segments, desc="checkpoints", delay=2.0, leave=False, disable=not progress)):
        tracker.advance(segment, k)
        if search:
            for period in periods:
                tracker.match(segment, k, search_at(maps[k + 1], candidates, period))
    return FixedPointHistory(
        steps=times,
        tracks=tuple(track.result() for track in tracker.tracks),
        events=tuple(sorted(tracker.events, key=lambda event: event.step)),
    )
