"""Limit cycles of a flow: periodic orbits, their period and their Floquet multipliers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.flows import TimeMap, time_map
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.results import Result

_NUM_SAMPLES = 4096
"""Samples of the trajectory in which close returns are looked for."""

_NUM_FINE = 840
"""Samples of an orbit in which a shorter period is looked for; divisible by 2, ..., 8."""


def find_limit_cycle(
    vector_field: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    period: float | None = None,
    duration: float | None = None,
    transient: float | None = None,
    num_segments: int = 8,
    num_points: int = 256,
    max_steps: int = 50,
    tol: float = 1e-10,
) -> "LimitCycle":
    r"""Find a periodic orbit of $\dot x = v(x)$ near the trajectory of `x0`, with its period T.

    With the flow $\varphi^t$ the points $x_0, \dots, x_{m-1}$ and T solve

    $$ \varphi^{T/m}(x_i) - x_{i+1} = 0, \qquad v(\bar x_0) \cdot (x_0 - \bar x_0) = 0, $$

    indices modulo m: multiple shooting with the period unknown, and a phase condition that fixes where on the orbit
    $x_0$ lies. Newton's method starts from the closest return of the trajectory to itself, and finds unstable orbits
    too. The flow is integrated with tolerance 1e-12 (order 8), its derivative by the same steps.

    **Arguments:**

    - `vector_field`: v, `(N,) -> (N,)`.
    - `x0`: where the trajectory starts, shape `(N,)`.
    - `period`: a guess of T. Returns after a time within 20% of it are then looked for; without it, the first close
        one.
    - `duration`: how long to follow the trajectory, in units of time; by default 200 times the time scale
        $1/\|Dv(x_0)\|$, or 20 periods where one is given.
    - `transient`: how long to wait before; by default as long as `duration`. Zero, to stay near `x0`.
    - `num_segments`: m. More of them for strongly unstable orbits.
    - `num_points`: how many points of the orbit to return.
    - `max_steps`: the most Newton steps.
    - `tol`: the defect at which the orbit counts as found, as a fraction of its extent.

    **Returns:** a `LimitCycle`; `converged` is false where none was found, and `reason` says why.

    **Raises:** `ValueError` for a bad state, a vector field that changes its shape or dtype, or options out of range.

    Along the flow $D\varphi^T v(x_0) = v(x_0)$: one Floquet multiplier is 1, and how far the computed one is from it
    measures the accuracy of the others.

    Reference: U. M. Ascher, R. M. M. Mattheij & R. D. Russell (1995), *Numerical Solution of Boundary Value Problems
    for Ordinary Differential Equations*, chapter 4; Yu. A. Kuznetsov (2004), *Elements of Applied Bifurcation
    Theory*, chapter 10.
    """
    check_state("x0", x0)
    for name, value in (("num_segments", num_segments), ("num_points", num_points), ("max_steps", max_steps)):
        check_at_least(name, value, 1)
    for name, value in (("period", period), ("duration", duration)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a positive time, got {value}.")
    if transient is not None:
        check_at_least("transient", transient, 0)
    with double_precision():
        start = np.asarray(x0, np.float64)
        vector_field = let_in(vector_field, start, name="vector_field")
        if duration is None:
            duration = 20 * period if period is not None else 200 * _time_scale(vector_field, start)
        transient = duration if transient is None else transient
        flow = time_map(ScaledField(vector_field), 1.0, solver=diffrax.Dopri8(), rtol=1e-12, atol=1e-12)
        escapes = "the trajectory leaves for infinity (or becomes too stiff to follow)."
        if transient > 0:
            start = _follow(flow, start, transient)[-1]
            if not np.isfinite(start).all():
                return _nothing(start, num_points, escapes)
        states = np.concatenate([start[None], _follow(flow, start, duration)])
        if not np.isfinite(states).all():
            return _nothing(start, num_points, escapes)
        guess = _close_return(states, duration / _NUM_SAMPLES, period)
        if guess is None:
            return _nothing(start, num_points, _no_return(states, duration))
        first, steps, guessed_period = guess
        nodes = states[first + np.round(np.linspace(0, steps, num_segments, endpoint=False)).astype(int)]
        orbit = _shoot(flow, vector_field, nodes, guessed_period, max_steps, tol)
        if orbit.reason:
            return _nothing(start, num_points, orbit.reason)
        orbit = _with_minimal_period(flow, vector_field, orbit, max_steps, tol)
        return _assemble(flow, vector_field, orbit, num_points)


class LimitCycle(Result):
    """A periodic orbit of a flow.

    - `converged`: whether one was found.
    - `period`: its minimal period T.
    - `points`: the orbit at times 0, T/M, 2T/M, ..., `(M, N)`.
    - `multipliers`: Floquet multipliers across the orbit by falling modulus, `(N - 1,)` complex: the eigenvalues of the
        derivative of the flow over T, without the one of the flow's own direction.
    - `trivial_multiplier`: that one, as computed; its distance from 1 is an error estimate of the others.
    - `residual`: the largest defect $|\\varphi^{T/m}(x_i) - x_{i+1}|$ as a fraction of the extent.
    - `num_steps`: Newton steps taken.
    - `reason`: why none was found; empty otherwise.
    """

    converged: bool
    period: float
    points: Float[np.ndarray, "M N"]
    multipliers: Complex[np.ndarray, " L"]
    trivial_multiplier: Complex[np.ndarray, ""]
    residual: float
    num_steps: int
    reason: str

    @property
    def is_stable(self) -> bool:
        """Whether all multipliers across the orbit lie inside the unit circle."""
        return self.converged and bool(np.all(np.abs(self.multipliers) < 1))

    @property
    def num_unstable(self) -> int:
        """The number of multipliers across the orbit outside the unit circle."""
        return int(np.sum(np.abs(self.multipliers) > 1))

    @property
    def times(self) -> Float[np.ndarray, " M"]:
        """The times of `points`."""
        return self.period * np.arange(len(self.points)) / len(self.points)

    def table(self) -> str:
        if not self.converged:
            return f"No limit cycle: {self.reason}"
        shown = ", ".join(f"{m:.5g}" for m in self.multipliers[:4]) + (", ..." if len(self.multipliers) > 4 else "")
        return (
            f"Limit cycle of {self.points.shape[1]} units: {'stable' if self.is_stable else 'unstable'}\n"
            f"  period              {self.period:.12g}\n"
            f"  multipliers         {shown}\n"
            f"  trivial multiplier  1 {np.real(self.trivial_multiplier) - 1:+.1e}\n"
            f"  residual            {self.residual:.1e} of its extent"
        )


class ScaledField(eqx.Module):
    """The vector field times a number: the flow of it over one unit of time is the flow over that time."""

    vector_field: Callable[[Array], Array]

    def __call__(self, x: Array, time: Array) -> Array:
        return time * self.vector_field(x)


class _Orbit(NamedTuple):
    nodes: np.ndarray
    period: float
    jacobians: np.ndarray
    residual: float
    num_steps: int
    reason: str


def _time_scale(vector_field: Callable, x: np.ndarray) -> float:
    norm = float(np.linalg.norm(np.asarray(jax.jacfwd(vector_field)(jnp.asarray(x)))))
    return 1 / norm if np.isfinite(norm) and norm > 0 else 1.0


def _close_return(states: np.ndarray, dt: float, period: float | None) -> tuple[int, int, float] | None:
    """Where the trajectory comes back to itself: the first sample, how many samples later, and the time between.

    A return is a local minimum of the distance as a function of the delay, after the trajectory has been far away.
    """
    extent = np.max(np.ptp(states, axis=0))
    if extent <= 1e-9 * np.max(np.abs(states)):
        return None
    best, least = None, np.inf
    for first in np.linspace(0, len(states) // 2, 64).astype(int):
        distance = np.linalg.norm(states[first:] - states[first], axis=1)
        is_minimum = (distance[1:-1] < distance[:-2]) & (distance[1:-1] <= distance[2:])
        delays = np.flatnonzero(is_minimum) + 1
        away = np.maximum.accumulate(distance)
        delays = delays[(distance[delays] < 0.2 * away[delays]) & (away[delays] > 1e-3 * extent)]
        if period is not None:
            delays = delays[np.abs(delays * dt - period) <= 0.2 * period]
        if delays.size == 0:
            continue
        if period is None:
            # The first return that is about as close as any: later ones are repeats, or wander.
            close = distance[delays] / away[delays]
            delays = delays[close <= 4 * np.min(close) + 1e-3][:1]
        delay = int(delays[np.argmin(distance[delays])])
        if distance[delay] / away[delay] < least:
            least, best = distance[delay] / away[delay], (int(first), delay, delay * dt)
    return best


def _shoot(
    flow: TimeMap, vector_field: Callable, nodes: np.ndarray, period: float, max_steps: int, tol: float
) -> _Orbit:
    """Newton's method on the nodes and the period, with step halving."""
    extent = max(float(np.max(np.ptp(nodes, axis=0))), 1e-3 * float(np.max(np.abs(nodes))))
    reference, direction = nodes[0], np.asarray(vector_field(jnp.asarray(nodes[0])))
    direction = direction / np.linalg.norm(direction)
    ends, jacobians, velocities = _segments(flow, vector_field, nodes, period)
    defects = np.roll(nodes, -1, axis=0) - ends
    size = np.linalg.norm(defects)
    for step in range(max_steps + 1):
        residual = float(np.max(np.abs(defects))) / extent
        if residual <= tol or step == max_steps:
            break
        change, period_change = _newton_step(jacobians, velocities, defects, direction, nodes[0] - reference)
        # Half a turn at most, so that the step does not lead to another orbit or to none.
        damping = min(1.0, 0.5 * period / max(abs(period_change), 1e-300))
        for _ in range(10):
            new_nodes, new_period = nodes + damping * change, period + damping * period_change
            new = _segments(flow, vector_field, new_nodes, new_period)
            new_defects = np.roll(new_nodes, -1, axis=0) - new[0]
            new_size = np.linalg.norm(new_defects)
            if new_size < size * (1 - 0.1 * damping):
                break
            damping /= 2
        else:
            break
        nodes, period, defects, size = new_nodes, new_period, new_defects, new_size
        ends, jacobians, velocities = new
    residual = float(np.max(np.abs(defects))) / extent
    reason = ""
    if residual > tol:
        reason = (
            f"Newton's method stopped at a defect of {residual:.1e} of the extent. Start closer to the orbit, pass "
            "a guess of the period, or more num_segments."
        )
    elif np.max(np.ptp(nodes, axis=0)) < 1e-3 * extent and len(nodes) > 1:
        reason = "Newton's method collapsed onto an equilibrium (see find_equilibria)."
    return _Orbit(nodes, float(period), jacobians, residual, step, reason)


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


