"""Where a curve passes a kink of the map without a bifurcation: its multipliers or its tangent jump there."""

import numpy as np

from rnndyn.dynamics.bifurcations._crossings import crossings
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._refinement import SMALLEST_CHORD

_LEAST_JUMP = 1e-6
"""Smaller changes between two nodes are no corner worth a search."""

_KEPT = 0.75
"""What a half must keep of the change to hold a jump: of a smooth one the larger half keeps about one half, and 0.71
where two multipliers meet."""


def passed_borders(curve: Curve, a: Node, b: Node) -> list[Node]:
    """A node next to every kink between two nodes of a map that may have some; crossings of the circle are not these.

    The segment is halved towards the larger change until its ends are as near as can be told.
    """
    if crossings(a, b):
        return []
    low, high, change = a, b, _change(a, b)
    while change > _LEAST_JUMP and np.linalg.norm(high.zeta - low.zeta) > SMALLEST_CHORD:
        middle = curve.between(low, high, 0.5)
        if middle is None:
            return []
        first, second = _change(low, middle), _change(middle, high)
        if max(first, second) < _KEPT * change:
            return []
        low, high = (low, middle) if first >= second else (middle, high)
        change = max(first, second)
    if change <= _LEAST_JUMP:
        return []
    return [*passed_borders(curve, a, low), low, *passed_borders(curve, high, b)]


def _change(a: Node, b: Node) -> float:
    """The largest change of a multiplier or of the direction."""
    num = min(len(a.multipliers), len(b.multipliers))
    moved = np.abs(np.sort_complex(a.multipliers[:num]) - np.sort_complex(b.multipliers[:num]))
    return float(max(np.max(moved, initial=0.0), np.max(np.abs(a.tangent - b.tangent))))
