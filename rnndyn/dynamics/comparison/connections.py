"""Which fixed points orbits lead to from the unstable directions of others."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._runs import iterate_from
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.results import Result


def find_connections(
    f: Callable[[Array], Array],
    points: FixedPoints,
    *,
    num_map_steps: int = 1000,
    num_directions: int = 16,
    offset: float = 1e-4,
    seed: int = 0,
) -> "Connections":
    r"""Where orbits go that leave a fixed point along its unstable directions.

    From $x^* + \epsilon v$, for random unit vectors v of the unstable subspace of $DF(x^*)$ and their opposites, the
    map is iterated; an orbit that ends on a stable fixed point is a connection from $x^*$ to it.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `points`: its fixed points, as `find_fixed_points` gives them.
    - `num_map_steps`: how many steps each orbit takes.
    - `num_directions`: how many v from each point, half of them the opposites of the others.
    - `offset`: $\epsilon$ as a fraction of the spread of the points (of one for a single point).
    - `seed`: of the random vectors.

    **Returns:** a `Connections`: what was seen, which is no proof that there are no others.

    **Raises:** `ValueError` for no points, or options out of range.

    Connections from saddle to saddle are not looked for: no orbit that is iterated stays on one.
    """
    check_at_least("num_map_steps", num_map_steps, 1)
    check_at_least("num_directions", num_directions, 2)
    if len(points) == 0:
        raise ValueError("points: expected at least one fixed point.")
    if not offset > 0:
        raise ValueError(f"offset: expected a positive fraction, got {offset}.")
    size = np.max(np.ptp(points.points, axis=0)) if len(points) > 1 else 1.0
    rng = np.random.default_rng(seed)
    origins, starts = [], []
    for index, (point, jacobian, count) in enumerate(zip(points.points, points.jacobians, points.num_unstable)):
        if count == 0:
            continue
        values, vectors = np.linalg.eig(jacobian)
        unstable = vectors[:, np.argsort(-np.abs(values))[:count]]
        # Real and imaginary parts span the subspace of complex pairs.
        basis = np.linalg.svd(np.concatenate([np.real(unstable), np.imag(unstable)], axis=1))[0][:, :count]
        v = rng.standard_normal((num_directions // 2, count)) @ basis.T
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        starts.append(point + offset * size * np.concatenate([v, -v]))
        origins.append(np.full(2 * len(v), index))
    matrix = np.zeros((len(points), len(points)), bool)
    if not starts:
        return Connections(matrix, 0, 0)
    with double_precision():
        program = let_in(f, points.points[0])
        ends = np.asarray(iterate_from(program, np.concatenate(starts), 1, num_map_steps - 1))[:, -1]
    stable = np.flatnonzero(points.is_stable)
    distances = np.linalg.norm(ends[:, None] - points.points[stable], axis=-1)
    # The offset itself is the scale below which two states are one.
    arrived = distances <= offset * size if stable.size else np.zeros((len(ends), 0), bool)
    origin = np.concatenate(origins)
    for k, index in enumerate(stable):
        matrix[origin[arrived[:, k]], index] = True
    return Connections(matrix, len(ends), int(np.sum(~arrived.any(1))))


class Connections(Result):
    """Which fixed points orbits lead to from others.

    - `matrix`: whether an orbit goes from point k to point l, (K, K).
    - `num_orbits`: how many orbits were followed.
    - `num_elsewhere`: how many of them ended on no stable fixed point of the list: on a cycle, or not yet.
    """

    matrix: Bool[np.ndarray, "K K"]
    num_orbits: int
    num_elsewhere: int

    def table(self) -> str:
        return (
            f"{int(self.matrix.sum())} connections between {len(self.matrix)} fixed points, from {self.num_orbits} "
            f"orbits; {self.num_elsewhere} ended elsewhere"
        )
