"""The fixed points and cycles of a network over its training, and the bifurcations between checkpoints."""

import numpy as np
from jaxtyping import Bool, Complex, Float

from rnndyn.dynamics.bifurcations.bifurcations import Bifurcation
from rnndyn.dynamics.bifurcations.verdicts import TrackVerdict
from rnndyn.results import Judged, Result


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
