"""How many multipliers cross the unit circle between two nodes of a curve, counted by kind."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment

from rnndyn.dynamics.bifurcations._curve import Node, counts_outside, stack_multipliers
from rnndyn.dynamics.bifurcations.bifurcations import BRANCH_POINT, FLIP, FOLD, NEIMARK_SACKER


def changing(nodes: Sequence[Node]) -> Int[np.ndarray, " k"]:
    """Where counts or the direction of the parameter change from node k to node k + 1; elsewhere nothing crosses."""
    counts = counts_outside(stack_multipliers(nodes))
    turns = np.array([node.tangent[-1] for node in nodes]) > 0
    return np.flatnonzero(np.any(np.diff(counts, axis=0) != 0, axis=1) | np.diff(turns))


def crossings(a: Node, b: Node, *, collisions: int = 2) -> Counter[str]:
    """The fewest bifurcations that explain the change of counts from one node to the next.

    Outside the circle, where nothing bifurcates, up to `collisions` pairs of real multipliers may have become complex,
    above 1 and below -1 each, or the reverse.
    """
    plus, minus, pairs = (after - before for after, before in zip(b.counts, a.counts))
    if plus or minus or pairs:  # between most nodes nothing changes, which needs no explanation
        shifts = range(-collisions, collisions + 1)
        candidates = [(plus + 2 * i, minus + 2 * j, pairs - i - j) for i in shifts for j in shifts]
        plus, minus, pairs = min(candidates, key=lambda c: sum(abs(n) for n in c))
    turned = (a.tangent[-1] > 0) != (b.tangent[-1] > 0)
    events: Counter[str] = Counter()
    if plus % 2 == 1 and turned:
        events[FOLD] += 1
        plus = abs(plus) - 1
    elif plus == 0 and turned:
        # The arms of a pitchfork are one curve, which turns where it crosses the other branch.
        events[BRANCH_POINT] += 1
    for kind, count in ((BRANCH_POINT, plus), (FLIP, minus), (NEIMARK_SACKER, pairs)):
        if count:
            events[kind] += abs(count)
    return events


def expected_fraction(kind: str, a: Node, b: Node) -> float:
    """Where a test function, linear between two nodes, vanishes; the middle where it does not change sign."""
    if kind == FOLD:
        start, end = a.tangent[-1], b.tangent[-1]
    else:
        start, end = (distance_to_circle(kind, node) for node in (a, b))
    return float(np.clip(start / (start - end), 0.02, 0.98)) if start * end < 0 else 0.5


def distance_to_circle(kind: str, node: Node) -> float:
    """ln|mu| of the multiplier nearest to the circle, among those that can cross it at a bifurcation of `kind`."""
    mu = node.multipliers
    if kind == NEIMARK_SACKER:
        candidates = mu[np.imag(mu) > 0]
    else:
        candidates = mu[(np.imag(mu) == 0) & (np.real(mu) * (-1 if kind == FLIP else 1) > 0)]
    logs = np.log(np.abs(candidates))
    return float(logs[np.argmin(np.abs(logs))]) if logs.size else 0.0


def partners_of(a: Node, b: Node, rows: np.ndarray) -> np.ndarray:
    """Which multiplier of b each of these of a has become: the pairs that move least in all; -1 where b has none."""
    partners = np.full(rows.size, -1)
    if rows.size and len(b.multipliers):
        chosen, columns = linear_sum_assignment(np.abs(a.multipliers[rows][:, None] - b.multipliers))
        partners[chosen] = columns
    return partners


def logs_of(node: Node, rows: np.ndarray) -> np.ndarray:
    """ln|mu| of these multipliers; NaN for row -1, and -700 for a multiplier of zero."""
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(np.abs(node.multipliers)), -700.0)
    return np.where(rows >= 0, logs[rows], np.nan)
