"""Whether networks have the same fixed points: as many, as unstable, connected alike, in one arrangement."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.comparison._arrangements import best_turns, normal_form, of_one_width, turned_matchings
from rnndyn.dynamics.comparison.connections import Connections
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.results import Result

_EQUAL = 1e-9
"""Squared distances this close are one: they are sums of squares of rounding errors of places."""


def topological_similarity(
    points: Sequence[FixedPoints | tuple[ArrayLike, ArrayLike]],
    connections: Sequence[Connections | ArrayLike] | ArrayLike | None = None,
    *,
    group: str = "orthogonal",
    num_starts: int = 40,
    num_permutations: int = 99,
    seed: int = 0,
) -> "TopologicalSimilarity":
    r"""Distances between the fixed points of M networks: in number, kind and connections, and in arrangement.

    Points k of one network and $\pi(k)$ of another are partners only where they have equally many unstable directions.
    With $n_i$ points and $e_i$ connections of network i, and $\bar n_{ij}, \bar e_{ij}$ of both that have no
    counterpart under $\pi$,

    $$d_{ij} = \min_\pi \frac{\bar n_{ij} + \bar e_{ij}}{n_i + n_j + e_i + e_j}, \qquad
    a_{ij}^2 = \min_{\pi,\, C} \frac{\sum_{k \in \pi} \| x_k - C\, y_{\pi(k)} \|^2 + \bar n_{ij} + \bar e_{ij}}
    {n_i + n_j + e_i + e_j} .$$

    The topological distance d is 0 where the two graphs of fixed points are one, wherever the points lie. The distance
    of arrangements a also asks where, up to a map of a group: each set is taken about its mean, in its root mean square
    radius ("orthogonal": turns, mirrors, one scale) or with unit covariance ("affine"), and $C \in O(N)$. A point
    without partner counts as one that is a radius away. Both are symmetric, at most 1 (a but for rounding and for local
    optima), and know neither the basis nor the order of points.

    **Arguments:**

    - `points`: of each network its fixed points: a `FixedPoints`, or the points (K, N) with the number of unstable
        directions of each (K,). K and N may differ; K may be 0.
    - `connections`: of each network which points orbits lead to from which, (K, K) booleans, or what `find_connections`
        returns. Without them points are compared alone.
    - `group`: up to which maps.
    - `num_starts`: starts of the search for each pair: signs of principal axes, and correspondences of a few points
        whose distances agree best.
    - `num_permutations`: for the p-values; 0 leaves them out.
    - `seed`: of the permutations.

    **Returns:** a `TopologicalSimilarity`: (M, M) matrices.

    **Raises:** `ValueError` for fewer than two networks, other shapes, NaN, connections of another number of points or
    networks, an unknown group.

    *The null* is that where a point lies has nothing to do with what it is: the places of one network are dealt anew to
    its points, which keep their kinds and connections, and a is measured again. The p-value of a pair is the share of
    such deals that are at least as close, $(1 + \#) / (1 + S)$: small where two networks agree in arrangement more
    than any two with these points would. It is uniform under the null, but for ties; where there is nothing to deal
    (one point, or points that are all alike) it is 1. That two networks differ needs no test: fixed points are found
    to rounding, so a distance above that is a difference.

    From each start, matching (Hungarian method) and turning (Procrustes) take turns until nothing changes; for d
    partners of one kind are then exchanged as long as that finds more common connections. Both find local optima: a
    distance can come out too large, 0 is proved by the matching that is returned. Sets with fewer points than
    dimensions are affinely alike whatever they are. Time goes as $M^2 S$; a pair of nine points takes some milliseconds
    a permutation.

    ??? cite "Reference"
        N. Maheswaranathan, A. H. Williams, M. D. Golub, S. Ganguli & D. Sussillo (2019), "Universality and
        individuality in neural dynamics across large populations of recurrent networks", NeurIPS; P. J. Besl & N. D.
        McKay (1992), "A method for registration of 3-D shapes", IEEE PAMI 14; B. Phipson & G. K. Smyth (2010),
        "Permutation p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9.
    """
    check_at_least("num_starts", num_starts, 1)
    check_at_least("num_permutations", num_permutations, 0)
    if group not in ("orthogonal", "affine"):
        raise ValueError(f'group: expected "orthogonal" or "affine", got {group!r}.')
    networks = _as_networks(points, connections, whiten=group == "affine")
    num = len(networks)
    distances, arrangement, p_values = np.zeros((num, num)), np.zeros((num, num)), np.ones((num, num))
    null = np.zeros((num, num, num_permutations))
    matched = np.diag([len(network.places) for network in networks])
    residuals = np.zeros((num, num))
    common = np.diag([int(network.links.sum()) for network in networks])
    for (i, j), child in zip(zip(*np.triu_indices(num, 1)), np.random.SeedSequence(seed).spawn(num * (num - 1) // 2)):
        ours, theirs = networks[i], networks[j]
        total = max(len(ours.places) + len(theirs.places) + ours.links.sum() + theirs.links.sum(), 1)
        found = _matchings(ours, theirs, num_starts)
        best = min(found, key=lambda one: one.squares + one.num_apart)
        squared = (best.squares + best.num_apart) / total
        graph = min((_with_more_in_common(ours, theirs, one) for one in found), key=lambda one: one.num_apart)
        rng = np.random.default_rng(child)
        dealt = np.empty(num_permutations)
        for k in range(num_permutations):
            other = theirs._replace(places=rng.permutation(theirs.places))
            dealt[k] = min(one.squares + one.num_apart for one in _matchings(ours, other, num_starts)) / total
        entries = (
            (distances, graph.num_apart / total),
            (arrangement, np.sqrt(squared)),
            (matched, len(best.pairs)),
            (residuals, np.sqrt(best.squares / max(len(best.pairs), 1))),
            (common, graph.num_common),
            (p_values, (1 + np.sum(dealt <= squared + _EQUAL)) / (1 + num_permutations)),
            (null, np.sqrt(dealt)),
        )
        for matrix, value in entries:
            matrix[i, j] = matrix[j, i] = value
    return TopologicalSimilarity(
        distances=distances,
        arrangement_distances=arrangement,
        p_values=p_values if num_permutations else None,
        null_distances=null,
        num_matched=matched,
        residuals=residuals,
        num_common=common,
    )


class TopologicalSimilarity(Result):
    """How far the fixed points of M networks are apart.

    - `distances`: the share of fixed points and connections without a counterpart, 0 to 1, (M, M).
    - `arrangement_distances`: the same with places: 0 where one set is the other, mapped, (M, M).
    - `p_values`: of each pair, that places dealt at random to the points of one are as close in arrangement, (M, M); 1
        on the diagonal. `None` without permutations.
    - `null_distances`: of those deals, (M, M, S).
    - `num_matched`: how many pairs of partners there are, (M, M); on the diagonal, fixed points.
    - `residuals`: root mean square distance of partners in the arrangement, in radii of the sets, (M, M); 0 where there
        are none.
    - `num_common`: connections that both have, (M, M); on the diagonal, all.
    """

    distances: Float[np.ndarray, "M M"]
    arrangement_distances: Float[np.ndarray, "M M"]
    p_values: Float[np.ndarray, "M M"] | None
    null_distances: Float[np.ndarray, "M M S"]
    num_matched: Int[np.ndarray, "M M"]
    residuals: Float[np.ndarray, "M M"]
    num_common: Int[np.ndarray, "M M"]

    def table(self) -> str:
        upper = np.triu_indices(len(self.distances), 1)
        pairs, places = self.distances[upper], self.arrangement_distances[upper]
        lines = [
            f"Fixed points of {len(self.distances)} networks",
            f"  topological distances  {pairs.min():.3g} to {pairs.max():.3g}; {int(np.sum(pairs == 0))} of "
            f"{len(pairs)} pairs have the same points and connections",
            f"  in arrangement         {places.min():.3g} to {places.max():.3g}, median {np.median(places):.3g}",
        ]
        if self.p_values is not None:
            low = int(np.sum(self.p_values[upper] <= 0.05))
            middle = np.median(self.null_distances[upper])
            lines.append(f"  places dealt anew      median {middle:.3g}; {low} pairs are closer, p <= 0.05")
        return "\n".join(lines)


class _Network(NamedTuple):
    """The fixed points of one network: places in normal form, kinds, and connections."""

    places: np.ndarray
    kinds: np.ndarray
    links: np.ndarray


class _Matching(NamedTuple):
    """Partners, the squares of their distances, and points and connections of both with and without counterpart."""

    pairs: np.ndarray
    squares: float
    num_common: int
    num_apart: int


def _as_networks(points: Any, connections: Any, *, whiten: bool) -> list[_Network]:
    if len(points) < 2:
        raise ValueError(f"points: expected those of at least two networks, got {len(points)}.")
    if connections is not None and len(connections) != len(points):
        raise ValueError(f"connections: expected those of {len(points)} networks, got {len(connections)}.")
    networks = []
    for k, entry in enumerate(points):
        name = f"points[{k}]"
        if isinstance(entry, FixedPoints):
            entry = (entry.points, entry.num_unstable)
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise ValueError(f"{name}: expected FixedPoints, or points (K, N) with unstable directions (K,).")
        places, kinds = np.asarray(entry[0], np.float64), np.asarray(entry[1])
        if len(places) or places.ndim != 2:
            check_states(name, places)
        if kinds.shape != (len(places),):
            raise ValueError(f"{name}: expected the number of unstable directions of each of {len(places)} points.")
        links = np.zeros((len(places), len(places)), bool)
        if connections is not None:
            link = connections[k]
            links = np.asarray(link.matrix if isinstance(link, Connections) else link, bool)
            if links.shape != (len(places), len(places)):
                raise ValueError(
                    f"connections[{k}]: expected shape {(len(places), len(places))}, a row and a column for each fixed "
                    f"point, got {links.shape}."
                )
        networks.append(_Network(normal_form(places, whiten=whiten), kinds, links))
    return networks


def _matchings(ours: _Network, theirs: _Network, num_starts: int) -> list[_Matching]:
    """The matchings that the search ends on."""
    first, second = of_one_width(ours.places, theirs.places)
    found = turned_matchings(first, second, (ours.kinds, theirs.kinds), num_starts)
    return [_measured(ours, theirs, pairs, turn) for pairs, turn in found]


def _measured(ours: _Network, theirs: _Network, pairs: np.ndarray, turn: np.ndarray) -> _Matching:
    first, second = of_one_width(ours.places, theirs.places)
    squares = float(np.sum((first[pairs[:, 0]] - second[pairs[:, 1]] @ turn.T) ** 2))
    common = _num_common(ours, theirs, pairs)
    alone = len(first) + len(second) - 2 * len(pairs)
    apart = alone + int(ours.links.sum() + theirs.links.sum()) - 2 * common
    return _Matching(pairs, squares, common, apart)


def _num_common(ours: _Network, theirs: _Network, pairs: np.ndarray) -> int:
    """Connections that both have between partners."""
    i, j = pairs.T
    return int(np.sum(ours.links[i[:, None], i] & theirs.links[j[:, None], j]))


def _with_more_in_common(ours: _Network, theirs: _Network, matching: _Matching) -> _Matching:
    """The matching after exchanges of partners of one kind, as long as one finds more common connections."""
    pairs, common = matching.pairs.copy(), matching.num_common
    most = min(int(ours.links.sum()), int(theirs.links.sum()))
    improved = True
    while improved and common < most:
        improved = False
        for other in _exchanges(ours, theirs, pairs):
            number = _num_common(ours, theirs, other)
            if number > common:
                pairs, common, improved = other, number, True
                break
    if common == matching.num_common:
        return matching
    first, second = of_one_width(ours.places, theirs.places)
    return _measured(ours, theirs, pairs, best_turns(first, second, pairs[None])[0])


def _exchanges(ours: _Network, theirs: _Network, pairs: np.ndarray) -> Any:
    """All matchings that differ by two partners, or by one where a point of its kind has none."""
    kinds = ours.kinds[pairs[:, 0]]
    for a, b in zip(*np.triu_indices(len(pairs), 1)):
        if kinds[a] == kinds[b]:
            other = pairs.copy()
            other[[a, b], 1] = pairs[[b, a], 1]
            yield other
    for side, network in enumerate((ours, theirs)):
        spare = np.setdiff1d(np.arange(len(network.kinds)), pairs[:, side])
        for a, point in zip(*(axis.ravel() for axis in np.meshgrid(np.arange(len(pairs)), spare))):
            if kinds[a] == network.kinds[point]:
                other = pairs.copy()
                other[a, side] = point
                yield other
