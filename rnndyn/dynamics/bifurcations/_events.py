"""Finding every bifurcation on a curve: where multipliers cross the unit circle between its nodes, and exactly where.

A crossing is seen in the counts of real multipliers above 1, of real ones below -1 and of complex pairs outside the
circle, and in the sign of the tangent's parameter entry: det(DF - 1) changes sign at a fold and at a branch point, the
tangent turns at a fold only. `refine` has divided the curve so that no two crossings between nodes cancel; segments
with more than one are divided here.
"""

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np

from rnndyn.dynamics.bifurcations._borders import passed_borders
from rnndyn.dynamics.bifurcations._crossings import changing, crossings, distance_to_circle, expected_fraction, logs_of
from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite
from rnndyn.dynamics.bifurcations._refinement import MAX_DIVISIONS, SMALLEST_CHORD
from rnndyn.dynamics.bifurcations.bifurcations import (
    BORDER_COLLISION,
    BRANCH_POINT,
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    Bifurcation,
    critical_pair,
    describe_bifurcation,
    solve_bifurcation,
)
from rnndyn.dynamics.bifurcations.verdicts import BifurcationVerdict
from rnndyn.dynamics.numerics.one_sided import may_have_kinks
from rnndyn.results import is_verdict

SMALLEST_ANGLE = 1e-6
"""Angles are known to the square root of rounding where they are nearly 0 or pi: below, a pair is two real ones."""

LARGEST_BLUR = 1e-2
"""Arc length from which on the place of a crossing is not looked for more closely."""

MOST_MIDDLES = 64
"""For each crossing seen at the ends of a segment. Bisection down to `SMALLEST_CHORD` takes half as many. Multipliers
that jump about at random, as in a map with noise of its own, cross in every part of every part; what is then left is
`open`."""

_BLUR = 1e-13
"""A multiplier as close to the circle as this is on either side by rounding."""


def find_events(curve: Curve, nodes: list[Node], touches: list[Node]) -> list[Bifurcation]:
    """All bifurcations on the curve, in its order."""
    events = []
    changes, kinks = set(changing(nodes).tolist()), may_have_kinks(curve.system.f)
    for k, (a, b) in enumerate(itertools.pairwise(nodes)):
        if any(a is t for t in touches):
            events += _touching(curve, a, k)
            continue
        if k in changes:
            events += _search(curve, a, b, k)
        if kinks:
            events += [
                unsolved(curve, BORDER_COLLISION, node, 0, SMALLEST_CHORD, BifurcationVerdict.bracketed, k)
                for node in passed_borders(curve, a, b)
            ]
    return events


def unsolved(
    curve: Curve, kind: str, node: Node, multiplicity: int, error: float, result: Any, index: int
) -> Bifurcation:
    """A bifurcation at a node, without a normal form."""
    cycle = curve.system
    z = node.zeta * curve.metric.scales
    angle = {FLIP: np.pi, NEIMARK_SACKER: float(np.angle(critical_pair(node.multipliers)))}.get(kind, 0.0)
    return Bifurcation(
        kind=kind,
        parameter=float(z[-1]),
        points=z[:-1].reshape(cycle.period, cycle.num_units),
        multipliers=node.multipliers,
        angle=angle,
        coefficient=np.nan,
        subtype=None,
        multiplicity=multiplicity,
        residual=node.residual,
        error=error,
        result=result,
        index=index,
        tangent=node.tangent * curve.metric.scales,
    )


def first_jump(curve: Curve, nodes: list[Node]) -> int | None:
    """The first k at which nodes k and k + 1 look as if a branch point lay between them but none can be found.

    The branches then only come close (an imperfect pitchfork), and the step has jumped from one to the other.
    """
    for k in changing(nodes).tolist():
        a, b = nodes[k], nodes[k + 1]
        if BRANCH_POINT in crossings(a, b):
            events = _search(curve, a, b, 0)
            if any(is_verdict(event.result, BifurcationVerdict.open) for event in events):
                return k
    return None


def _search(curve: Curve, a: Node, b: Node, index: int) -> list[Bifurcation]:
    """All bifurcations between the nodes a and b, of number `index` and the next."""
    return _Segment(curve, index, MOST_MIDDLES * (1 + crossings(a, b).total())).search(a, b)


