"""Multiple shooting for a periodic orbit of a flow: Newton steps on its points and period, derivatives around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn._programs import compiled
from rnndyn.dynamics.cycles.verdicts import LimitCycleVerdict
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.integration import integrate, integrate_with_derivative
from rnndyn.dynamics.numerics.integration_method import Method

_NUM_FINE = 840
"""Samples of an orbit in which a shorter period is looked for; divisible by 2, ..., 8."""

_LARGEST_SPAN = 1e8
"""Pieces of the orbit are halved until the singular values of the derivative over each lie within this factor, so that
eight digits of the smallest are left."""

_MAX_PIECES = 2**14

_LANES = 32
"""Points that are propagated at once."""


class Flow(eqx.Module):
    """The state after a time."""

    vector_field: Callable[[Array], Array]
    method: Method

    def __call__(self, x: Array, time: Array) -> Array:
        return integrate(self.vector_field, x, time, (), self.method)


class FlowOrbit(NamedTuple):
    """Where Newton's method ended: nodes `(m, N)`, derivatives between them, and verdict and reason where it failed."""

    nodes: np.ndarray
    period: float
    jacobians: np.ndarray
    residual: float
    num_steps: int
    failure: tuple[Any, str] | None


def shoot_flow(flow: Flow, nodes: np.ndarray, period: float, max_steps: int, tol: float) -> FlowOrbit:
    """Newton's method on the nodes and the period, with step halving.

    Everything is measured in units (m, N) of the nodes: the extent of the orbit, and at a node where a component that
    keeps its sign is smaller than that, its own size. A defect that is nothing beside the orbit may be all of a
    population that has nearly died out.
    """
    extent = max(float(np.max(np.ptp(nodes, axis=0))), 1e-3 * float(np.max(np.abs(nodes))))
    signed = np.min(nodes, axis=0) * np.max(nodes, axis=0) <= 0
    largest = np.where(signed, np.inf, extent)
    units = _units(nodes, largest, extent)
    reference, direction = nodes[0], np.asarray(flow.vector_field(jnp.asarray(nodes[0]))) / units[0]
    direction = direction / np.linalg.norm(direction)

    def shoot(nodes: np.ndarray, period: float) -> tuple[np.ndarray, ...]:
        """The defects, derivatives and velocities, in units."""
        ends, jacobians, velocities = _segments(flow, nodes, period)
        after = np.roll(units, -1, axis=0)
        scaled = jacobians * units[:, None, :] / after[:, :, None]
        return (np.roll(nodes, -1, axis=0) - ends) / after, jacobians, scaled, velocities / after

    defects, jacobians, scaled, velocities = shoot(nodes, period)
    size = np.linalg.norm(defects)
    for step in range(max_steps + 1):
        residual = float(np.max(np.abs(defects)))
        if residual <= tol or step == max_steps:
            break
        offset = (nodes[0] - reference) / units[0]
        change, period_change = _newton_step(scaled, velocities, defects, direction, offset)
        # Half a turn at most, so that the step does not lead to another orbit or to none.
        damping = min(1.0, 0.5 * period / max(abs(period_change), 1e-300))
        for _ in range(10):
            new_nodes, new_period = nodes + damping * change * units, period + damping * period_change
            new = shoot(new_nodes, new_period)
            new_size = np.linalg.norm(new[0])
            if new_size < size * (1 - 0.1 * damping):
                break
            damping /= 2
        else:
            break
        nodes, period, size = new_nodes, new_period, new_size
        defects, jacobians, scaled, velocities = new
    residual = float(np.max(np.abs(defects)))
    failure = None
    if residual > tol:
        failure = (
            LimitCycleVerdict.not_solved,
            f"Newton's method stopped at a defect of {residual:.1e} of the extent. Start closer to the orbit, pass "
            "a guess of the period, or more num_segments.",
        )
    elif np.max(np.ptp(nodes, axis=0)) < 1e-3 * extent and len(nodes) > 1:
        failure = (
            LimitCycleVerdict.collapsed,
            "Newton's method collapsed onto an equilibrium (see find_equilibria).",
        )
    return FlowOrbit(nodes, float(period), jacobians, residual, step, failure)


def _units(nodes: np.ndarray, largest: np.ndarray, extent: float) -> np.ndarray:
    """The extent or, up to the largest, the size of each component; infinity marks components that change sign."""
    return np.where(np.isinf(largest), extent, np.minimum(largest, np.maximum(np.abs(nodes), 1e-280)))


