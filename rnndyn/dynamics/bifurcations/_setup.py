"""Before and around the steps of a continuation: its options, the curve they describe, and the first node on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._steps import Limits, Metric
from rnndyn.dynamics.bifurcations._systems import CycleSystem
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict
from rnndyn.dynamics.numerics.newton import newton
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.results import is_verdict


@dataclasses.dataclass(frozen=True)
class CurveOptions:
    """How a curve is followed, as the caller asked for it; see `continue_fixed_points`."""

    box: tuple[ArrayLike, ArrayLike] | None
    max_points: int
    initial_step: float
    min_step: float
    max_step: float
    state_scale: float | None
    num_multipliers: int | None = None
    linear_solver: str = "dense"
    bound: bool = False

    def __post_init__(self) -> None:
        check_at_least("max_points", self.max_points, 1)
        if not 0 < self.min_step <= self.initial_step <= self.max_step:
            raise ValueError(
                "initial_step: expected 0 < min_step <= initial_step <= max_step, got "
                f"{self.min_step}, {self.initial_step}, {self.max_step}."
            )
        if self.state_scale is not None and not (np.isfinite(self.state_scale) and self.state_scale > 0):
            raise ValueError(f"state_scale: expected a positive length, got {self.state_scale}.")
        if self.num_multipliers is not None:
            check_at_least("num_multipliers", self.num_multipliers, 1)
        if self.linear_solver not in ("dense", "gmres"):
            raise ValueError(f"linear_solver: expected 'dense' or 'gmres', got {self.linear_solver!r}.")
        if self.bound and (self.linear_solver == "gmres" or self.num_multipliers is not None):
            raise ValueError("bound: needs all multipliers; leave out num_multipliers and linear_solver='gmres'.")


def make_curve(
    f: Callable[[Array, Array], Array], points: np.ndarray, spans: np.ndarray, options: CurveOptions
) -> Curve:
    """The curve of cycles through `points` (P, N) with the parameter intervals `spans` (d, 2)."""
    state_scale = options.state_scale
    if state_scale is None:
        state_scale = max(1.0, float(np.max(np.abs(points))))
    period, size = points.shape
    lower, upper = (-np.inf, np.inf) if options.box is None else options.box
    try:
        lower, upper = (np.broadcast_to(np.asarray(bound, float), (size,)) for bound in (lower, upper))
    except ValueError as error:
        raise ValueError(f"box: expected two bounds that fit states of {size} entries: {error}.") from error
    if not (lower < upper).all():
        raise ValueError("box: expected lower < upper in every component.")
    if ((points < lower) | (points > upper)).any():
        raise ValueError("box: the starting point lies outside. Widen the box.")
    units = np.concatenate([np.full(points.size, state_scale), np.ptp(spans, axis=1)])
    scales = units.copy()
    scales[: points.size] *= np.sqrt(points.size)
    limits = Limits(
        lower=spans[:, 0],
        upper=spans[:, 1],
        box_lower=np.tile(lower, period),
        box_upper=np.tile(upper, period),
        min_step=np.float64(options.min_step),
        max_step=np.float64(options.max_step),
    )
    system = CycleSystem(f, period, size, len(spans), options.linear_solver == "gmres")
    return Curve(system, Metric(units, scales), limits, period, options.num_multipliers)


def start_node(curve: Curve, points: np.ndarray, p: np.ndarray, name: str) -> Node:
    """The node of a branch at the parameter `p` (d,) near `points`; its tangent points to larger parameters."""
    scales = np.asarray(curve.metric.scales)
    row = np.zeros(len(scales))
    row[-1] = 1.0
    zeta = np.append(points.ravel(), p) / scales
    node = curve.node(zeta, row, straight=True)
    if node is None:
        # Newton's method alone may go far away: a trust region keeps it from that.
        solver = "gmres" if curve.system.matrix_free else "dense"
        ends = jax.device_get(_settle(curve.system.f, points, p[0] if len(p) == 1 else p, solver))
        if not is_verdict(ends.result, NewtonVerdict.converged):
            what = "fixed point" if len(points) == 1 else f"cycle of period {len(points)}"
            raise ValueError(
                f"{name}: Newton's method found no {what} near it at parameter {p} (residual {ends.residual:.3g}). "
                "Pass a point from find_fixed_points or find_cycles at this parameter."
            )
        zeta = np.append(ends.point, p) / scales
        node = curve.node(zeta, row) or _on_fold(curve, zeta)
    if node is None:
        raise ValueError(f"{name}: the branch is singular at parameter {p}. Start at another value.")
    states = (node.zeta * scales)[: points.size].reshape(points.shape)
    divided = smallest_period(states, 1e-7 * curve.metric.units[0])
    if divided < len(states):
        raise ValueError(
            f"{name}: Newton's method went to a cycle of period {divided}, not {len(points)}. Pass points nearer to "
            f"the cycle of period {len(points)}, or one round of the shorter cycle."
        )
    return node


def check_span(name: str, p: Any, span_name: str, span: Any) -> None:
    """Raise unless `span` is an interval that holds `p`."""
    if np.shape(p) != () or not np.isfinite(p):
        raise ValueError(f"{name}: expected one finite number, got {p!r}.")
    if np.shape(span) != (2,) or not np.isfinite(np.asarray(span, float)).all() or not span[0] < span[1]:
        raise ValueError(f"{span_name}: expected an interval (lowest, highest) of finite numbers, got {span!r}.")
    if not span[0] <= p <= span[1]:
        raise ValueError(f"{name}: {p} lies outside {span_name} = {tuple(span)}.")


def follow_both_ways(
    curve: Curve,
    start: Node,
    options: CurveOptions,
    first_jump: Callable[[Curve, list[Node]], int | None] = lambda curve, nodes: None,
) -> tuple[list[Node], int, tuple[Any, Any]]:
    """The nodes in both directions from `start`, its index, and why they end, a `BranchVerdict` each."""

    def follow(node: Node) -> tuple[list[Node], Any]:
        return curve.follow(node, options.initial_step, options.max_points, first_jump)

    forward, last_reason = follow(start)
    if is_verdict(last_reason, BranchVerdict.closed):
        return forward, 0, (last_reason, last_reason)
    backward, first_reason = follow(start.reversed())
    nodes = [node.reversed() for node in backward[:0:-1]] + forward
    return nodes, len(backward) - 1, (first_reason, last_reason)


@compiled
def _settle(f: Callable, points: Any, p: Any, linear_solver: str) -> Any:
    points = jnp.asarray(points)
    images = jax.vmap(lambda x: f(x, p))

    def lifted(flat: Array) -> Array:
        return jnp.roll(images(flat.reshape(points.shape)), 1, axis=0).ravel()

    return newton(lifted, points.ravel(), linear_solver=linear_solver)


@compiled
def _evaluate(system: Any, z: Any) -> Any:
    return system.evaluate(z)


def _on_fold(curve: Curve, zeta: np.ndarray) -> Node | None:
    """A node at a fold, where the plane of constant parameter is of no use: in that orthogonal to the null vector."""
    e = jax.device_get(_evaluate(curve.system, zeta * curve.metric.scales))
    _, _, right = np.linalg.svd(np.asarray(e.jacobian) * curve.metric.scales)
    return curve.node(zeta, right[-1])
