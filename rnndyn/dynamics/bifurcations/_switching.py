"""From one branch to another: the first nodes of what is born at a bifurcation, and whether it is known already."""

import dataclasses

import numpy as np

from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite, shift_points
from rnndyn.dynamics.bifurcations._systems import evaluate_cycle
from rnndyn.dynamics.bifurcations.bifurcations import FLIP, Bifurcation, branch_tangents
from rnndyn.dynamics.bifurcations.continuation import Branch
from rnndyn.dynamics.numerics.eigenvalues import orbit_product
from rnndyn.dynamics.numerics.evidence import rounding_floor

_LEAST_DEPARTURE = 1e-12
"""Moduli of multipliers this close to 1 are on either side by rounding."""

_NEAREST = 1e-5
"""Arc length from a bifurcation at which rounding begins to mix the branches that meet there."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """A branch with the nodes it was made of and where it came from."""

    curve: Curve
    nodes: list[Node]
    branch: Branch
    level: int
    parent: int
    event: int


def switch(parent: Traced, event: Bifurcation, curve: Curve, step: float, min_step: float) -> list[tuple[Node, Node]]:
    """The first nodes of the branches born at `event`, each with a node at the event itself."""
    cycle = parent.curve.system
    z = np.append(event.points.ravel(), event.parameter)
    e = evaluate_cycle(cycle, z)
    scales = np.asarray(curve.metric.scales)
    if event.kind == FLIP:
        directions = [_doubling_direction(e.step_jacobians, scales)]
        origin = np.concatenate([z[:-1], z[:-1], z[-1:]]) / scales
        multipliers = event.multipliers**2
    else:
        own = event.tangent / scales
        _, crossing = branch_tangents(cycle, e, z, scales, own / np.linalg.norm(own))
        directions = [crossing, -crossing]
        origin = z / scales
        multipliers = event.multipliers
    starts = []
    for direction in directions:
        head = Node(origin, direction, event.residual, multipliers)
        node = _first_node(curve, head, step, min_step)
        if node is not None:
            starts.append((node, head))
    return starts


def _first_node(curve: Curve, head: Node, step: float, min_step: float) -> Node | None:
    """A node of the branch that leaves `head` along its tangent, so near that no multiplier has gone far."""
    before = np.sort_complex(head.multipliers)
    while step >= min_step:
        guess = head.zeta + step * head.tangent
        node = curve.node(guess, head.tangent)
        if node is not None and _blur(curve, node, head.tangent) < 0.1 * step:
            away = (node.zeta - head.zeta) / np.linalg.norm(node.zeta - head.zeta)
            moved = np.abs(np.sort_complex(node.multipliers) - before) / (1 + np.abs(before))
            # A corrector that fell back to the known branch has not moved along the new tangent.
            if away @ head.tangent > 0.9 and np.max(moved) < 0.1:
                return node
        step /= 4
    return None


def _blur(curve: Curve, node: Node, row: np.ndarray) -> float:
    """How far rounding may move a node in the plane that it was corrected in."""
    e = evaluate_cycle(curve.system, node.zeta * curve.metric.scales)
    bordered = np.concatenate([np.asarray(e.jacobian) * curve.metric.scales, row[None]])
    gap = float(np.linalg.svd(bordered, compute_uv=False)[-1])
    norm = float(np.max(np.sum(np.abs(e.jacobian[:, :-1]), axis=1)))
    floor = rounding_floor(float(curve.metric.units[0]), norm)
    return floor / gap if gap > 0 else np.inf


def near_head(curve: Curve, head: Node, first: Node) -> list[Node]:
    """Nodes between a bifurcation and the first node of a branch born there, nearer and nearer, in its order.

    A second bifurcation may lie as close. Nearer than `_NEAREST` the branches are not told apart, and a multiplier that
    has not left the circle by more than rounding says nothing.
    """
    nodes: list[Node] = []
    step = float(np.linalg.norm(first.zeta - head.zeta)) / 4
    while step >= _NEAREST:
        node = curve.node(head.zeta + step * head.tangent, head.tangent)
        if node is None or (node.zeta - head.zeta) @ head.tangent < 0.9 * np.linalg.norm(node.zeta - head.zeta):
            break
        if np.min(np.abs(np.abs(node.multipliers) - 1)) < _LEAST_DEPARTURE:
            break
        if _blur(curve, node, head.tangent) > 0.1 * step:
            break
        nodes.append(node)
        step /= 4
    return nodes[::-1]


def _doubling_direction(step_jacobians: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The tangent of the doubled cycle at a flip: the critical vectors along one round, and their negatives."""
    m = orbit_product(step_jacobians)
    _, _, right = np.linalg.svd(m + np.eye(len(m)))
    vectors = [right[-1]]
    for jacobian in step_jacobians[:-1]:
        vectors.append(jacobian @ vectors[-1])
    once = np.concatenate(vectors)
    direction = np.concatenate([once, -once, [0.0]]) / scales
    return direction / np.linalg.norm(direction)


def is_own(parent: Traced, event: Bifurcation, node: Node) -> bool:
    """Whether a node of a branch born at `event` lies on the parent itself, where it passes the event.

    Then the two are tangent, and the crossing one was not found. A loop that crosses itself passes there twice.
    """
    place = place_on(parent, node)
    if place is None:
        return False
    zetas = np.stack([n.zeta for n in parent.nodes])
    scales = np.asarray(parent.curve.metric.scales)
    zeta = np.append(event.points.ravel(), event.parameter) / scales
    own = event.tangent / scales
    chords = np.diff(zetas, axis=0)
    along = np.abs(chords @ own) > 0.5 * np.linalg.norm(chords, axis=1) * np.linalg.norm(own)
    away = np.linalg.norm((zetas[1:] + zetas[:-1]) / 2 - zeta, axis=1)
    return abs(int(np.argmin(np.where(along, away, np.inf))) - place) <= 1


def place_on(known: Traced, node: Node) -> int | None:
    """The node of a traced branch after which `node` lies on it, up to a cyclic shift; `None` where it does not."""
    curve = known.curve
    if len(curve.metric.scales) != len(node.zeta):
        return None
    zetas = np.stack([n.zeta for n in known.nodes])
    chords = np.diff(zetas, axis=0)
    lengths = np.linalg.norm(chords, axis=1)
    for shift in range(curve.num_shifts):
        zeta = shift_points(node.zeta, shift, curve.num_states, curve.num_shifts)
        fractions = np.clip(np.sum((zeta - zetas[:-1]) * chords, axis=1) / lengths**2, 0, 1)
        distance = np.linalg.norm(zetas[:-1] + fractions[:, None] * chords - zeta, axis=1)
        for k in np.flatnonzero(distance < 0.1 * lengths):
            a, b = known.nodes[k], known.nodes[k + 1]
            guess = hermite(a, b, fractions[k])
            row = chords[k] / lengths[k]
            there = curve.node(guess + row * (row @ (zeta - guess)), row)
            # Equal up to the rounding of both; branches through a common point are apart by far more.
            if there is not None and np.linalg.norm(there.zeta - zeta) < 1e-8:
                return int(k)
    return None
