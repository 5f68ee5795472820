"""Dividing a curve until no crossing of the unit circle can hide between its nodes.

Counts of multipliers outside the circle cannot show two crossings that cancel. So every multiplier near the circle is
followed from node to node. Segments in which more of them change sides than the counts say, in which extrapolation
from the neighbours does not exclude that one goes out and comes back, or in which the derivative strays so far that
one might (`_excursions.py`), are halved. What is then still open is looked at one by one: multipliers that change
places are told apart by their eigenvectors, and peaks are climbed.
"""

import itertools

import jax
import numpy as np
from scipy.linalg import eig
from scipy.optimize import linear_sum_assignment

from rnndyn.dynamics.bifurcations._crossings import crossings, logs_of, partners_of
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._excursions import interpolated, may_leave, may_leave_still
from rnndyn.dynamics.bifurcations.bifurcations import evaluate_cycle

MAX_DIVISIONS = 6
"""How often a segment is halved on mere suspicion."""

FARTHEST = 1.5
"""Multipliers with |ln|mu|| above this are not watched between nodes."""

TOUCH = 1e-12
"""Where the largest ln|mu| between nodes is within this of 0, whether it crosses the circle twice cannot be told."""

CLOSE = 0.3
"""Within this |ln|mu|| on either side of the circle, multipliers are suspected to change places between nodes."""

SMALLEST_CHORD = 2e-11
"""Crossings that this length of the curve does not separate are taken to be simultaneous."""


def refine(curve: Curve, nodes: list[Node]) -> tuple[list[Node], list[Node], list[tuple[Node, Node]]]:
    """The nodes with others put between them where two crossings of the unit circle could cancel unseen.

    And those of them, in order, at which a multiplier touches the circle and turns back; and the pairs of nodes between
    which one may still go out and come back as far as is known.
    """
    suspects = list(range(len(nodes) - 1))
    for _ in range(MAX_DIVISIONS):
        arcs = _arcs(nodes)
        marked = [k for k in suspects if _may_hide(curve, nodes, arcs, k)]
        marked += may_leave(curve, nodes, sorted({*suspects} - {*marked}), FARTHEST)
        if not marked:
            return nodes, [], []
        new_nodes, suspects = [], []
        marks = set(marked)
        for k, node in enumerate(nodes):
            new_nodes.append(node)
            if k in marks:
                middle = curve.between(node, nodes[k + 1], 0.5)
                if middle is not None:
                    suspects += [len(new_nodes) - 1, len(new_nodes)]
                    new_nodes.append(middle)
        nodes = new_nodes
    looked, touches, climbed = look_closer(curve, nodes, suspects)
    doubtful = may_leave_still(curve, nodes, [k for k in suspects if k not in climbed], FARTHEST)
    return looked, touches, doubtful


def look_closer(curve: Curve, nodes: list[Node], suspects: list[int]) -> tuple[list[Node], list[Node], set[int]]:
    """What is left after halving: cancelling crossings are separated, and peaks of multipliers are looked for.

    All nodes then, those at which a multiplier touches the circle, and the segments whose peaks are known.
    """
    arcs, touches, inserted, climbed = _arcs(nodes), [], {}, set()
    for k in suspects:
        between, unseparated = _separate(curve, nodes[k], nodes[k + 1])
        inserted[k] = between
        touches += unseparated
        if between or crossings(nodes[k], nodes[k + 1]):
            continue
        tops = [_top(curve, nodes[k], nodes[k + 1], row) for row in _peaking_rows(nodes, arcs, k).tolist()]
        if tops and all(top is not None for top in tops):
            climbed.add(k)
        for top in tops:
            if top is None:
                continue
            node, height = top
            if -TOUCH < height <= TOUCH and _is_upright(curve, node):
                continue
            if height > -TOUCH and not any(np.linalg.norm(node.zeta - t.zeta) < 1e-4 for t in touches):
                inserted[k] = [node]
                touches += [node] if height <= TOUCH else []
    new_nodes = []
    for k, node in enumerate(nodes):
        new_nodes += [node, *inserted.get(k, [])]
    return new_nodes, [node for node in new_nodes if any(node is t for t in touches)], climbed


