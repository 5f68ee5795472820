"""Finding every bifurcation on a curve: where multipliers cross the unit circle between its nodes, and exactly where.

A crossing is seen in the counts of real multipliers above 1, of real ones below -1 and of complex pairs outside the
circle, and in the sign of the tangent's parameter entry: det(DF - 1) changes sign at a fold and at a branch point, the
tangent turns at a fold only. Counts cannot show two crossings that cancel. So every multiplier near the circle is
followed from node to node. Segments in which more of them change sides than the counts say, or in which extrapolation
from the neighbours does not exclude that one goes out and comes back, are divided first (`refine`), then those with
more than one crossing (`find_events`).
"""

import dataclasses
import itertools
from collections import Counter

import jax
import numpy as np

from rnndyn.dynamics.bifurcations._crossings import crossings, expected_fraction, logs_of, partners_of
from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite, sorted_multipliers
from rnndyn.dynamics.bifurcations.bifurcations import (
    BORDER_COLLISION,
    BRANCH_POINT,
    FLIP,
    NEIMARK_SACKER,
    Bifurcation,
    critical_pair,
    describe_bifurcation,
    evaluate_cycle,
    solve_bifurcation,
)
from rnndyn.dynamics.bifurcations.verdicts import BifurcationVerdict

MAX_DIVISIONS = 6
"""How often a segment is halved on mere suspicion: a pair of crossings 1/64 of a step apart is then still found."""

FARTHEST = 1.5
"""Multipliers with |ln|mu|| above this are not watched between nodes."""

CLOSE = 0.3
"""Within this |ln|mu|| on either side of the circle, multipliers are suspected to change places between nodes."""

SMALLEST_CHORD = 2e-11
"""Crossings that this length of the curve does not separate are taken to be simultaneous."""


def refine(curve: Curve, nodes: list[Node]) -> list[Node]:
    """The nodes with others put between them where two crossings of the unit circle could cancel unseen."""
    suspects = list(range(len(nodes) - 1))
    for _ in range(MAX_DIVISIONS):
        chords = [np.linalg.norm(b.zeta - a.zeta) for a, b in itertools.pairwise(nodes)]
        arcs = np.concatenate([[0.0], np.cumsum(chords)])
        marked = [k for k in suspects if _may_hide(curve, nodes, arcs, k)]
        if not marked:
            break
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
    return nodes


def find_events(curve: Curve, nodes: list[Node]) -> list[Bifurcation]:
    """All bifurcations on the curve, in its order."""
    events = []
    for k, (a, b) in enumerate(itertools.pairwise(nodes)):
        events += _Segment(curve, k).search(a, b)
    return events


def is_sound(curve: Curve, a: Node, b: Node) -> bool:
    """False where two nodes look as if a branch point lay between them but none can be found.

    The branches then only come close (an imperfect pitchfork), and the step has jumped from one to the other.
    """
    if BRANCH_POINT not in crossings(a, b):
        return True
    return all(event.converged for event in _Segment(curve, 0).search(a, b))


