"""Bounds on all multipliers between the nodes of a curve, by interval arithmetic.

Every step is covered by boxes of states and parameters. Over a box the derivative of the map lies in a matrix of
intervals, whose eigenvalues lie in discs (Gershgorin's theorem in the eigenbasis of its centre). Where no disc touches
the unit circle none of the multipliers reaches it, however fast it moves. A step whose boxes do not settle that is
divided by a node; crossings are then seen as everywhere, in the counts at nodes.

The boxes hold the cubic between two nodes with a margin. That the curve lies there is not proved: the corrector of the
steps, and that of every node which divides them, says so.
"""

import itertools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.intervals import enclose_boxes
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.multiplier_discs import count_outside_unit_circle, multiplier_discs

NUM_BOXES = 8
"""Boxes in a row that cover a step."""

MARGIN = 0.25
"""Boxes are wider than the cubic by this fraction of their own width, and of its largest distance from the chord."""

SHORTEST = 1e-4
"""Steps of this arc length are not divided further: next to a bifurcation nothing can be excluded."""

MOST_NODES = 4096
"""Nodes that are put between those of a curve at most."""

_SAMPLES = 4
"""Parts of each box along the cubic at whose ends it is evaluated."""

_BATCH = 128
"""Boxes that are taken at once; a fixed number, so that one program serves all."""

Pair = tuple[Node, Node]


def bound_segments(curve: Curve, nodes: list[Node]) -> tuple[list[Node], list[Pair]]:
    """The nodes with others between them, and the pairs of neighbours between which a multiplier may reach the circle.

    Those at a bifurcation are among them.
    """
    pairs = list(itertools.pairwise(nodes))
    after: dict[int, list[Node]] = {}
    open_pairs: list[Pair] = []
    num_new = 0
    with interval_precision():
        while pairs:
            following: list[Pair] = []
            for (a, b), is_settled in zip(pairs, _are_settled(curve, pairs)):
                if is_settled:
                    continue
                is_long = np.linalg.norm(b.zeta - a.zeta) > SHORTEST
                middle = curve.between(a, b, 0.5) if is_long and num_new < MOST_NODES else None
                if middle is None:
                    open_pairs.append((a, b))
                    continue
                num_new += 1
                after.setdefault(id(a), []).insert(0, middle)
                following += [(a, middle), (middle, b)]
            pairs = following
    return [each for node in nodes for each in _with_all_after(node, after)], open_pairs


def unseen_intervals(
    curve: Curve, nodes: list[Node], events: list[int], pairs: list[Pair], is_born: bool, shortest: float
) -> Float[np.ndarray, "K 2"]:
    """The intervals of the parameter between these pairs of nodes, but for steps up to `shortest` at a bifurcation.

    `events` are the indices of the nodes before each bifurcation; with `is_born` there is one at the first node.

    Next to one some multiplier is on the circle, and nothing can be excluded by bounds: the steps there are as short as
    they become, and multipliers are known at their ends.
    """
    place = {id(node): k for k, node in enumerate(nodes)}
    is_open = np.zeros(len(nodes) - 1, bool)
    for a, b in pairs:
        is_open[place[id(a)] : place[id(b)]] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_open, [False]])))
    found = []
    for first, last in zip(edges[::2], edges[1::2]):
        lengths = [np.linalg.norm(b.zeta - a.zeta) for a, b in itertools.pairwise(nodes[first : last + 1])]
        is_next = any(first - 1 <= k <= last for k in events) or (is_born and first == 0)
        if not (is_next and max(lengths) <= shortest):
            parameters = [node.zeta[-1] * curve.metric.scales[-1] for node in nodes[first : last + 1]]
            found.append((min(parameters), max(parameters)))
    return np.array(found, float).reshape(-1, 2)


def _with_all_after(node: Node, after: dict[int, list[Node]]) -> list[Node]:
    """A node and those put behind it, and behind these: the latest lie nearest."""
    found = [node]
    for other in after.get(id(node), []):
        found += _with_all_after(other, after)
    return found


def _are_settled(curve: Curve, pairs: list[Pair]) -> np.ndarray:
    """Of which pairs of nodes no multiplier reaches the circle in between."""
    lower, upper = np.stack([_boxes(a, b) for a, b in pairs], axis=1)
    scales, period, size = np.asarray(curve.metric.scales), curve.system.period, curve.system.num_units
    lower, upper = (bound.reshape(-1, len(scales)) * scales for bound in (lower, upper))
    # Each point of the cycle with the parameters.
    steps = [
        np.concatenate(
            [
                bound[:, : period * size].reshape(-1, period, size),
                np.repeat(bound[:, None, period * size :], period, axis=1),
            ],
            axis=2,
        ).reshape(len(bound) * period, -1)
        for bound in (lower, upper)
    ]
    centers, radii = _derivatives(curve, *steps)
    shape = (len(lower), period, size, size)
    centers, radii = _products(centers.reshape(shape), radii.reshape(shape))
    with np.errstate(all="ignore"):
        counts = count_outside_unit_circle(*multiplier_discs(centers, radii))
    return np.asarray((counts >= 0).reshape(len(pairs), NUM_BOXES).all(axis=1))


def _boxes(a: Node, b: Node) -> Float[np.ndarray, "2 M n"]:
    """Lower and upper corners, in scaled coordinates, of boxes around the cubic between two nodes."""
    fractions = np.linspace(0, 1, NUM_BOXES * _SAMPLES + 1)
    zetas = hermite(a, b, fractions)
    chord = a.zeta + fractions[:, None] * (b.zeta - a.zeta)
    each = np.stack([zetas[k * _SAMPLES : (k + 1) * _SAMPLES + 1] for k in range(NUM_BOXES)])
    lower, upper = each.min(axis=1), each.max(axis=1)
    margin = MARGIN * (upper - lower + np.max(np.abs(zetas - chord))) + 1e-12
    return np.stack([lower - margin, upper + margin])


def _derivatives(curve: Curve, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radius of the derivative by the state over each box."""
    size, parts = curve.system.num_units, []
    for first in range(0, len(lower), _BATCH):
        chosen = [bound[first : first + _BATCH] for bound in (lower, upper)]
        num = len(chosen[0])
        padded = [np.concatenate([bound, np.repeat(bound[-1:], _BATCH - num, axis=0)]) for bound in chosen]
        jacobian: Any = jax.device_get(enclose_boxes(curve.system.step, *padded)).jacobian
        inside = ia.Interval(*(np.asarray(end)[:num, :, :size] for end in (jacobian.lo, jacobian.hi)))
        with np.errstate(invalid="ignore"):
            center = np.asarray(ia.midpoint(inside))
            parts.append((center, np.asarray(ia.radius_about(inside, center))))
    return np.concatenate([center for center, _ in parts]), np.concatenate([radius for _, radius in parts])


def _products(
    centers: Float[np.ndarray, "K P N N"], radii: Float[np.ndarray, "K P N N"]
) -> tuple[Float[np.ndarray, "K N N"], Float[np.ndarray, "K N N"]]:
    """Centre and radius of the product of the last matrix of each row with those before it."""
    center, radius = centers[:, 0], radii[:, 0]
    rounding = 4 * (centers.shape[-1] + 4) * ia.UNIT_ROUNDOFF
    for k in range(1, centers.shape[1]):
        left, left_radius = centers[:, k], radii[:, k]
        size = np.abs(center) + radius
        # Rounding of the product of the centres, and of the three sums here, is less than the last term.
        radius = np.abs(left) @ radius + left_radius @ size + rounding * ((np.abs(left) + left_radius) @ size)
        center = left @ center
    return center, radius
