"""Which set a state belongs to: the leaves of one tree of hyperplanes for each state of the automaton."""

import numpy as np
from jaxtyping import Float, Int

NOWHERE = -1


class Partition:
    """Leaves are sets; at a branch the side of a hyperplane decides. The automaton's states are the first nodes."""

    def __init__(self, num_states: int, num_units: int) -> None:
        self._children = np.full((num_states, 2), -1)
        self._normal = np.zeros((num_states, num_units))
        self._threshold = np.zeros(num_states)
        self._leaf = np.full(num_states, NOWHERE)

    def place(self, node: int, which: int) -> None:
        """Let a leaf be the set `which`."""
        self._leaf[node] = which

    def cut(self, node: int, normal: Float[np.ndarray, " N"], threshold: float) -> tuple[int, int]:
        """Make a leaf a branch; the nodes below and above the threshold."""
        below = len(self._leaf)
        self._children[node] = below, below + 1
        self._normal[node], self._threshold[node] = normal, threshold
        self._leaf[node] = NOWHERE
        self._children = np.concatenate([self._children, np.full((2, 2), -1)])
        self._normal = np.concatenate([self._normal, np.zeros((2, len(normal)))])
        self._threshold = np.append(self._threshold, [0.0, 0.0])
        self._leaf = np.append(self._leaf, [NOWHERE, NOWHERE])
        return below, below + 1

    def find(
        self, states: Int[np.ndarray, " B"], points: Float[np.ndarray, "B N"]
    ) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """The sets and leaves of B points, by the automaton's states; `NOWHERE` where a leaf has no set."""
        node = states.copy()
        while True:
            rows = np.flatnonzero(self._children[node, 0] >= 0)
            if not len(rows):
                return self._leaf[node], node
            at = node[rows]
            above = np.einsum("bn,bn->b", self._normal[at], points[rows]) > self._threshold[at]
            node[rows] = self._children[at, above.astype(int)]


def best_cut(points: Float[np.ndarray, "M N"]) -> tuple[Float[np.ndarray, " N"], float] | None:
    """A hyperplane across the first principal axis that leaves the least variance; `None` for points that coincide.

    Between separate clusters it lies in the gap. Fisher (1958), *On grouping for maximum homogeneity*.
    """
    if len(points) < 2:
        return None
    centered = points - points.mean(axis=0)
    normal = np.linalg.eigh(centered.T @ centered)[1][:, -1]
    along = np.sort(points @ normal)
    if not along[-1] > along[0] + 1e-12 * max(1.0, abs(along[0])):
        return None
    counts = np.arange(1, len(along))
    sums = np.cumsum(along)
    # The variance between two groups; where neighbours coincide there is nothing to cut.
    between = (
        (sums[:-1] / counts - (sums[-1] - sums[:-1]) / (len(along) - counts)) ** 2 * counts * (len(along) - counts)
    )
    between = np.where(np.diff(along) > 0, between, -1.0)
    at = int(np.argmax(between))
    return normal, float(0.5 * along[at] + 0.5 * along[at + 1])