def _newton_step(
    jacobians: np.ndarray, velocities: np.ndarray, defects: np.ndarray, direction: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, float]:
    """Solve the bordered system of multiple shooting.

    s_{i+1} - J_i s_i - (v_i / m) dT = -defect_i, and direction . s_0 = -direction . offset.
    """
    num, size, _ = jacobians.shape
    matrix = np.zeros((num * size + 1, num * size + 1))
    for i in range(num):
        rows, after = slice(i * size, (i + 1) * size), ((i + 1) % num) * size
        matrix[rows, rows] -= jacobians[i]
        matrix[rows, after : after + size] += np.eye(size)
    matrix[:-1, -1] = -velocities.ravel() / num
    matrix[-1, :size] = direction
    rhs = np.append(-defects.ravel(), -direction @ offset)
    solution = np.linalg.lstsq(matrix, rhs, rcond=None)[0]
    return solution[:-1].reshape(num, size), float(solution[-1])


def _segments(flow: Flow, nodes: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of the segments, derivatives of the ends by the starts, and velocities at the ends."""
    return _propagate(flow, nodes, np.full(len(nodes), period / len(nodes)))


def _propagate(flow: Flow, starts: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each start is after its time, the derivative, and the velocity there; in parts of one size, which share a
    compiled program."""
    parts = [
        map_in_chunks(
            lambda batch: _flow_and_jacobian(flow, *batch),
            (starts[k : k + _LANES], times[k : k + _LANES]),
            bytes_per_item=256 * starts.shape[1] ** 2,
            description="limit cycle",
            least_size=_LANES,
        )
        for k in range(0, len(starts), _LANES)
    ]
    ends, jacobians, velocities = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return ends, jacobians, velocities


def with_minimal_period(flow: Flow, orbit: FlowOrbit, max_steps: int, tol: float) -> FlowOrbit:
    """The orbit run through once, where the return found runs through it several times."""
    fine = sample_orbit(flow, orbit, _NUM_FINE)
    extent = np.max(np.ptp(fine, axis=0))
    for part in range(8, 1, -1):
        gap = np.max(np.abs(np.roll(fine, _NUM_FINE // part, axis=0) - fine))
        # Different strands of one orbit are farther apart than this: they are distinct to far more than the defect.
        if gap <= 1e-6 * extent:
            num = len(orbit.nodes)
            nodes = fine[np.round(np.linspace(0, _NUM_FINE // part, num, endpoint=False)).astype(int)]
            return shoot_flow(flow, nodes, orbit.period / part, max_steps, tol)
    return orbit


def sample_orbit(flow: Flow, orbit: FlowOrbit, num_points: int) -> np.ndarray:
    """The orbit at equal times, each from the node before it."""
    num = len(orbit.nodes)
    positions = np.arange(num_points) * num / num_points
    segment = np.floor(positions).astype(int)
    times = (positions - segment) * orbit.period / num
    return _propagate(flow, orbit.nodes[segment], times)[0]


def pieces_of(flow: Flow, orbit: FlowOrbit) -> np.ndarray:
    """Derivatives of the flow over pieces of the orbit, in order, none of which spans more digits than can be read.

    In units of the nodes, as in `shoot_flow`: a change of coordinates at each, which leaves the product what it is.
    """
    nodes, jacobians = orbit.nodes, orbit.jacobians
    times = np.full(len(nodes), orbit.period / len(nodes))
    extent = max(float(np.max(np.ptp(nodes, axis=0))), 1e-3 * float(np.max(np.abs(nodes))))
    signed = np.min(nodes, axis=0) * np.max(nodes, axis=0) <= 0
    largest = np.where(signed, np.inf, extent)
    while True:
        units = _units(nodes, largest, extent)
        scaled = jacobians * units[:, None, :] / np.roll(units, -1, axis=0)[:, :, None]
        sizes = np.linalg.svd(scaled, compute_uv=False)
        wide = np.flatnonzero(sizes[:, 0] > _LARGEST_SPAN * sizes[:, -1])
        if not wide.size or len(nodes) > _MAX_PIECES:
            return scaled
        half = times[wide] / 2
        middles, first, _ = _propagate(flow, nodes[wide], half)
        _, second, _ = _propagate(flow, middles, half)
        jacobians = jacobians.copy()
        jacobians[wide], times[wide] = first, half
        jacobians = np.insert(jacobians, wide + 1, second, axis=0)
        nodes, times = np.insert(nodes, wide + 1, middles, axis=0), np.insert(times, wide + 1, half)


@compiled
def _flow_and_jacobian(flow: Any, starts: Any, times: Any) -> tuple[Array, Array, Array]:
    derivative = lambda x, time: integrate_with_derivative(flow.vector_field, x, time, flow.method)
    ends, jacobians = jax.vmap(derivative)(jnp.asarray(starts), jnp.asarray(times))
    return ends, jacobians, jax.vmap(flow.vector_field)(ends)
