"""Starting sequences of a search for cycles: pieces of the orbits of its candidates."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array

from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import orbits_from
from rnndyn.dynamics.numerics.evidence import robust_scale
from rnndyn.dynamics.numerics.periodic_orbits import canonical
from rnndyn.dynamics.numerics.torus import difference


class Starts:
    """The orbits of the candidates, `length` steps of each: the transient, and enough for its close returns.

    `scale` is the size of the states and `pool` what the orbits visit after the transient.
    """

    def __init__(
        self,
        f: Callable[[Array], Array],
        candidates: np.ndarray,
        angles: np.ndarray | None,
        *,
        length: int,
        progress: bool,
    ):
        size = candidates.shape[1]
        self.candidates = candidates
        self.angles = angles
        orbits = map_in_chunks(
            lambda x: orbits_from(f, x, length),
            candidates,
            bytes_per_item=16 * length * size,
            description="orbits",
            progress=progress,
        )
        self.orbits = np.concatenate([candidates[:, None], orbits], axis=1)
        # Maps without a bounded region send some candidates to infinity: what is far outside of the rest is no start.
        self.scale = robust_scale(self.orbits[:, :2])
        bounded = np.all(np.abs(self.orbits) <= 1e3 * self.scale, axis=2)
        self.num_bounded = np.where(bounded.all(axis=1), length + 1, np.argmin(bounded, axis=1))
        settled = bounded.all(axis=1)
        self.pool = self.orbits[settled, 32:].reshape(-1, size) if settled.any() else candidates

    def segments(self, period: int) -> np.ndarray:
        """Trajectory segments of the candidates: the first, and the one that comes closest to closing."""
        settled = np.flatnonzero(self.num_bounded == self.orbits.shape[1])
        orbits = self.orbits[settled]
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.max(np.abs(difference(orbits[:, period:], orbits[:, :-period], self.angles)), axis=2)
        best = np.argmin(gaps, axis=1)
        returns = orbits[np.arange(len(orbits))[:, None], best[:, None] + np.arange(period)]
        # Candidates whose orbits settle on one attractor close up at the same place: its repeats are not run.
        _, distinct = np.unique(
            np.round(canonical(returns, self.angles) / (1e-3 * self.scale)), axis=0, return_index=True
        )
        return np.concatenate([self.heads(period), returns[distinct]])

    def heads(self, period: int) -> np.ndarray:
        """The first segment of every trajectory; a candidate that leaves at once stays where it is."""
        heads = self.orbits[self.num_bounded >= period, :period]
        return heads if len(heads) else np.repeat(self.candidates[:, None], period, axis=1)