@dataclasses.dataclass
class _Segment:
    """The search between the nodes `index` and `index + 1` of a curve, with this many nodes between them at most."""

    curve: Curve
    index: int
    num_left: int = 0

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
            if found is not None and self._hides_fold(found, a, b):
                fold = self._solve(FOLD, self._between_turns(a, b), a, b)
                if fold is not None:
                    return sorted((found, fold), key=lambda event: self._fraction(event, a, b))
            elif found is not None:
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

    def _hides_fold(self, event: Bifurcation, a: Node, b: Node) -> bool:
        """Whether the curve turns between two nodes although it does not at the one branch point found there."""
        if event.kind != BRANCH_POINT or a.tangent[-1] * b.tangent[-1] > 0:
            return False
        own = event.tangent / np.asarray(self.curve.metric.scales)
        return bool(abs(own[-1]) > 1e-5 * np.linalg.norm(own))

    def _between_turns(self, a: Node, b: Node) -> Node:
        """A node near the fold between two nodes; one of them where the corrector fails."""
        return self.curve.between(a, b, expected_fraction(FOLD, a, b)) or a

    def _fraction(self, event: Bifurcation, a: Node, b: Node) -> float:
        zeta = np.append(event.points.ravel(), event.parameter) / np.asarray(self.curve.metric.scales)
        return float((zeta - a.zeta) @ (b.zeta - a.zeta))

    def _solve(self, kind: str, guess: Node, a: Node, b: Node) -> Bifurcation | None:
        """The solution of the defining system, if it lies between the two nodes on this branch."""
        solved = solve_bifurcation(self.curve, kind, guess)
        if solved is None:
            return None
        solution, z, angle = solved
        error = max(float(solution.last_step), float(solution.rounding))
        # Two real multipliers that cross at once solve the system of a pair too, with an angle of 0 or pi.
        if kind == NEIMARK_SACKER and min(angle, np.pi - angle) < SMALLEST_ANGLE:
            return None
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
        event = describe_bifurcation(self.curve, kind, z, angle, error, self.index, tangent / np.linalg.norm(tangent))
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
        tangent = (b.zeta - a.zeta) / max(length, 1e-300)
        blur = 0.0 if is_kink else self.blur(kind, a, b)
        error = max(length, blur)
        # Where rounding blurs the crossing over all of the bracket, a shorter one says no more.
        is_short = length <= max(SMALLEST_CHORD, blur)
        known = BifurcationVerdict.blurred if is_short else BifurcationVerdict.open
        if is_short and error <= 1e-10:
            known = BifurcationVerdict.bracketed
        middle = Node((a.zeta + b.zeta) / 2, tangent, max(a.residual, b.residual), a.multipliers)
        kind = BORDER_COLLISION if is_kink else kind
        return unsolved(self.curve, kind, middle, count, error, known, self.index)

    def blur(self, kind: str, a: Node, b: Node) -> float:
        """How far from a bracket the multiplier can be told from the circle: where it crosses slowly, that is far."""
        reach = 0.0
        for node, sign in ((a, -1.0), (b, 1.0)):
            size, away = SMALLEST_CHORD, node
            while away is not None and abs(distance_to_circle(kind, away)) < _BLUR and size < LARGEST_BLUR:
                reach = max(reach, size)
                size *= 4
                away = self.curve.node(node.zeta + sign * size * node.tangent, node.tangent, node.frame)
        return reach

    def _middle(self, a: Node, b: Node) -> Node | None:
        """A node near the middle; the system may be singular in one plane, not in all. None where none is left."""
        self.num_left -= 1
        if self.num_left < 0:
            return None
        for fraction in (0.5, 0.41, 0.63):
            middle = self.curve.between(a, b, fraction)
            if middle is not None and np.linalg.norm(middle.zeta - (a.zeta + b.zeta) / 2) < np.linalg.norm(
                b.zeta - a.zeta
            ):
                return middle
        return None


def _touching(curve: Curve, node: Node, index: int) -> list[Bifurcation]:
    """The point where a multiplier touches the circle and turns back."""
    mu = node.multipliers[np.argmin(np.abs(logs_of(node, np.arange(len(node.multipliers)))))]
    kind = NEIMARK_SACKER if abs(mu.imag) > SMALLEST_ANGLE else BRANCH_POINT if mu.real > 0 else FLIP
    error = _Segment(curve, index).blur(kind, node, node)
    return [unsolved(curve, kind, node, 0, error, BifurcationVerdict.blurred, index)]
