"""Telling points apart: which of many computed points are one and the same."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from rnndyn.dynamics.numerics.evidence import robust_spread

MERGE_FRACTION = 1e-9
"""Two points closer than this fraction of the spread of all are one: far below any distance seen between distinct fixed
points of a network, and far above the rounding floor."""


def group_points(
    points: Float[np.ndarray, "K N"],
    errors: Float[np.ndarray, " K"],
    *,
    rtol: float = MERGE_FRACTION,
) -> Int[np.ndarray, " K"]:
    """Label points so that two of them share a label when their difference is explained by their errors.

    **Arguments:**

    - `points`: the points.
    - `errors`: how far each may lie from what it approximates, in the largest component.
    - `rtol`: two points closer than this fraction of the spread of the points are one. 1e-9 is far below any
        distance seen between distinct fixed points of a network, and far above the rounding floor. The spread is that
        of the half of the points in the middle, or the point's own distance from there: one point far out joins no
        others.

    **Returns:** labels 0, 1, ..., in the order of first appearance.

    Only ratios of lengths enter: scaling or shifting all points changes no label. The points are sorted along the
    direction of their largest spread, so that only neighbours within the largest tolerance are compared.
    """
    num_points = len(points)
    if num_points == 0:
        return np.zeros(0, dtype=np.int64)
    tolerance = 2 * errors + 0.5 * rtol * robust_spread(points)
    axis = int(np.argmax(np.ptp(points, axis=0)))
    order = np.argsort(points[:, axis], kind="stable")
    ordered, reach = points[order], tolerance[order]
    # A pair can be one point only if it lies this close along the sorted axis.
    window = 2 * float(np.max(reach))
    last = np.searchsorted(ordered[:, axis], ordered[:, axis] + window, side="right")
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i in range(num_points):
        near = np.arange(i + 1, last[i])
        if near.size:
            distance = np.max(np.abs(ordered[near] - ordered[i]), axis=1)
            near = near[distance <= reach[near] + reach[i]]
            first.append(np.full(near.size, i))
            second.append(near)
    rows, columns = order[np.concatenate(first)], order[np.concatenate(second)]
    graph = coo_matrix((np.ones(rows.size), (rows, columns)), shape=(num_points, num_points))
    _, labels = connected_components(graph, directed=False)
    return _by_first_appearance(labels)


def _by_first_appearance(labels: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse]


def thin_points(points: Float[np.ndarray, "K N"], radii: Float[np.ndarray, " K"]) -> Int[np.ndarray, " K"]:
    """Label points by the first point within their two `radii` (largest component) that has no earlier one within it.

    Unlike `group_points` this never chains: the points of one label lie within reach of one of them.
    """
    labels = np.full(len(points), -1, dtype=np.int64)
    is_finite = np.isfinite(points).all(axis=1) & ~np.isnan(radii)
    finite = np.flatnonzero(is_finite)
    # A tree, since of a continuum of fixed points nearly every candidate is a point of its own.
    tree = KDTree(points[finite])
    # A rounding error more than is wanted: the last word has the comparison below.
    reach = (radii + np.max(radii[finite], initial=0.0)) * (1 + 1e-9)
    num_labels = 0
    for i in range(len(points)):
        if labels[i] >= 0:
            continue
        labels[i] = num_labels
        near = tree.query_ball_point(points[i], reach[i], p=np.inf) if is_finite[i] else []
        if len(near) > 1:
            rows = finite[near]
            rows = rows[labels[rows] < 0]
            distance = np.max(np.abs(points[rows] - points[i]), axis=1, initial=0.0)
            labels[rows[distance <= radii[rows] + radii[i]]] = num_labels
        num_labels += 1
    return labels


def farthest_points(points: Float[np.ndarray, "K N"], num: int) -> Int[np.ndarray, " M"]:
    """Rows of up to `num` points spread out over the set: each the farthest from those chosen before."""
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(num, len(points)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)
