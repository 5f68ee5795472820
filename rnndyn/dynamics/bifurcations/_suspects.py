"""Between which nodes of a curve crossings of the unit circle may cancel unseen, for all segments of it at once.

Every multiplier near the circle is paired with what it becomes at the next node, at the one after, and at the one
before. A segment is suspected where more of them change sides than the counts say, where two may change places, where
the parameter may turn twice, and where extrapolation from the neighbours does not exclude that a multiplier goes out
and comes back.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy.optimize import linear_sum_assignment

from rnndyn.dynamics.bifurcations._crossings import changing, crossings, logs_of, partners_of
from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite, multipliers_of, stack_multipliers
from rnndyn.dynamics.bifurcations._systems import evaluate_cycle

FARTHEST = 1.5
"""Multipliers with |ln|mu|| above this are not watched between nodes."""

CLOSE = 0.3
"""Within this |ln|mu|| on either side of the circle, multipliers are suspected to change places between nodes."""

_BLOCK = 2**20
"""Distances between multipliers that are held at a time."""


def suspicious(curve: Curve, nodes: Sequence[Node], segments: Sequence[int]) -> list[int]:
    """Those of the segments, k from node k to node k + 1, in which crossings that cancel may lie."""
    if not segments:
        return []
    tracks = Tracks(nodes, segments)
    k = tracks.segments
    num_events = np.zeros(k.size, int)
    for i in np.flatnonzero(np.isin(k, changing(nodes))):
        num_events[i] = crossings(nodes[k[i]], nodes[k[i] + 1]).total()
    hidden = np.sum(tracks.start * tracks.end < 0, axis=1) > num_events
    if not curve.system.matrix_free and curve.num_multipliers is None:
        for i in np.flatnonzero(~hidden & _close_on_both_sides(tracks)):
            hidden[i] = _may_swap(curve, nodes[k[i]], nodes[k[i] + 1], int(num_events[i]))
    quiet = num_events == 0
    hidden |= quiet & (_may_turn_twice(nodes, tracks) | tracks.peaking.any(axis=1))
    return k[hidden].tolist()


def peaking_rows(nodes: Sequence[Node], k: int) -> Int[np.ndarray, " rows"]:
    """Which multipliers of node k may reach the circle before node k + 1 and come back, by their neighbours."""
    return np.flatnonzero(Tracks(nodes, [k]).peaking[0])


class Tracks:
    """ln|mu| of the watched multipliers of node k at the nodes k - 1 to k + 2, for every segment k.

    Watched is one of each pair; those far from the circle cannot cross it twice within a step that continuation
    accepts. Rows of the others, and where a node has no partner, hold NaN.
    """

    def __init__(self, nodes: Sequence[Node], segments: Sequence[int]) -> None:
        self.segments = k = np.asarray(segments)
        zetas = np.stack([node.zeta for node in nodes])
        self.chords = np.linalg.norm(np.diff(zetas, axis=0), axis=1)
        mu = stack_multipliers(nodes)
        with np.errstate(divide="ignore"):
            self.logs = logs = np.maximum(np.log(np.abs(mu)), -700.0)
        watched = (np.abs(logs[k]) < FARTHEST) & (np.imag(mu[k]) >= 0)
        self.start = np.where(watched, logs[k], np.nan)
        partners = partners_along(mu, k, k + 1, watched)
        self.end = logs_at(logs, k + 1, partners)
        self.before, self.after = np.full_like(self.start, np.nan), np.full_like(self.start, np.nan)
        has_before, has_after = k > 0, k + 2 < len(nodes)
        first = k[has_before]
        self.before[has_before] = logs_at(logs, first - 1, partners_along(mu, first, first - 1, watched[has_before]))
        last, known = k[has_after], partners[has_after]
        reached = np.zeros(known.shape, bool)
        on, row = np.nonzero(known >= 0)
        reached[on, known[on, row]] = True
        further = partners_along(mu, last + 1, last + 2, reached)
        after = np.full(known.shape, np.nan)
        after[on, row] = logs_at(logs, last + 2, further)[on, known[on, row]]
        self.after[has_after] = after

    @property
    def peaking(self) -> Bool[np.ndarray, "segments n"]:
        """Which multipliers may reach the circle between the nodes and come back.

        A concave function lies below the lines through its neighbouring values. Where those of ln|mu| meet above zero,
        the multiplier may have gone through the circle and come back; outside the circle, the same for -ln|mu|.
        """
        k, sides = self.segments, np.where(self.start > 0, -1.0, 1.0)
        length = self.chords[k][:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            up = sides * (self.start - self.before) / self.chords[np.maximum(k - 1, 0)][:, None]
            down = -sides * (self.after - self.end) / self.chords[np.minimum(k + 1, len(self.chords) - 1)][:, None]
            up, down = (np.where(np.isnan(slope), np.inf, slope) for slope in (up, down))
            return _peaks(sides * self.start, sides * self.end, up, down, length) > 0


def _peaks(start: np.ndarray, end: np.ndarray, up: np.ndarray, down: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The most that a concave function can reach between two values, by its slopes before and after; inf: not known."""
    # Where start + up s and end + down (length - s) meet, or the one that is known at the far end.
    s = np.clip((end - start + down * length) / (up + down), 0, length)
    meet = np.minimum(start + up * s, end + down * (length - s))
    known_before, known_after = np.isfinite(up), np.isfinite(down)
    alone = np.where(known_before, start + up * length / 2, end + down * length / 2)
    peaks = np.where(known_before & known_after, meet, alone)
    return np.where((up <= 0) | (down <= 0) | ~(known_before | known_after), -np.inf, peaks)