@dataclasses.dataclass(frozen=True)
class _Segment:
    """The search between the nodes `index` and `index + 1` of a curve."""

    curve: Curve
    index: int

    def search(self, a: Node, b: Node, num_divisions: int = 0) -> list[Bifurcation]:
        events = crossings(a, b)
        if not events:
            return []
        # An explanation that needs a collision is believed when a short segment still needs it.
        is_plain = crossings(a, b, collisions=0) == events or num_divisions >= MAX_DIVISIONS
        if events.total() == 1 and is_plain:
            return self._locate(next(iter(events)), a, b)
        if np.linalg.norm(b.zeta - a.zeta) < SMALLEST_CHORD:
            return self._simultaneous(crossings(a, b, collisions=0), a, b)
        middle = self._middle(a, b)
        if middle is None:
            return self._simultaneous(events, a, b)
        return self.search(a, middle, num_divisions + 1) + self.search(middle, b, num_divisions + 1)

    def _locate(self, kind: str, a: Node, b: Node) -> list[Bifurcation]:
        """The one crossing between two nodes: Newton on the defining system, bisection until it is close enough."""
        guess = self.curve.between(a, b, expected_fraction(kind, a, b))
        while np.linalg.norm(b.zeta - a.zeta) > SMALLEST_CHORD:
            found = None if guess is None else self._solve(kind, guess, a, b)
            if found is not None:
                return [found]
            middle = self._middle(a, b)
            if middle is None:
                break
            first, second = crossings(a, middle), crossings(middle, b)
            if first.total() + second.total() != 1:  # the middle shows more than the ends did
                return self.search(a, middle) + self.search(middle, b)
            a, b = (a, middle) if first else (middle, b)
            kind = next(iter(first or second))
            guess = self.curve.between(a, b, expected_fraction(kind, a, b))
        return self._simultaneous(crossings(a, b, collisions=0), a, b)

    def _solve(self, kind: str, guess: Node, a: Node, b: Node) -> Bifurcation | None:
        """The solution of the defining system, if it lies between the two nodes on this branch."""
        solved = solve_bifurcation(self.curve, kind, guess)
        if solved is None:
            return None
        solution, z, angle = solved
        zeta = z / self.curve.metric.scales
        chord = b.zeta - a.zeta
        length = np.linalg.norm(chord)
        fraction = (zeta - a.zeta) @ chord / length**2
        slack = 1e-9 / length  # an event may coincide with a node up to its error
        if not -slack <= fraction <= 1 + slack:
            return None
        # The cubic is good to a small part of the chord; another branch as close as this has been excluded by now.
        if np.linalg.norm(zeta - hermite(a, b, fraction)) > 0.1 * length + 1e-9:
            return None
        tangent = a.tangent + b.tangent if a.tangent @ b.tangent > 0 else chord / length
        event = describe_bifurcation(
            self.curve, kind, z, angle, float(solution.last_step), self.index, tangent / np.linalg.norm(tangent)
        )
        # A double multiplier is known to the square root of rounding only.
        off = np.min(np.abs(event.multipliers - np.exp(1j * angle)))
        return event if off < 1e-6 else None

    def _simultaneous(self, events: Counter[str], a: Node, b: Node) -> list[Bifurcation]:
        """Crossings at one point: those of one multiplier by Newton, where it converges, the others as bracketed."""
        found = []
        for kind, count in events.items():
            single = self._solve(kind, a, a, b) if count == 1 else None
            found.append(single or self._bracketed(kind, count, a, b))
        return found

    def _bracketed(self, kind: str, count: int, a: Node, b: Node) -> Bifurcation:
        """The middle of two nodes as the point, without a normal form; a border collision where multipliers jump."""
        length = float(np.linalg.norm(b.zeta - a.zeta))
        num = min(len(a.multipliers), len(b.multipliers))
        jump = np.max(np.abs(np.sort_complex(a.multipliers[:num]) - np.sort_complex(b.multipliers[:num])))
        # Smooth multipliers move with the square root of the distance at the fastest (where two of them meet).
        is_kink = jump > 1e-2 * (1 + np.abs(a.multipliers[0])) and length <= SMALLEST_CHORD
        z = (a.zeta + b.zeta) / 2 * self.curve.metric.scales
        angle = {FLIP: np.pi, NEIMARK_SACKER: float(np.angle(critical_pair(a.multipliers)))}.get(kind, 0.0)
        cycle = self.curve.system
        return Bifurcation(
            kind=BORDER_COLLISION if is_kink else kind,
            parameter=float(z[-1]),
            points=z[:-1].reshape(cycle.period, cycle.num_units),
            multipliers=a.multipliers,
            angle=angle,
            coefficient=np.nan,
            subtype=None,
            multiplicity=count,
            residual=max(a.residual, b.residual),
            error=length,
            result=BifurcationVerdict.bracketed if length <= SMALLEST_CHORD else BifurcationVerdict.open,
            index=self.index,
            tangent=(b.zeta - a.zeta) / max(length, 1e-300) * self.curve.metric.scales,
        )

    def _middle(self, a: Node, b: Node) -> Node | None:
        """A node near the middle; the system may be singular in one plane, not in all."""
        for fraction in (0.5, 0.41, 0.63):
            middle = self.curve.between(a, b, fraction)
            if middle is not None and np.linalg.norm(middle.zeta - (a.zeta + b.zeta) / 2) < np.linalg.norm(
                b.zeta - a.zeta
            ):
                return middle
        return None


def _may_hide(curve: Curve, nodes: list[Node], arcs: np.ndarray, k: int) -> bool:
    """Whether crossings that cancel may lie between nodes k and k + 1.

    A concave function lies below the lines through its neighbouring values. Where those of ln|mu| meet above zero, the
    multiplier may have gone through the circle and come back; outside the circle, the same for -ln|mu|.
    """
    a, b = nodes[k], nodes[k + 1]
    events = crossings(a, b)
    # One of each pair; those far from the circle cannot cross it twice within a step that continuation accepts.
    near = np.abs(logs_of(a, np.arange(len(a.multipliers)))) < FARTHEST
    rows = np.flatnonzero(near & (np.imag(a.multipliers) >= 0))
    partners = partners_of(a, b, rows)
    start, end = logs_of(a, rows), logs_of(b, partners)
    if int(np.sum(start * end < 0)) > events.total():
        return True
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
    sides = np.where(start > 0, -1.0, 1.0)
    up = np.where(np.isnan(slopes[0]), np.inf, sides * slopes[0])
    down = np.where(np.isnan(slopes[2]), np.inf, -sides * slopes[2])
    return any(
        _peak(*values, length=length) > 0
        for values in np.stack([sides * start, sides * end, up, down], axis=1).tolist()
        if not np.isnan(values).any()
    )


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
    chain = [a, *(_interpolated(curve, a, b, s) for s in (0.25, 0.5, 0.75)), b]
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


def _interpolated(curve: Curve, a: Node, b: Node, fraction: float) -> Node:
    """The cubic between two nodes as one, with the multipliers there."""
    zeta = hermite(a, b, fraction)
    e = jax.device_get(evaluate_cycle(curve.system, zeta * curve.metric.scales))
    m = np.linalg.multi_dot([np.eye(curve.system.num_units), *e.step_jacobians[::-1]])
    tangent = (1 - fraction) * a.tangent + fraction * b.tangent
    return Node(zeta, tangent, float(np.max(np.abs(e.residual))), sorted_multipliers(m[None])[0], a.frame)


def _peak(start: float, end: float, up: float, down: float, length: float) -> float:
    """The most that a concave function can reach between two values, by its slopes before and after; inf: not known."""
    if up <= 0 or down <= 0 or not np.isfinite(min(up, down)):
        return -np.inf
    # Where start + up s and end + down (length - s) meet, or the one that is known at the far end.
    if np.isfinite(up) and np.isfinite(down):
        s = np.clip((end - start + down * length) / (up + down), 0, length)
        return float(min(start + up * s, end + down * (length - s)))
    return float(start + up * length / 2 if np.isfinite(up) else end + down * length / 2)