def _separate(curve: Curve, a: Node, b: Node, num_divisions: int = 0) -> tuple[list[Node], list[Node]]:
    """Nodes that separate crossings which cancel, and those at which two that cancel cannot be separated.

    Multipliers that change places are told apart by their eigenvectors.
    """
    if curve.system.matrix_free or curve.num_multipliers is not None:
        return [], []
    start, end = _logs_by_vectors(curve, a, b)
    crossing = start * end < 0
    fractions = np.sort(start[crossing] / (start[crossing] - end[crossing]))
    if fractions.size <= max(crossings(a, b, collisions=0).total(), 1) or num_divisions > MAX_DIVISIONS:
        return [], []
    widest = int(np.argmax(np.diff(fractions)))
    middle = curve.between(a, b, float(fractions[widest : widest + 2].mean()))
    if middle is None:
        return [], []
    if np.ptp(fractions) * np.linalg.norm(b.zeta - a.zeta) < SMALLEST_CHORD:
        return [middle], [middle]
    before, after = (_separate(curve, *pair, num_divisions + 1) for pair in ((a, middle), (middle, b)))
    return [*before[0], middle, *after[0]], [*before[1], *after[1]]


def _logs_by_vectors(curve: Curve, a: Node, b: Node) -> tuple[np.ndarray, np.ndarray]:
    """ln|mu| at both of two nodes of the multipliers that may cross, paired by how far their eigenvectors agree."""
    parts = []
    for node in (a, b):
        e = jax.device_get(evaluate_cycle(curve.system, node.zeta * curve.metric.scales))
        m = np.linalg.multi_dot([np.eye(curve.system.num_units), *e.step_jacobians[::-1]])
        parts.append(eig(m, left=True, right=True))
    (mu, left, _), (mu_after, _, right) = parts
    rows, columns = linear_sum_assignment(-np.abs(left.conj().T @ right))
    with np.errstate(divide="ignore"):
        start, end = (np.maximum(np.log(np.abs(m)), -700.0) for m in (mu[rows], mu_after[columns]))
    watched = (np.abs(start) < FARTHEST) & (np.imag(mu[rows]) >= 0)
    return start[watched], end[watched]


def _may_hide(curve: Curve, nodes: list[Node], arcs: np.ndarray, k: int) -> bool:
    """Whether crossings that cancel may lie between nodes k and k + 1.

    A concave function lies below the lines through its neighbouring values. Where those of ln|mu| meet above zero, the
    multiplier may have gone through the circle and come back; outside the circle, the same for -ln|mu|.
    """
    a, b = nodes[k], nodes[k + 1]
    events = crossings(a, b)
    rows = _watched_rows(a)
    if int(np.sum(logs_of(a, rows) * logs_of(b, partners_of(a, b, rows)) < 0)) > events.total():
        return True
    length = arcs[k + 1] - arcs[k]
    if _may_swap(curve, a, b, events.total()):
        return True
    if events:
        return False
    # The parameter may turn twice: its cubic does.
    s = np.linspace(0, 1, 9)[1:-1]
    slope = 6 * s * (1 - s) * (b.zeta[-1] - a.zeta[-1]) + length * (
        (1 - s) * (1 - 3 * s) * a.tangent[-1] + s * (3 * s - 2) * b.tangent[-1]
    )
    if np.any(slope * a.tangent[-1] < 0) and a.tangent[-1] * b.tangent[-1] > 0:
        return True
    return _peaking_rows(nodes, arcs, k).size > 0


def _watched_rows(a: Node) -> np.ndarray:
    """One of each pair; those far from the circle cannot cross it twice within a step that continuation accepts."""
    near = np.abs(logs_of(a, np.arange(len(a.multipliers)))) < FARTHEST
    return np.flatnonzero(near & (np.imag(a.multipliers) >= 0))