def partners_along(
    mu: Complex[np.ndarray, "M n"],
    a: Int[np.ndarray, " segments"],
    b: Int[np.ndarray, " segments"],
    rows: Bool[np.ndarray, "segments n"],
) -> Int[np.ndarray, "segments n"]:
    """Which multiplier of node b each of these of node a has become: the pairs that move least in all; -1 for none.

    Where the nearest of all are different ones, no pairs move less.
    """
    # Of the first `num_multipliers` there may be fewer at one node than at another: what is missing is NaN + 0i.
    rows = rows & np.isfinite(mu[a])
    partners = np.full(rows.shape, -1)
    size = mu.shape[1]
    each = max(1, _BLOCK // size**2)
    for first in range(0, len(a), each):
        block = slice(first, first + each)
        on, row = np.nonzero(rows[block])
        gaps = mu[a[block][on], row][:, None] - mu[b[block][on]]
        # `abs`, which minds overflow, takes three times as long.
        distances = np.sqrt(np.real(gaps) ** 2 + np.imag(gaps) ** 2)
        distances[np.isnan(distances)] = np.inf
        nearest = np.argmin(distances, axis=1) if on.size else np.zeros(0, int)
        partners[block][on, row] = nearest
        taken = np.bincount(on * size + nearest, minlength=rows[block].size).reshape(-1, size)
        for i in np.flatnonzero(np.any(taken > 1, axis=1)):
            theirs = distances[on == i][:, np.isfinite(mu[b[block][i]])]
            chosen, columns = linear_sum_assignment(theirs)
            found = np.full(len(theirs), -1)
            found[chosen] = columns
            partners[block][i, row[on == i]] = found
    return partners


def logs_at(logs: np.ndarray, at: np.ndarray, partners: np.ndarray) -> Float[np.ndarray, "segments n"]:
    return np.where(partners >= 0, np.take_along_axis(logs[at], np.maximum(partners, 0), axis=1), np.nan)


def _may_turn_twice(nodes: Sequence[Node], tracks: Tracks) -> Bool[np.ndarray, " segments"]:
    """Where the parameter may turn twice: its cubic does."""
    k = tracks.segments
    s = np.linspace(0, 1, 9)[1:-1]
    q, turn = (np.array(values) for values in zip(*((node.zeta[-1], node.tangent[-1]) for node in nodes)))
    length, before, after = tracks.chords[k][:, None], turn[k][:, None], turn[k + 1][:, None]
    slope = 6 * s * (1 - s) * (q[k + 1] - q[k])[:, None] + length * (
        (1 - s) * (1 - 3 * s) * before + s * (3 * s - 2) * after
    )
    return np.any(slope * before < 0, axis=1) & (turn[k] * turn[k + 1] > 0)


def _close_on_both_sides(tracks: Tracks) -> Bool[np.ndarray, " segments"]:
    """Where multipliers of the two nodes lie close to the circle, some outside and some inside."""
    k = tracks.segments
    logs = np.concatenate([tracks.logs[k], tracks.logs[k + 1]], axis=1)
    close = np.abs(logs) < CLOSE
    return np.any(close & (logs > 0), axis=1) & np.any(close & (logs < 0), axis=1)


def _may_swap(curve: Curve, a: Node, b: Node, num_events: int) -> bool:
    """Whether one multiplier may come in while another goes out, so that what is left looks like what was there.

    The curve is known between its nodes, without a correction, to fourth order in their distance: the multipliers
    there show what happens on the way. Where two of them have less far to go to change places than the fastest goes
    in half of the way, even that is not enough.
    """
    chain = [a, *(interpolated(curve, a, b, s) for s in (0.25, 0.5, 0.75)), b]
    if sum(crossings(first, second).total() for first, second in itertools.pairwise(chain)) > num_events:
        return True
    pieces = []
    for first, second in itertools.pairwise(chain):
        rows = np.flatnonzero(np.abs(logs_of(first, np.arange(len(first.multipliers)))) < FARTHEST)
        pieces.append((logs_of(first, rows), logs_of(second, partners_of(first, second, rows))))
    reach = max(float(np.nanmax(np.abs(end - start), initial=0.0)) for start, end in pieces)
    for start, end in pieces:
        outside, inside = start[start > 0], start[start < 0]
        outside_after, inside_after = end[end > 0], end[end < 0]
        if outside.size and inside.size and outside_after.size and inside_after.size:
            comes_in, goes_out = outside.min() - inside_after.max(), outside_after.min() - inside.max()
            if max(comes_in, goes_out) <= 2 * reach:
                return True
    return False


def interpolated(curve: Curve, a: Node, b: Node, fraction: float) -> Node:
    """The cubic between two nodes as one, with the multipliers there."""
    zeta = hermite(a, b, fraction)
    e = evaluate_cycle(curve.system, zeta * curve.metric.scales)
    tangent = (1 - fraction) * a.tangent + fraction * b.tangent
    return Node(zeta, tangent, float(np.max(np.abs(e.residual))), multipliers_of(e.step_jacobians), a.frame)
