"""Matchings of two sets of points by place and kind: local optima over turns, from starts that distances suggest."""

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment

_NUM_TURNS = 30
"""Rounds of matching and turning; a handful suffices, then nothing changes any more."""

_FORBIDDEN = 1e6
"""The cost of a match between points of different kind, in the largest squared distance: never worth it."""

_MOST_TUPLES = 4096
"""Tuples of points of one set that may correspond to a few of the other; beyond it, fewer points are asked."""


def normal_form(points: np.ndarray, *, whiten: bool) -> np.ndarray:
    """Principal coordinates (K, r) of a set about its mean, of unit root mean square radius.

    Whitened, with unit covariance: up to a turn the same for all affine images of a set.
    """
    if len(points) == 0:
        return np.zeros((0, 1))
    deviation = points - points.mean(0)
    _, sizes, axes = np.linalg.svd(deviation, full_matrices=False)
    kept = sizes > 1e-9 * max(sizes.max(initial=0.0), np.finfo(float).tiny)
    if not kept.any():
        return np.zeros((len(points), 1))
    coordinates = deviation @ axes[kept].T
    if whiten:
        coordinates = coordinates / sizes[kept]
    return coordinates / np.sqrt(np.mean(np.sum(coordinates**2, axis=1)))


def of_one_width(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in as many coordinates as the wider one has."""
    width = max(first.shape[1], second.shape[1])
    first, second = (np.pad(points, ((0, 0), (0, width - points.shape[1]))) for points in (first, second))
    return first, second


def turned_matchings(
    first: np.ndarray,
    second: np.ndarray,
    kinds: tuple[np.ndarray, np.ndarray],
    num_starts: int,
    rng: np.random.Generator | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The matchings (P, 2) of points of one kind that the starts lead to, each with the turn that suits it best.

    Starts are the signs of the principal axes; correspondences of a few points whose distances agree best; and, given
    a generator, random turns.
    """
    width = first.shape[1]
    forbidden = kinds[0][:, None] != kinds[1][None, :]
    if forbidden.all():
        return [(np.empty((0, 2), int), np.eye(width))]
    signs = list(itertools.islice(itertools.product([1.0, -1.0], repeat=min(width, 4)), num_starts))
    turns = [np.diag(np.append(sign, np.ones(width - len(sign)))) for sign in signs]
    left = num_starts - len(turns)
    costs = [_anchored_costs(first, second, kinds, left if rng is None else left // 2)]
    if rng is not None:
        turns += [_random_turn(width, rng) for _ in range(num_starts - len(turns) - len(costs[0]))]
    costs.append(_squares(first, second, np.stack(turns)))
    pairs = _assign(np.concatenate(costs), forbidden)
    found: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(_NUM_TURNS):
        pairs = np.unique(pairs, axis=0)
        turns = best_turns(first, second, pairs)
        again = _assign(_squares(first, second, turns), forbidden)
        stays = (again == pairs).all(axis=(1, 2))
        for matching, turn in zip(pairs[stays], turns[stays]):
            found.setdefault(matching.tobytes(), (matching, turn))
        pairs = again[~stays]
        if len(pairs) == 0:
            break
    for matching in pairs:
        found.setdefault(matching.tobytes(), (matching, best_turns(first, second, matching[None])[0]))
    return list(found.values())


def best_turns(first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The orthogonal maps (S, w, w) that bring partners closest, for matchings (S, P, 2)."""
    u, _, v = np.linalg.svd(np.swapaxes(first[pairs[..., 0]], 1, 2) @ second[pairs[..., 1]])
    return u @ v


def assign(first: np.ndarray, second: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """The cheapest matching of points of one kind where they are, (P, 2)."""
    if forbidden.all():
        return np.empty((0, 2), int)
    return _assign(_squares(first, second, np.eye(first.shape[1])[None]), forbidden)[0]


def _assign(costs: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """The cheapest matchings (S, P, 2) for costs (S, K, L); each pairs as many points of one kind as there can be."""
    scale = np.maximum(costs.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    pairs = np.array([linear_sum_assignment(cost) for cost in costs / scale + _FORBIDDEN * forbidden])
    pairs = np.swapaxes(pairs, 1, 2)
    allowed = ~forbidden[pairs[..., 0], pairs[..., 1]]
    return pairs[allowed].reshape(len(costs), -1, 2)


def _squares(first: np.ndarray, second: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Squared distances (S, K, L) between the points of one set and the turned ones of the other."""
    turned = second @ np.swapaxes(turns, 1, 2)
    squares = np.sum(first**2, axis=1)[:, None] + np.sum(second**2, axis=1) - 2 * (first @ np.swapaxes(turned, 1, 2))
    return np.maximum(squares, 0)


def _anchored_costs(
    first: np.ndarray, second: np.ndarray, kinds: tuple[np.ndarray, np.ndarray], num_starts: int
) -> np.ndarray:
    """Costs (S, K, L) of partners: how much they differ in distance from a few points that correspond, and from 0.

    The few are those of the first set that are far from the span of those before them, and any of their kind in the
    second. Distances know of no turn, so that of two sets which are one, turned, one correspondence is exact.
    """
    anchors, choices = [], []
    rest, tuples = first.copy(), 1
    for _ in range(first.shape[1]):
        size = np.linalg.norm(rest, axis=1)
        of_kind = np.array([np.sum(kinds[1] == kind) for kind in kinds[0]])
        size[(of_kind == 0) | (tuples * of_kind > _MOST_TUPLES)] = 0
        anchor = int(np.argmax(size))
        if size[anchor] < 0.1:
            break
        anchors.append(anchor)
        choices.append(np.flatnonzero(kinds[1] == kinds[0][anchor]))
        tuples *= len(choices[-1])
        axis = rest[anchor] / size[anchor]
        rest -= np.outer(rest @ axis, axis)
    if not anchors or num_starts < 1:
        return np.empty((0, len(first), len(second)))
    tuple_of = np.array(list(itertools.product(*choices)))
    ours, theirs = (np.linalg.norm(points[:, None] - points, axis=-1) for points in (first, second))
    # What the few themselves say of a correspondence: their distances from each other and from the centre.
    among = theirs[tuple_of[:, :, None], tuple_of[:, None, :]] - ours[np.ix_(anchors, anchors)]
    radii = np.linalg.norm(second, axis=1)[tuple_of] - np.linalg.norm(first[anchors], axis=1)
    misfit = np.sum(among**2, axis=(1, 2)) / 2 + np.sum(radii**2, axis=1)
    tuple_of = tuple_of[np.argsort(misfit, kind="stable")[:num_starts]]
    seen = ours[:, anchors][None, :, None] - theirs[:, tuple_of].transpose(1, 0, 2)[:, None]
    centre = np.linalg.norm(first, axis=1)[:, None] - np.linalg.norm(second, axis=1)
    return np.sum(seen**2, axis=-1) + centre**2


def _random_turn(width: int, rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    return q * np.sign(np.diag(r))
