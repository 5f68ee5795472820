"""Where points must be missing: paths of the homotopy from constant maps, and what became of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rnndyn.dynamics.fixed_points._pieces import Follow
from rnndyn.dynamics.fixed_points._search import FixedPointSearch
from rnndyn.dynamics.fixed_points._work import Work
from rnndyn.dynamics.fixed_points.verdicts import PathVerdict
from rnndyn.results import Judged, is_verdict, join_verdicts, stack_verdicts

MOST_STEPS = 1000
"""Steps along one path. Those of chaotic GRU networks took 15 to 235; a longer one is better begun elsewhere."""

PATHS_FOR_ONE = 8
"""Paths where nothing was found: almost every one arrives, and one has to."""

PATHS_FOR_MORE = 4
"""Paths where the index sum says that points are missing: each ends at one, though maybe at one that is known."""


MOST_PAIRS, MOST_STEPS_DOWN, STEPS_IN_ALL = 64, 400, 1000
"""Paths down from fixed points, steps along one, and steps of all. For 1000 random tanh units with five fixed points,
of which 64 candidates had met two, three of 20 to 50 steps met the others."""

MOST_UNITS = 1024
"""Where the states are longer the Jacobians along a path are dear."""

OFF_CENTRE = 0.1
"""In units of half the box. From near its middle the paths are the shortest: from the corners of a box of 1000 units
one took over 400 steps. At the middle itself those of an odd map would meet at bifurcations."""

MOST_MAPS = 3
"""Constant maps that are tried, while each leads to points that no other led to."""


class HomotopyPaths(Judged):
    """Paths of solutions of $x = (1 - s)\\,a + s\\,F(x)$, from a at s = 0, or from a fixed point at s = 1 down, to a
    fixed point at s = 1.

    - `starts`: the states a, `(P, N)`.
    - `num_steps`: steps along each path, one factorisation each, `(P,)`.
    - `lengths`: arclength of each, in s and the root mean square of the states in units of their scale, `(P,)`.
    - `num_new`: how many points it met that were not known, `(P,)`.
    - `result`: how each ended, a batch `(P,)` of `PathVerdict`.
    """

    starts: Float[np.ndarray, "P N"]
    num_steps: Int[np.ndarray, " P"]
    lengths: Float[np.ndarray, " P"]
    num_new: Int[np.ndarray, " P"]
    result: Any

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def arrived(self) -> Bool[np.ndarray, " P"]:
        """Which of them reached a fixed point."""
        return is_verdict(self.result, PathVerdict.arrived)

    def join(self, other: "HomotopyPaths | None") -> "HomotopyPaths":
        """These paths, and those of `other`."""
        if other is None:
            return self
        names = ("starts", "num_steps", "lengths", "num_new")
        columns: Any = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return HomotopyPaths(**columns, result=join_verdicts([self.result, other.result]))

    def table(self) -> str:
        late = int(np.sum(is_verdict(self.result, PathVerdict.out_of_steps)))
        return (
            f"{len(self)} paths from constant maps (homotopy): {int(self.arrived.sum())} arrived, "
            f"{int(self.num_new.sum())} new points on them; {int(self.num_steps.sum())} steps"
            + (f"; {late} ran out of steps" if late else "")
        )


def follow_paths(
    search: FixedPointSearch, starts: Float[np.ndarray, "P N"], enough: Callable[[], Work[bool]]
) -> Work[HomotopyPaths]:
    """Follow the paths from `starts` until `enough()` holds; what they meet is added to the roots of the search."""
    log = _Log(search, MOST_STEPS * len(starts))
    for start in starts:
        yield from log.follow(start, MOST_STEPS)
        if (yield from enough()):
            break
    return log.paths()


def follow_pairs(search: FixedPointSearch, rng: np.random.Generator) -> Work[HomotopyPaths | None]:
    r"""Follow the homotopy down from the fixed points found, to those at the other ends of its curves.

    Where F maps a box into itself, the solutions of $x = (1 - s)\,a + s\,F(x)$ with s from 0 to 1 are, for almost every
    a, smooth curves in the box: one from a to a fixed point of index 1, and others from fixed point to fixed point, of
    opposite index. So each but one has a partner, which a path finds however small its basin is for Newton's method.

    Reference: J. Milnor (1965), *Topology from the Differentiable Viewpoint* (why the indices sum to 1).
    """
    region = search.region
    too_long = search.candidates.shape[1] > MOST_UNITS
    if too_long or region is None or search.period is not None or search.num_found < 2 or not np.isfinite(region).all():
        return None
    log = _Log(search, STEPS_IN_ALL)
    for _ in range(MOST_MAPS):
        num_before = search.num_found
        middle, half = region.mean(axis=0), np.ptp(region, axis=0) / 2
        start = middle + OFF_CENTRE * half * rng.uniform(-1, 1, len(half))
        ends = yield from log.follow(start, MOST_STEPS_DOWN)
        while log.steps_left > 0 and len(log.rows) < MOST_PAIRS:
            distances = np.max(np.abs(search.roots.points[:, None] - ends), axis=2)
            left = np.flatnonzero(np.min(distances, axis=1, initial=np.inf) > 1e-6 * search.scale)
            if not left.size:
                break
            root = search.roots.points[left[0]]
            reached = yield from log.follow(start, MOST_STEPS_DOWN, root=root)
            ends = np.concatenate([ends, root[None], reached])
        if search.num_found == num_before:
            break
    return log.paths()


class _Log:
    """Paths that are followed, and what became of them; what they meet is added to the roots of the search."""

    def __init__(self, search: FixedPointSearch, most_steps: int):
        self.search, self.steps_left = search, most_steps
        self.starts, self.rows, self.verdicts = [], [], []

    def follow(self, start: np.ndarray, max_steps: int, root: np.ndarray | None = None) -> Work[np.ndarray]:
        """The fixed point where one path led, (1, N), or none."""
        search = self.search
        most = min(max_steps, self.steps_left)
        path = yield Follow(search.f, start, search.scale, most, root)
        num_before = search.num_found
        reached = yield from search.add_ends(path.points)
        # Where a kink or a jump lies the crossing may be none.
        verdict = PathVerdict.lost if len(path.points) else path.verdict
        self.verdicts.append(PathVerdict.arrived if len(reached) else verdict)
        self.rows.append((path.num_steps, path.length, search.num_found - num_before))
        self.starts.append(start)
        self.steps_left -= path.num_steps
        return reached

    def paths(self) -> HomotopyPaths:
        """All of them."""
        steps, lengths, new = zip(*self.rows)
        return HomotopyPaths(
            np.stack(self.starts), np.array(steps), np.array(lengths), np.array(new), stack_verdicts(self.verdicts)
        )


def path_starts(search: FixedPointSearch, rng: np.random.Generator, number: int) -> np.ndarray:
    """Where to begin, `(number, N)`: the middle of the region, then candidates inside, then random states."""
    candidates, region = search.candidates, search.region
    if region is None or not np.isfinite(region).all():
        return candidates[rng.permutation(len(candidates))[:number]]
    lower, upper = region
    inside = candidates[np.all((candidates >= lower) & (candidates <= upper), axis=1)]
    chosen = inside[rng.permutation(len(inside))[: number - 1]]
    missing = number - 1 - len(chosen)
    return np.concatenate([[(lower + upper) / 2], chosen, rng.uniform(lower, upper, (missing, lower.size))])
