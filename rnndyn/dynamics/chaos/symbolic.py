"""The symbolic dynamics of a graph of covering relations: which paths differ, how many there are, how they grow."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

_SLACK = 1e-12
"""Above the rounding of a logarithm, and of the sums of a few whole numbers times numbers of order one."""


def tells_paths_apart(edges: Int[np.ndarray, "E 2"], overlap: Bool[np.ndarray, "M M"]) -> bool:
    """Whether any two paths from one vertex that part visit disjoint sets at one time, a bounded number of steps on.

    Two paths that part are followed as a pair of vertices. While the sets of a pair may overlap nothing tells them
    apart; so no pair may come back to itself or to one vertex through pairs that may overlap.
    """
    after: list[list[int]] = [[] for _ in range(len(overlap))]
    for i, j in edges:
        after[i].append(int(j))
    state: dict[tuple[int, int], bool] = {}

    def parts(pair: tuple[int, int]) -> bool:
        """Whether all that follows on a pair of different vertices is told apart; a pair still open is a circle."""
        if not overlap[pair]:
            return True
        if pair in state:
            return state[pair]
        state[pair] = False
        good = all(i != j and parts((i, j)) for i in after[pair[0]] for j in after[pair[1]])
        state[pair] = good
        return good

    return all(parts((i, j)) for following in after for i in following for j in following if i < j)


def entropy_bound(edges: Int[np.ndarray, "E 2"], num_sets: int) -> float:
    """A lower bound of the log of the spectral radius of the graph: min (A v)_i / v_i, for a v >= 0 (Collatz 1942)."""
    matrix = np.zeros((num_sets, num_sets))
    for i, j in edges:
        matrix[i, j] += 1
    values, vectors = np.linalg.eig(matrix)
    best = np.abs(vectors[:, np.argmax(np.real(values))])
    best = np.where(best > 1e-9 * best.max(), best, 0.0)
    used = best > 0
    least = np.min((matrix @ best)[used] / best[used])
    return float(np.log(least) - _SLACK) if least > 0 else -np.inf


def least_cycle_mean(edges: Int[np.ndarray, "E 2"], weights: Sequence[float], num_sets: int) -> float:
    """The smallest mean weight of a cycle of the graph.

    Karp (1978), *A characterization of the minimum cycle mean in a digraph*.
    """
    steps: Float[np.ndarray, "M1 M"] = np.full((num_sets + 1, num_sets), np.inf)
    steps[0] = 0.0
    for k in range(num_sets):
        for (i, j), weight in zip(edges, weights):
            steps[k + 1, j] = min(steps[k + 1, j], steps[k, i] + weight)
    lengths = (num_sets - np.arange(num_sets))[:, None]
    with np.errstate(invalid="ignore"):
        means = (steps[-1] - steps[:-1]) / lengths
    ends = np.isfinite(steps[-1])
    return float(np.max(means[:, ends], axis=0).min() - _SLACK * (1 + np.abs(weights).max())) if ends.any() else np.inf