def _peaking_rows(nodes: list[Node], arcs: np.ndarray, k: int) -> np.ndarray:
    """Which multipliers of node k may reach the circle before node k + 1 and come back, by their neighbours."""
    a, b = nodes[k], nodes[k + 1]
    rows = _watched_rows(a)
    partners = partners_of(a, b, rows)
    start, end = logs_of(a, rows), logs_of(b, partners)
    before, after = np.full(rows.size, np.nan), np.full(rows.size, np.nan)
    if k > 0:
        before = logs_of(nodes[k - 1], partners_of(a, nodes[k - 1], rows))
    if k + 2 < len(nodes):
        known = partners >= 0
        after[known] = logs_of(nodes[k + 2], partners_of(b, nodes[k + 2], partners[known]))
    slopes = np.full((3, rows.size), np.nan)
    for row, (first, second, at) in enumerate(((before, start, k - 1), (start, end, k), (end, after, k + 1))):
        if 0 <= at < len(arcs) - 1:
            slopes[row] = (second - first) / (arcs[at + 1] - arcs[at])
    sides = np.where(start > 0, -1.0, 1.0)
    up = np.where(np.isnan(slopes[0]), np.inf, sides * slopes[0])
    down = np.where(np.isnan(slopes[2]), np.inf, -sides * slopes[2])
    length = arcs[k + 1] - arcs[k]
    return rows[
        [
            not np.isnan(values).any() and _peak(*values, length=length) > 0
            for values in np.stack([sides * start, sides * end, up, down], axis=1).tolist()
        ]
    ]


def _top(curve: Curve, a: Node, b: Node, row: int) -> tuple[Node, float] | None:
    """Where a multiplier comes nearest to the circle between two nodes, and by how much it gets beyond.

    Golden sections, which end where it does, or where the interval is as short as a maximum can be told apart.
    """
    side = -1.0 if logs_of(a, np.array([row]))[0] > 0 else 1.0
    found: list[tuple[Node, float]] = []

    def height(s: float) -> float:
        node = curve.between(a, b, s)
        if node is None:
            return -np.inf
        found.append((node, float(side * logs_of(node, partners_of(a, node, np.array([row])))[0])))
        return found[-1][1]

    ratio = (np.sqrt(5) - 1) / 2
    low, high = 0.0, 1.0
    first, second = 1 - ratio, ratio
    at_first, at_second = height(first), height(second)
    while max(at_first, at_second) <= TOUCH and high - low > 1e-8:
        if at_first >= at_second:
            high, second, at_second = second, first, at_first
            first = high - ratio * (high - low)
            at_first = height(first)
        else:
            low, first, at_first = first, second, at_second
            second = low + ratio * (high - low)
            at_second = height(second)
    return max(found, key=lambda pair: pair[1]) if found else None


def _is_upright(curve: Curve, node: Node) -> bool:
    """Whether a multiplier is 1 only because the curve stands upright there (x^3 = p): it is as regular as anywhere."""
    nearest = node.multipliers[np.argmin(np.abs(logs_of(node, np.arange(len(node.multipliers)))))]
    e = jax.device_get(evaluate_cycle(curve.system, node.zeta * curve.metric.scales))
    gap = np.linalg.svd(np.asarray(e.jacobian) * curve.metric.scales, compute_uv=False)[-1]
    return bool(abs(nearest - 1) < 1e-6 and gap > 1e-5)


def _arcs(nodes: list[Node]) -> np.ndarray:
    """The arc length at every node."""
    chords = [np.linalg.norm(b.zeta - a.zeta) for a, b in itertools.pairwise(nodes)]
    return np.concatenate([[0.0], np.cumsum(chords)])


def _may_swap(curve: Curve, a: Node, b: Node, num_events: int) -> bool:
    """Whether one multiplier may come in while another goes out, so that what is left looks like what was there.

    Only where some lie close to the circle on both sides. The curve is known between its nodes, without a correction,
    to fourth order in their distance: the multipliers there show what happens on the way. Where two of them have less
    far to go to change places than the fastest goes in half of the way, even that is not enough.
    """
    logs = np.log(np.maximum(np.abs(np.concatenate([a.multipliers, b.multipliers])), 1e-300))
    close = logs[np.abs(logs) < CLOSE]
    if curve.system.matrix_free or curve.num_multipliers is not None or not (np.any(close > 0) and np.any(close < 0)):
        return False
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


def _peak(start: float, end: float, up: float, down: float, length: float) -> float:
    """The most that a concave function can reach between two values, by its slopes before and after; inf: not known."""
    if up <= 0 or down <= 0 or not np.isfinite(min(up, down)):
        return -np.inf
    # Where start + up s and end + down (length - s) meet, or the one that is known at the far end.
    if np.isfinite(up) and np.isfinite(down):
        s = np.clip((end - start + down * length) / (up + down), 0, length)
        return float(min(start + up * s, end + down * (length - s)))
    return float(start + up * length / 2 if np.isfinite(up) else end + down * length / 2)
