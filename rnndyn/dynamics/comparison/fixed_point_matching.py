"""Whether the fixed points of two systems have one arrangement: matched by place, kind and connections."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.comparison._arrangements import assign, normal_form, of_one_width, turned_matchings
from rnndyn.results import Result


def match_fixed_points(
    x: ArrayLike,
    y: ArrayLike,
    num_unstable_x: ArrayLike,
    num_unstable_y: ArrayLike,
    *,
    group: str = "orthogonal",
    connections_x: ArrayLike | None = None,
    connections_y: ArrayLike | None = None,
    num_starts: int = 200,
    seed: int = 0,
) -> "FixedPointMatch":
    r"""Match the fixed points of two systems one to one, each with one of its own number of unstable directions.

    $$\min_{\pi,\, C,\, b} \sum_{k \in \pi} \bigl\| x_k - s\, C\, y_{\pi(k)} - b \bigr\|^2$$

    over matchings $\pi$ of points with equally many unstable directions and over the maps of a group: $C \in O(N)$ with
    one scale s ("orthogonal"), any affine map ("affine": both sets are first brought to unit covariance), or the
    identity ("none").

    **Arguments:**

    - `x`, `y`: the points, (K, N) and (L, M), also none; the smaller space is embedded in the larger.
    - `num_unstable_x`, `num_unstable_y`: how many unstable directions each has, (K,) and (L,).
    - `group`: up to which maps.
    - `connections_x`, `connections_y`: (K, K) and (L, L) booleans, whether an orbit goes from one point to another (see
        `find_connections`). Of the matchings found, one that preserves the most is taken.
    - `num_starts`: how many starts to search from.
    - `seed`: of the random ones.

    **Returns:** a `FixedPointMatch`.

    **Raises:** `ValueError` for other shapes, an unknown group, connections for one of the two only.

    From each start, matching (Hungarian method) and turning (Procrustes) take turns until nothing changes. That finds a
    local optimum; the best of all starts is taken. Starts are the signs of the principal axes, correspondences of a few
    points whose distances agree best, and random turns. Sets with fewer points than dimensions are affinely alike
    whatever they are. `topological_similarity` compares many systems.

    ??? cite "Reference"
        N. Maheswaranathan, A. H. Williams, M. D. Golub, S. Ganguli & D. Sussillo (2019), "Universality and
        individuality in neural dynamics across large populations of recurrent networks", NeurIPS; P. J. Besl & N. D.
        McKay (1992), "A method for registration of 3-D shapes", IEEE PAMI 14.
    """
    for name, points in (("x", x), ("y", y)):
        # A system without fixed points is one too: none of the other's has a partner.
        if np.ndim(points) != 2 or np.shape(points)[0]:
            check_states(name, points)
    check_at_least("num_starts", num_starts, 1)
    if group not in ("orthogonal", "affine", "none"):
        raise ValueError(f'group: expected "orthogonal", "affine" or "none", got {group!r}.')
    if (connections_x is None) != (connections_y is None):
        raise ValueError("connections_x, connections_y: expected both or none of them.")
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kinds = [np.asarray(kind) for kind in (num_unstable_x, num_unstable_y)]
    links = None if connections_x is None else [np.asarray(c, bool) for c in (connections_x, connections_y)]
    for name, points, kind, link in zip("xy", (first, second), kinds, links or (None, None)):
        if kind.shape != (len(points),):
            raise ValueError(f"num_unstable_{name}: expected one number for each of {len(points)} points.")
        if link is not None and link.shape != (len(points), len(points)):
            raise ValueError(f"connections_{name}: expected shape {(len(points), len(points))}, got {link.shape}.")
    if group == "none":
        if first.shape[1] != second.shape[1]:
            raise ValueError('y: expected the state space of x. Pass group="orthogonal" for another one.')
        candidates = [(assign(first, second, kinds[0][:, None] != kinds[1]), np.eye(first.shape[1]))]
    else:
        whiten = group == "affine"
        first, second = of_one_width(normal_form(first, whiten=whiten), normal_form(second, whiten=whiten))
        candidates = turned_matchings(first, second, (kinds[0], kinds[1]), num_starts, np.random.default_rng(seed))
    pairs, turn = min(candidates, key=lambda found: _worth(first, second, found, links))
    distances = np.linalg.norm(first[pairs[:, 0]] - second[pairs[:, 1]] @ turn.T, axis=1)
    return FixedPointMatch(
        pairs=pairs,
        distances=distances,
        residual=float(np.sqrt(np.mean(distances**2))) if len(pairs) and group != "none" else None,
        num_x=len(first),
        num_y=len(second),
        num_unstable=kinds[0][pairs[:, 0]].astype(int),
        connection_overlap=None if links is None else _overlap(pairs, links),
    )


class FixedPointMatch(Result):
    """Which fixed points of two systems belong together.

    - `pairs`: a point of the first and its partner in the second, (P, 2).
    - `distances`: between them, once turned: in units of the root mean square radius of the set; for the group "none"
        in those of the states, (P,).
    - `residual`: their root mean square; `None` for the group "none".
    - `num_x`, `num_y`: how many points there were.
    - `num_unstable`: how many unstable directions the points of each pair have, (P,).
    - `connection_overlap`: the share of connections that both have among those that either has, or `None`.
    """

    pairs: Int[np.ndarray, "P 2"]
    distances: Float[np.ndarray, " P"]
    residual: float | None
    num_x: int
    num_y: int
    num_unstable: Int[np.ndarray, " P"]
    connection_overlap: float | None

    @property
    def complete(self) -> bool:
        """Whether every point of both has a partner: they have equally many of each kind."""
        return len(self.pairs) == self.num_x == self.num_y

    @property
    def largest_distance(self) -> float | None:
        """Between partners; `None` without any."""
        return float(self.distances.max()) if len(self.pairs) else None

    def table(self) -> str:
        counts = np.bincount(self.num_unstable) if len(self.pairs) else []
        kinds = ", ".join(f"{n} with {k} unstable" for k, n in enumerate(counts) if n)
        lines = [f"{len(self.pairs)} of {self.num_x} and {self.num_y} fixed points matched: {kinds or 'none'}"]
        if self.residual is not None:
            lines.append(f"  residual            {self.residual:.3g} radii of the set")
        elif self.largest_distance is not None:
            lines.append(f"  largest distance    {self.largest_distance:.3g}")
        if self.connection_overlap is not None:
            lines.append(f"  common connections  {self.connection_overlap:.0%}")
        return "\n".join(lines)


def _worth(first: np.ndarray, second: np.ndarray, found: tuple[np.ndarray, np.ndarray], links: Any) -> tuple:
    """What makes one matching better than another, the most important first; smaller is better."""
    pairs, turn = found
    squares = np.sum((first[pairs[:, 0]] - second[pairs[:, 1]] @ turn.T) ** 2)
    lost = 0.0 if links is None else 1 - _overlap(pairs, links)
    return -len(pairs), lost, squares


def _overlap(pairs: np.ndarray, links: Any) -> float:
    """Common connections among those that either system has."""
    ours, theirs = (link[np.ix_(side, side)] for link, side in zip(links, pairs.T))
    either = links[0].sum() + links[1].sum() - (ours & theirs).sum()
    return float((ours & theirs).sum() / either) if either else 1.0
