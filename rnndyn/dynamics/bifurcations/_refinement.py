"""Dividing a curve until no crossing of the unit circle can hide between its nodes.

Counts of multipliers outside the circle cannot show two crossings that cancel. Segments in which `suspicious` does not
exclude them, or in which the derivative strays so far that a multiplier might go out and come back (`may_leave`), are
halved. What is then still open is looked at one by one: multipliers that change places are told apart by their
eigenvectors, and peaks are climbed.
"""

import numpy as np
from scipy.linalg import eig
from scipy.optimize import linear_sum_assignment

from rnndyn.dynamics.bifurcations._crossings import crossings, logs_of, partners_of
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._excursions import may_leave, may_leave_still
from rnndyn.dynamics.bifurcations._suspects import FARTHEST, peaking_rows, suspicious
from rnndyn.dynamics.bifurcations._systems import evaluate_cycle
from rnndyn.dynamics.numerics.eigenvalues import orbit_product

MAX_DIVISIONS = 6
"""How often a segment is halved on mere suspicion."""

TOUCH = 1e-12
"""Where the largest ln|mu| between nodes is within this of 0, whether it crosses the circle twice cannot be told."""

SMALLEST_CHORD = 2e-11
"""Crossings that this length of the curve does not separate are taken to be simultaneous."""


def refine(curve: Curve, nodes: list[Node]) -> tuple[list[Node], list[Node], list[tuple[Node, Node]]]:
    """The nodes with others put between them where two crossings of the unit circle could cancel unseen.

    And those of them, in order, at which a multiplier touches the circle and turns back; and the pairs of nodes between
    which one may still go out and come back as far as is known.
    """
    suspects = list(range(len(nodes) - 1))
    for _ in range(MAX_DIVISIONS):
        marked = suspicious(curve, nodes, suspects)
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
    touches, inserted, climbed = [], {}, set()
    for k in suspects:
        between, unseparated = _separate(curve, nodes[k], nodes[k + 1])
        inserted[k] = between
        touches += unseparated
        if between or crossings(nodes[k], nodes[k + 1]):
            continue
        tops = [_top(curve, nodes[k], nodes[k + 1], row) for row in peaking_rows(nodes, k).tolist()]
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
        e = evaluate_cycle(curve.system, node.zeta * curve.metric.scales)
        m = orbit_product(e.step_jacobians)
        parts.append(eig(m, left=True, right=True))
    (mu, left, _), (mu_after, _, right) = parts
    rows, columns = linear_sum_assignment(-np.abs(left.conj().T @ right))
    with np.errstate(divide="ignore"):
        start, end = (np.maximum(np.log(np.abs(m)), -700.0) for m in (mu[rows], mu_after[columns]))
    watched = (np.abs(start) < FARTHEST) & (np.imag(mu[rows]) >= 0)
    return start[watched], end[watched]


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
    e = evaluate_cycle(curve.system, node.zeta * curve.metric.scales)
    gap = np.linalg.svd(np.asarray(e.jacobian) * curve.metric.scales, compute_uv=False)[-1]
    return bool(abs(nearest - 1) < 1e-6 and gap > 1e-5)
