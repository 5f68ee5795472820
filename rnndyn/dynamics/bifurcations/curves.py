"""Curves of bifurcations in the plane of two parameters, and the points of codimension two on them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._codimension_two import TESTS, aligned, cosine, locate
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._setup import CurveOptions, check_span, follow_both_ways, make_curve
from rnndyn.dynamics.bifurcations._systems import CycleSystem
from rnndyn.dynamics.bifurcations.bifurcations import FLIP, FOLD, NEIMARK_SACKER, Bifurcation, defining_system
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.results import Judged, Result, is_verdict, stack_verdicts

_RESONANT_ENDS: dict[str, Any] = {"1:1": BranchVerdict.resonance_one, "1:2": BranchVerdict.resonance_two}


def continue_bifurcation(
    f: Callable[[Array, Array], Array],
    bifurcation: Bifurcation,
    p0: Sequence[float | int] | ArrayLike,
    p_span: Sequence[Any] | np.ndarray,
    *,
    box: tuple[ArrayLike, ArrayLike] | None = None,
    max_points: int = 2000,
    initial_step: float = 0.01,
    min_step: float = 1e-8,
    max_step: float = 0.05,
    state_scale: float | None = None,
) -> "BifurcationCurve":
    r"""Follow a fold, flip or Neimark-Sacker point as two parameters change.

    The curve solves $F(x_i, p) = x_{i+1}$ together with the defining equations of the bifurcation (one more for a fold
    or flip, two more and the unknown $\cos\theta$ for a Neimark-Sacker point; see `_systems.py`) by
    pseudo-arclength continuation, as in `continue_fixed_points`.

    **Arguments:**

    - `f`: the map with two parameters, `(N,), (2,) -> (N,)`.
    - `bifurcation`: a fold, flip or Neimark-Sacker point, from a `Branch` along any line in the plane.
    - `p0`: the two parameters there, shape `(2,)`.
    - `p_span`: the two intervals, `((lowest, highest), (lowest, highest))`; the curve ends where it leaves them.
    - `box`, `max_points`, `initial_step`, `min_step`, `max_step`, `state_scale`: as in `continue_fixed_points`.

    **Returns:** a `BifurcationCurve`. Its `special_points` are the points of codimension two: cusps (fold coefficient
    zero), the strong resonances 1:1 (Bogdanov-Takens), 1:2, 1:3 and 1:4, generalised flips and Chenciner points (flip
    and Neimark-Sacker coefficients zero), and fold-flips. A Neimark-Sacker curve ends at the resonances 1:1 and 1:2,
    beyond which its multipliers are real.

    **Raises:** `ValueError` for another kind of bifurcation, for bad shapes, and when `f` has no such bifurcation at
    `p0`.

    A curve of pitchforks exists in symmetric families only and is not a regular solution of the fold equations: it is
    refused.

    Reference: W. Govaerts, R. Khoshsiar Ghaziani, Yu. Kuznetsov & H. Meijer (2007), *Numerical methods for
    two-parameter local bifurcation analysis of maps*.
    """
    p = np.asarray(p0, np.float64)
    if p.shape != (2,):
        raise ValueError(f"p0: expected the two parameters, shape (2,), got shape {p.shape}.")
    if np.shape(p_span) != (2, 2):
        raise ValueError(f"p_span: expected two intervals ((lowest, highest), (lowest, highest)), got {p_span!r}.")
    for k in range(2):
        check_span(f"p0[{k}]", p[k], f"p_span[{k}]", p_span[k])
    options = CurveOptions(box, max_points, initial_step, min_step, max_step, state_scale)
    kind = bifurcation.kind
    if kind not in (FOLD, FLIP, NEIMARK_SACKER):
        raise ValueError(f"bifurcation: expected a fold, a flip or a Neimark-Sacker point, got a {kind}.")
    points = np.asarray(bifurcation.points, np.float64)
    with double_precision():
        f = let_in(f, points[0], p)
        base = make_curve(f, points, np.array(p_span, float), options)
        curve, start = _start(base, kind, points, p, bifurcation.multipliers)
        nodes, first, reasons = follow_both_ways(curve, start, options)
        if kind == NEIMARK_SACKER and all(is_verdict(reason, BranchVerdict.closed) for reason in reasons):
            nodes, first = _cut_open(curve, nodes)
        return _assemble(curve, kind, nodes, first, reasons)


class BifurcationCurve(Judged):
    """A curve of bifurcations, ordered along its arc length.

    - `kind`: `"fold"`, `"flip"` or `"neimark-sacker"`.
    - `parameters`: `(M, 2)`.
    - `points`: fixed points `(M, N)`, or cycles `(M, P, N)`.
    - `multipliers`: by falling modulus, `(M, N)` complex.
    - `angles`: of the critical multiplier, `(M,)`: 0, pi, or theta.
    - `residuals`: of the defining system, `(M,)`.
    - `special_points`: in the order of the curve.
    - `start`: the index of the point at `p0`.
    - `result`: why it ends at its first and at its last point, a batch `(2,)` of `BranchVerdict`.
    """

    kind: str
    parameters: Float[np.ndarray, "M 2"]
    points: Float[np.ndarray, "M *P N"]
    multipliers: Complex[np.ndarray, "M N"]
    angles: Float[np.ndarray, " M"]
    residuals: Float[np.ndarray, " M"]
    special_points: "tuple[SpecialPoint, ...]"
    start: int
    result: BranchVerdict

    def __len__(self) -> int:
        return len(self.parameters)

    def table(self) -> str:
        low, high = self.parameters.min(axis=0), self.parameters.max(axis=0)
        lines = [
            f"Curve of {self.kind} points: {len(self)} points, parameters "
            f"({low[0]:.6g}, {low[1]:.6g}) to ({high[0]:.6g}, {high[1]:.6g})",
            f"  ends: {self.message[0]}; {self.message[1]}",
            f"  largest residual {self.residuals.max():.2g}",
        ]
        lines += ["  " + point.table() for point in self.special_points] or ["  no points of codimension two"]
        return "\n".join(lines)


class SpecialPoint(Result):
    """A point of codimension two on a curve of bifurcations.

    - `kind`: `"cusp"`, `"1:1"` (Bogdanov-Takens), `"1:2"`, `"1:3"`, `"1:4"`, `"generalized flip"`, `"Chenciner"` or
        `"fold-flip"`.
    - `parameters`: `(2,)`.
    - `points`: of the cycle, `(P, N)`.
    - `multipliers`: `(N,)` complex.
    - `residual`: of the defining system of the curve.
    - `test_value`: of the function that vanishes there, relative to its values at the neighbouring points.
    - `index`: the point of the curve before it.
    """

    kind: str
    parameters: Float[np.ndarray, " 2"]
    points: Float[np.ndarray, "P N"]
    multipliers: Complex[np.ndarray, " N"]
    residual: float
    test_value: float
    index: int

    def table(self) -> str:
        return f"({self.parameters[0]:+.12g}, {self.parameters[1]:+.12g})  {self.kind}; residual {self.residual:.1g}"


@compiled
def _evaluate(system: Any, z: Any, frame: Any) -> Any:
    return system.evaluate(z, frame)


def _start(base: Curve, kind: str, points: np.ndarray, p: np.ndarray, multipliers: np.ndarray) -> tuple[Curve, Node]:
    """The curve of bifurcations as a system of its own, and its node at `p0`."""
    z = np.append(points.ravel(), p)
    system, frame, z = defining_system(base.system, kind, z, multipliers)
    units, scales = base.metric
    if kind == NEIMARK_SACKER:
        units, scales = (np.insert(v, points.size, 1.0) for v in (units, scales))
    curve = dataclasses.replace(base, system=system, metric=base.metric._replace(units=units, scales=scales))
    e = jax.device_get(_evaluate(system, z, frame))
    _, _, right = np.linalg.svd(e.jacobian * scales)
    zeta, row = z / scales, right[-1]
    node = curve.node(zeta, row, frame)
    # The bifurcation was located to 1e-10; farther away is another one, or none.
    if node is None or not np.max(np.abs(node.zeta - zeta) * scales / units) < 1e-4:
        raise ValueError(
            f"bifurcation: f has no {kind} point near it at p0 = {p}. p0 must be the pair of parameters at which it "
            "was found, and it must be regular: not a cusp, nor a pitchfork taken for a fold."
        )
    return curve, node


def _cut_open(curve: Curve, nodes: list[Node]) -> tuple[list[Node], int]:
    """A closed curve with a neutral saddle as its first and last node, where it has one, and the index of its start."""
    saddles = [k for k, node in enumerate(nodes) if abs(cosine(curve, node)) > 1]
    if not saddles:
        return nodes, 0
    cut = saddles[len(saddles) // 2]
    return [*nodes[cut:-1], *nodes[: cut + 1]], len(nodes) - 1 - cut


def _assemble(curve: Curve, kind: str, nodes: list[Node], start: int, reasons: tuple[Any, Any]) -> BifurcationCurve:
    tests = TESTS[kind]
    for k in range(1, len(nodes)):
        nodes[k] = aligned(nodes[k], nodes[k - 1])
    special: list[SpecialPoint] = []
    values = {name: np.array([test(curve, node) for node in nodes]) for name, test in tests.items()}
    ends: dict[int, tuple[Node, Any]] = {}
    for k in range(len(nodes) - 1):
        found = []
        for name, test in tests.items():
            if values[name][k] * values[name][k + 1] < 0:
                located = locate(curve, nodes[k], nodes[k + 1], test)
                if located is not None:
                    fraction, node, value = located
                    found.append((fraction, name, node, value))
        for _, name, node, value in sorted(found, key=lambda item: item[0]):
            special.append(_special_point(curve, name, node, value, k))
            if kind == NEIMARK_SACKER and name in _RESONANT_ENDS:
                ends[k] = (node, _RESONANT_ENDS[name])
    first, last = 0, len(nodes)
    if ends:
        before = [k for k in ends if k < start]
        after = [k for k in ends if k >= start]
        head, tail = [], []
        if before:
            first = max(before) + 1
            head, reasons = [ends[first - 1][0]], (ends[first - 1][1], reasons[1])
        if after:
            last = min(after) + 1
            tail, reasons = [ends[last - 1][0]], (reasons[0], ends[last - 1][1])
        nodes = head + nodes[first:last] + tail
        shift = len(head) - first
        special = [
            eqx.tree_at(lambda s: s.index, point, max(point.index + shift, 0))
            for point in special
            if first - 1 <= point.index <= last - 1
        ]
        start += shift
    cycle: CycleSystem = curve.system.cycle
    z = np.stack([node.zeta for node in nodes]) * curve.metric.scales
    shape = (len(z), cycle.num_units) if cycle.period == 1 else (len(z), cycle.period, cycle.num_units)
    if kind == NEIMARK_SACKER:
        angles = np.arccos(np.clip(z[:, cycle.num_states], -1, 1))
    else:
        angles = np.full(len(z), 0.0 if kind == FOLD else np.pi)
    return BifurcationCurve(
        kind=kind,
        parameters=z[:, -2:],
        points=z[:, : cycle.num_states].reshape(shape),
        multipliers=np.stack([node.multipliers for node in nodes]),
        angles=angles,
        residuals=np.array([node.residual for node in nodes]),
        special_points=tuple(special),
        start=start,
        result=stack_verdicts(reasons),
    )


def _special_point(curve: Curve, name: str, node: Node, value: float, index: int) -> SpecialPoint:
    cycle: CycleSystem = curve.system.cycle
    z = node.zeta * curve.metric.scales
    points = z[: cycle.num_states].reshape(cycle.period, cycle.num_units)
    return SpecialPoint(name, z[-2:], points, node.multipliers, node.residual, value, index)
