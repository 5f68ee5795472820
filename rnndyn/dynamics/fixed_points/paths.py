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


PATHS_BEYOND, STEPS_BEYOND, POINTS_BEYOND = 3, 400, 16
"""Of paths that are followed on past s = 1 to meet further points. For 256 random tanh units with five fixed points
three paths of five met all of them."""


MOST_UNITS_BEYOND = 400
"""Longer states make a step along a path dearer than many candidates."""


class HomotopyPaths(Judged):
    """Paths of solutions of $x = (1 - s)\\,a + s\\,F(x)$, from a at s = 0 to a fixed point at s = 1.

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
        return (
            f"{len(self)} paths from constant maps (homotopy): {int(self.arrived.sum())} arrived, "
            f"{int(self.num_new.sum())} new points on them; {int(self.num_steps.sum())} steps"
        )


def follow_paths(
    search: FixedPointSearch,
    starts: Float[np.ndarray, "P N"],
    enough: Callable[[], Work[bool]],
    *,
    max_steps: int = MOST_STEPS,
    max_points: int = 1,
) -> Work[HomotopyPaths]:
    """Follow the paths from `starts` until `enough()` holds; what they meet is added to the roots of the search."""
    verdicts, rows = [], []
    for start in starts:
        path = yield Follow(search.f, start, search.scale, max_steps, max_points)
        num_before = search.num_found
        reached = yield from search.add_ends(path.points)
        # Where a kink or a jump lies the crossing may be none.
        verdicts.append(PathVerdict.arrived if reached else PathVerdict.lost if len(path.points) else path.verdict)
        rows.append((path.num_steps, path.length, search.num_found - num_before))
        if (yield from enough()):
            break
    steps, lengths, new = zip(*rows)
    return HomotopyPaths(
        starts[: len(rows)], np.array(steps), np.array(lengths), np.array(new), stack_verdicts(verdicts)
    )


def follow_beyond(search: FixedPointSearch, seed: int) -> Work[HomotopyPaths | None]:
    """Paths from candidates on past s = 1, where there are several points, until one meets no more of them."""
    size = search.candidates.shape[1]
    if search.region is None or search.period is not None or search.num_found < 2 or size > MOST_UNITS_BEYOND:
        return None
    starts = path_starts(search, np.random.default_rng([seed, 2]), PATHS_BEYOND + 1)[1:]
    counts = [search.num_found]

    def enough() -> Work[bool]:
        yield from ()
        counts.append(search.num_found)
        return counts[-1] == counts[-2] > counts[0]

    return (yield from follow_paths(search, starts, enough, max_steps=STEPS_BEYOND, max_points=POINTS_BEYOND))


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