def _segments(
    flow: TimeMap, vector_field: Callable, nodes: np.ndarray, period: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of the segments, derivatives of the ends by the starts, and velocities at the ends."""
    times = np.full(len(nodes), period / len(nodes))
    return map_in_chunks(
        lambda batch: _flow_and_jacobian(flow, vector_field, *batch),
        (nodes, times),
        bytes_per_item=256 * nodes.shape[1] ** 2,
        description="limit cycle",
        least_size=1,
    )


def _with_minimal_period(flow: TimeMap, vector_field: Callable, orbit: _Orbit, max_steps: int, tol: float) -> _Orbit:
    """The orbit run through once, where the return found runs through it several times."""
    fine = _sample(flow, orbit, _NUM_FINE)
    extent = np.max(np.ptp(fine, axis=0))
    for part in range(8, 1, -1):
        gap = np.max(np.abs(np.roll(fine, _NUM_FINE // part, axis=0) - fine))
        # Different strands of one orbit are farther apart than this: they are distinct to far more than the defect.
        if gap <= 1e-6 * extent:
            num = len(orbit.nodes)
            nodes = fine[np.round(np.linspace(0, _NUM_FINE // part, num, endpoint=False)).astype(int)]
            return _shoot(flow, vector_field, nodes, orbit.period / part, max_steps, tol)
    return orbit


def _follow(flow: TimeMap, start: np.ndarray, duration: float) -> np.ndarray:
    """The trajectory at `_NUM_SAMPLES` equal steps."""
    return np.asarray(_advance(flow, start[None], np.array([duration / _NUM_SAMPLES]), _NUM_SAMPLES))[0]


def _sample(flow: TimeMap, orbit: _Orbit, num_points: int) -> np.ndarray:
    """The orbit at equal times, each from the node before it."""
    num = len(orbit.nodes)
    positions = np.arange(num_points) * num / num_points
    segment = np.floor(positions).astype(int)
    times = (positions - segment) * orbit.period / num
    return map_in_chunks(
        lambda batch: _advance(flow, batch[0], batch[1], 1)[:, 0],
        (orbit.nodes[segment], times),
        bytes_per_item=256 * orbit.nodes.shape[1],
        description="limit cycle",
        least_size=_NUM_FINE,
    )


def _assemble(flow: TimeMap, vector_field: Callable, orbit: _Orbit, num_points: int) -> LimitCycle:
    multipliers = product_eigenvalues(orbit.jacobians)
    trivial = int(np.argmin(np.abs(multipliers - 1)))
    return LimitCycle(
        converged=True,
        period=orbit.period,
        points=_sample(flow, orbit, num_points),
        multipliers=np.delete(multipliers, trivial),
        trivial_multiplier=np.array(multipliers[trivial]),
        residual=orbit.residual,
        num_steps=orbit.num_steps,
        reason="",
    )


def _no_return(states: np.ndarray, duration: float) -> str:
    late = states[-len(states) // 8 :]
    if np.max(np.ptp(late, axis=0)) < 1e-3 * max(np.max(np.ptp(states, axis=0)), np.max(np.abs(states))):
        return "the trajectory settles on an equilibrium (see find_equilibria)."
    return f"the trajectory does not come back to itself within {duration:.3g} units of time. Take a longer duration."


def _nothing(x: np.ndarray, num_points: int, reason: str) -> LimitCycle:
    return LimitCycle(
        converged=False,
        period=float("nan"),
        points=np.full((num_points, x.size), np.nan),
        multipliers=np.full(x.size - 1, np.nan, complex),
        trivial_multiplier=np.array(np.nan, complex),
        residual=float("inf"),
        num_steps=0,
        reason=reason,
    )


@eqx.filter_jit
def _advance(flow: Any, starts: Any, times: Any, num_steps: int) -> Array:
    """States after 1, ..., num_steps times the given time, from each start."""

    def follow(start: Array, time: Array) -> Array:
        def step(x: Array, _: None) -> tuple[Array, Array]:
            # From NaN the solver would try all of its steps, each time again: what has escaped is left where it is.
            alive = jnp.all(jnp.isfinite(x))
            x = jnp.where(alive, flow(jnp.where(alive, x, start), time), jnp.nan)
            return x, x

        return jax.lax.scan(step, start, None, length=num_steps)[1]

    return jax.vmap(follow)(jnp.asarray(starts), jnp.asarray(times))


@eqx.filter_jit
def _flow_and_jacobian(flow: Any, vector_field: Any, nodes: Any, times: Any) -> tuple[Array, Array, Array]:
    nodes, times = jnp.asarray(nodes), jnp.asarray(times)
    ends = jax.vmap(flow)(nodes, times)
    return ends, jax.vmap(jax.jacfwd(flow))(nodes, times), jax.vmap(vector_field)(ends)
