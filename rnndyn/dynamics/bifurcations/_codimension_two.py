"""Points of codimension two on a curve of bifurcations: the functions that vanish there, and where they do."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._normal_forms import Derivatives, neimark_sacker_coefficient
from rnndyn.dynamics.bifurcations._systems import CycleSystem, evaluate_cycle
from rnndyn.dynamics.bifurcations.bifurcations import FLIP, FOLD, NEIMARK_SACKER, RESONANCES
from rnndyn.dynamics.numerics.eigenvalues import orbit_product

CUSP, GENERALIZED_FLIP, CHENCINER, FOLD_FLIP = "cusp", "generalized flip", "Chenciner", "fold-flip"


def locate(curve: Curve, a: Node, b: Node, test: Callable[[Curve, Node], float]) -> tuple[float, Node, float] | None:
    """The node between two others where `test` vanishes, with the fraction of the chord; None where it has a pole."""
    start, end = test(curve, a), test(curve, b)
    low, high = 0.0, 1.0
    best = (low, a, start) if abs(start) < abs(end) else (high, b, end)
    # Bisection to the rounding of the fraction; a test function may be as steep as it likes.
    for _ in range(52):
        found = _between(curve, a, b, low, high)
        if found is None:
            return None
        fraction, node = found
        value = test(curve, node)
        if abs(value) <= abs(best[2]):
            best = (fraction, node, value)
        if value * start > 0:
            low = fraction
        else:
            high = fraction
    fraction, node, value = best
    relative = abs(value) / min(abs(start), abs(end))
    # At a zero, bracketed to rounding, the function is many digits smaller than at the ends; at a pole it is larger.
    return (fraction, node, relative) if relative < 1e-4 else None


def _between(curve: Curve, a: Node, b: Node, low: float, high: float) -> tuple[float, Node] | None:
    """A node near the middle of two fractions of a chord; None where the system is singular, as where curves cross."""
    for part in (0.5, 0.41, 0.63):
        fraction = low + part * (high - low)
        node = curve.between(a, b, fraction)
        if node is not None:
            return fraction, aligned(node, a)
    return None


def aligned(node: Node, neighbour: Node) -> Node:
    """The node with its critical vectors pointing as those of its neighbour, so that test functions are continuous."""
    if node.frame[0].ndim > 1:
        return node
    frame = tuple(v * (1.0 if v @ w >= 0 else -1.0) for v, w in zip(node.frame, neighbour.frame, strict=True))
    return dataclasses.replace(node, frame=frame)


def _derivatives(curve: Curve, node: Node) -> tuple[Derivatives, np.ndarray, np.ndarray]:
    """Derivatives of the iterated map at a node of a fold or flip curve, with its critical vectors q and p."""
    cycle: CycleSystem = curve.system.cycle
    z = node.zeta * curve.metric.scales
    z = np.concatenate([z[: cycle.num_states], z[-2:]])
    e = evaluate_cycle(cycle, z)
    m = orbit_product(e.step_jacobians)
    if node.frame[0].ndim > 1:
        return Derivatives(cycle, z, m), m, m
    # The first blocks of the null vectors of the shooting matrix are those of the monodromy matrix.
    p, q = (v[: cycle.num_units] / np.linalg.norm(v[: cycle.num_units]) for v in node.frame)
    return Derivatives(cycle, z, m), q, p


def _overlap(curve: Curve, node: Node) -> float:
    """<p, q>: zero where the critical multiplier is double with one eigenvector."""
    p, q = (v[: curve.system.cycle.num_units] for v in node.frame)
    return float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q)))


def _quadratic(curve: Curve, node: Node) -> float:
    """<p, B(q, q)>: zero at a cusp."""
    d, q, p = _derivatives(curve, node)
    return float(p @ d.second(q, q))


def _cubic(curve: Curve, node: Node) -> float:
    """The flip coefficient, up to the factor <p, q> det(1 - A): zero at a generalised flip.

    The coefficient has a pole where 1 - A is singular, at a fold-flip; times the determinant it is regular there. With
    1 - A = U S V^T and the smallest singular value s, the factor is +-s, and +-s (1 - A)^-1 = +-V (s / S) U^T.
    """
    d, q, p = _derivatives(curve, node)
    left, values, right = np.linalg.svd(np.eye(q.size) - d.monodromy)
    sign = np.sign(np.linalg.det(left) * np.linalg.det(right))
    small = np.append(values[-1] / values[:-1], 1.0)
    h = sign * right.T @ (small * (left.T @ d.second(q, q)))
    return float(p @ (sign * values[-1] * d.third(q, q, q) + 3 * d.second(q, h)))


def _first_lyapunov(curve: Curve, node: Node) -> float:
    k = cosine(curve, node)
    if abs(k) >= 1:
        return np.nan
    return neimark_sacker_coefficient(_derivatives(curve, node)[0], float(np.arccos(k)))


def cosine(curve: Curve, node: Node) -> float:
    return float((node.zeta * curve.metric.scales)[curve.system.cycle.num_states])


def _other_critical(target: float) -> Callable[[Curve, Node], float]:
    """The product of mu - target over all multipliers: zero where another one becomes critical."""
    return lambda curve, node: float(np.real(np.prod(node.multipliers - target)))


def _passes_angle(angle: float) -> Callable[[Curve, Node], float]:
    return lambda curve, node: cosine(curve, node) - np.cos(angle)


TESTS: dict[str, dict[str, Callable[[Curve, Node], float]]] = {
    FOLD: {CUSP: _quadratic, "1:1": _overlap, FOLD_FLIP: _other_critical(-1.0)},
    FLIP: {GENERALIZED_FLIP: _cubic, "1:2": _overlap, FOLD_FLIP: _other_critical(1.0)},
    NEIMARK_SACKER: {
        **{name: _passes_angle(angle) for name, angle in RESONANCES.items()},
        CHENCINER: _first_lyapunov,
    },
}
