"""Limit cycles of a flow: periodic orbits, their period and their Floquet multipliers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.cycles.verdicts import LimitCycleVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.dynamics.numerics.eigenvalues import scaled_product_eigenvalues
from rnndyn.dynamics.numerics.integration import Method, integrate, integrate_with_derivative
from rnndyn.results import Judged, is_verdict

_NUM_SAMPLES = 4096
"""Samples of the trajectory in which close returns are looked for."""

_NUM_FINE = 840
"""Samples of an orbit in which a shorter period is looked for; divisible by 2, ..., 8."""

_NUM_ROUNDS = 8
"""How often a trajectory that neither returns nor settles is followed, each time four times as long: to 16 000 times
the first duration, where a relaxation oscillation of ratio 1 : 1000 still shows its period."""

_LARGEST_SPAN = 1e8
"""Pieces of the orbit are halved until the singular values of the derivative over each lie within this factor, so that
eight digits of the smallest are left."""

_MAX_PIECES = 2**14

_LANES = 32
"""Points that are propagated at once."""

_TRIVIAL_ERROR = 1e-4
"""An orbit whose multiplier along the flow is farther from 1 than this is not known to be one."""


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
    too. The flow is integrated with relative tolerance 1e-12, its derivative under the same control (see `time_map`).
    The absolute tolerance of a component is that fraction of the largest value it takes or, where it keeps its sign, of
    the smallest, so that a population that nearly dies out is followed as well as one that thrives.

    **Arguments:**

    - `vector_field`: v, `(N,) -> (N,)`.
    - `x0`: where the trajectory starts, shape `(N,)`.
    - `period`: a guess of T. Returns after a time within 20% of it are then looked for; without it, the first close
        one.
    - `duration`: how long to follow the trajectory, in units of time; by default 20 periods where one is given, else
        200 times the time scale $1/\|Dv(x_0)\|$, and four times as long again and again (seven times at most) while the
        trajectory neither comes back nor settles.
    - `transient`: how long to wait before; by default as long as `duration`. Zero, to stay near `x0`.
    - `num_segments`: m. More of them for strongly unstable orbits.
    - `num_points`: how many points of the orbit to return.
    - `max_steps`: the most Newton steps.
    - `tol`: the defect at which the orbit counts as found, as a fraction of its extent.

    **Returns:** a `LimitCycle`; `converged` is false where none was found, and `reason` says why.

    **Raises:** `ValueError` for a bad state, a vector field that changes its shape or dtype, or options out of range.

    Along the flow $D\varphi^T v(x_0) = v(x_0)$: one Floquet multiplier is 1, and how far the computed one is from it
    measures the accuracy of the others. An orbit where it is off by more than 1e-4 is not called converged.

    A multiplier far below rounding error of the largest is lost in the derivative over T, or over T/m. So the orbit is
    cut into pieces whose derivatives each span no more than eight digits, and the eigenvalues of their product are
    found without forming it, as logarithms.

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
        rounds = 1
        if duration is None:
            rounds = 1 if period is not None else _NUM_ROUNDS
            duration = 20 * period if period is not None else 200 * _time_scale(vector_field, start)
        transient = duration if transient is None else transient
        states, duration, guess = _find_return(vector_field, start, duration, transient, period, rounds)
        if not np.isfinite(states).all():
            return _nothing(start, num_points, LimitCycleVerdict.escaped, "the trajectory leaves for infinity.")
        if guess is None:
            return _nothing(start, num_points, *_no_return(vector_field, states, duration))
        first, steps, guessed_period = guess
        around = states[first : first + steps + 1]
        nodes = around[np.round(np.linspace(0, steps, num_segments, endpoint=False)).astype(int)]
        least = np.min(np.abs(around), axis=0)
        signed = np.min(around, axis=0) * np.max(around, axis=0) < 0
        atol = 1e-12 * np.maximum(np.where(signed, np.max(np.abs(around), axis=0), least), 1e-280)
        cycle = None
        # A multiplier along the flow that is not 1 shows what tolerances have missed: then once more with finer ones.
        for factor in (1.0, 1e-6):
            flow = Flow(vector_field, Method(None, np.asarray(1e-12), factor * atol, 4096))
            orbit = _shoot(flow, nodes, guessed_period, max_steps, tol)
            if orbit.failure is not None:
                break
            orbit = _with_minimal_period(flow, orbit, max_steps, tol)
            cycle = _assemble(flow, orbit, num_points)
            nodes, guessed_period = orbit.nodes, orbit.period
            if abs(cycle.trivial_multiplier - 1) <= _TRIVIAL_ERROR / 100:
                break
        return _nothing(start, num_points, *orbit.failure) if cycle is None else cycle


class LimitCycle(Judged):
    """A periodic orbit of a flow.

    Where none was found the numbers are NaN and the residual infinite.

    - `period`: its minimal period T.
    - `points`: the orbit at times 0, T/M, 2T/M, ..., `(M, N)`.
    - `multipliers`: Floquet multipliers across the orbit by falling modulus, `(N - 1,)` complex: the eigenvalues of the
        derivative of the flow over T, without the one of the flow's own direction.
    - `log_multipliers`: their logarithms, `(N - 1,)` complex, where a multiplier itself may be too small for a number.
    - `trivial_multiplier`: that one, as computed; its distance from 1 is an error estimate of the others.
    - `residual`: the largest defect $|\\varphi^{T/m}(x_i) - x_{i+1}|$ as a fraction of the extent, or of a
        component that keeps its sign and is small there.
    - `num_steps`: Newton steps taken.
    - `result`: what became of the search, a `LimitCycleVerdict`.
    - `reason`: why none was found, with the numbers of the case; empty otherwise.
    """

    period: float
    points: Float[np.ndarray, "M N"]
    multipliers: Complex[np.ndarray, " L"]
    log_multipliers: Complex[np.ndarray, " L"]
    trivial_multiplier: Complex[np.ndarray, ""]
    residual: float
    num_steps: int
    result: LimitCycleVerdict
    reason: str

    @property
    def converged(self) -> bool:
        """Whether one was found."""
        return is_verdict(self.result, LimitCycleVerdict.converged)

    @property
    def is_stable(self) -> bool:
        """Whether all multipliers across the orbit lie inside the unit circle."""
        return self.converged and bool(np.all(np.real(self.log_multipliers) < 0))

    @property
    def exponents(self) -> Complex[np.ndarray, " L"]:
        """Floquet exponents, per unit time: the logarithms of the multipliers over the period."""
        return self.log_multipliers / self.period

    @property
    def num_unstable(self) -> int:
        """The number of multipliers across the orbit outside the unit circle."""
        return int(np.sum(np.real(self.log_multipliers) > 0))

    @property
    def times(self) -> Float[np.ndarray, " M"]:
        """The times of `points`."""
        return self.period * np.arange(len(self.points)) / len(self.points)

    def table(self) -> str:
        if not self.converged:
            return f"No limit cycle: {self.reason}"
        shown = ", ".join(_shown(m, log) for m, log in zip(self.multipliers[:4], self.log_multipliers, strict=False))
        shown += ", ..." if len(self.multipliers) > 4 else ""
        return (
            f"Limit cycle of {self.points.shape[1]} units: {'stable' if self.is_stable else 'unstable'}\n"
            f"  period              {self.period:.12g}\n"
            f"  multipliers         {shown}\n"
            f"  trivial multiplier  1 {np.real(self.trivial_multiplier) - 1:+.1e}\n"
            f"  residual            {self.residual:.1e} of its extent"
        )


def _shown(multiplier: complex, log: complex) -> str:
    """A multiplier as text, also where it is too small or too large for a number."""
    digits = np.real(log) / np.log(10)
    if abs(digits) < 300 or not np.isfinite(digits):
        return f"{multiplier:.5g}"
    return f"{10 ** (digits - np.floor(digits)):.5g}e{int(np.floor(digits)):+d} (modulus)"


class Flow(eqx.Module):
    """The state after a time."""

    vector_field: Callable[[Array], Array]
    method: Method

    def __call__(self, x: Array, time: Array) -> Array:
        return integrate(self.vector_field, x, time, (), self.method)


class _Orbit(NamedTuple):
    nodes: np.ndarray
    period: float
    jacobians: np.ndarray
    residual: float
    num_steps: int
    failure: tuple[Any, str] | None


def _time_scale(vector_field: Callable, x: np.ndarray) -> float:
    norm = float(np.linalg.norm(np.asarray(jax.jacfwd(vector_field)(jnp.asarray(x)))))
    return 1 / norm if np.isfinite(norm) and norm > 0 else 1.0


def _find_return(
    vector_field: Callable, start: np.ndarray, duration: float, transient: float, period: float | None, rounds: int
) -> tuple[np.ndarray, float, tuple[int, int, float] | None]:
    """The samples of the trajectory, the time they take, and where it comes back; none where it escapes or settles."""
    for k in range(rounds):
        first = start
        if transient > 0:
            start = _follow(vector_field, start, transient)[-1]
        states = np.concatenate([start[None], _follow(vector_field, start, duration)])
        if not np.isfinite(states).all():
            return states, duration, None
        guess = _close_return(states, duration / _NUM_SAMPLES, period)
        if guess is not None or _settles(vector_field, states, first) or k == rounds - 1:
            break
        start, transient, duration = states[-1], 0.0, 4 * duration
    return states, duration, guess


def _settles(vector_field: Callable, states: np.ndarray, first: np.ndarray) -> bool:
    """Whether the trajectory has come to an equilibrium: one is near its end, for its own extent."""
    x = jnp.asarray(states[-1])
    jacobian, velocity = np.asarray(jax.jacfwd(vector_field)(x)), np.asarray(vector_field(x))
    extent = max(float(np.max(np.ptp(states, axis=0))), float(np.max(np.abs(states[-1] - first))))
    # Newton's method says how far; a slow piece of a relaxation oscillation is slow without one near it.
    distance = np.linalg.norm(np.linalg.lstsq(jacobian, velocity, rcond=None)[0])
    return bool(distance <= 1e-6 * max(extent, 1e-6 * float(np.max(np.abs(x)))))


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


def _shoot(flow: Flow, nodes: np.ndarray, period: float, max_steps: int, tol: float) -> _Orbit:
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
    return _Orbit(nodes, float(period), jacobians, residual, step, failure)


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


def _with_minimal_period(flow: Flow, orbit: _Orbit, max_steps: int, tol: float) -> _Orbit:
    """The orbit run through once, where the return found runs through it several times."""
    fine = _sample(flow, orbit, _NUM_FINE)
    extent = np.max(np.ptp(fine, axis=0))
    for part in range(8, 1, -1):
        gap = np.max(np.abs(np.roll(fine, _NUM_FINE // part, axis=0) - fine))
        # Different strands of one orbit are farther apart than this: they are distinct to far more than the defect.
        if gap <= 1e-6 * extent:
            num = len(orbit.nodes)
            nodes = fine[np.round(np.linspace(0, _NUM_FINE // part, num, endpoint=False)).astype(int)]
            return _shoot(flow, nodes, orbit.period / part, max_steps, tol)
    return orbit


def _follow(vector_field: Callable, start: np.ndarray, duration: float) -> np.ndarray:
    """The trajectory at `_NUM_SAMPLES` equal steps."""
    # First with relative accuracy down to nothing. A component of mere rounding error cannot be followed like that.
    for atol in (1e-60, 1e-12 * max(float(np.max(np.abs(start))), 1e-280)):
        flow = Flow(vector_field, Method(None, np.asarray(1e-9), np.full(start.size, atol), 4096, num_probes=0))
        states = np.asarray(_advance(flow, start, np.asarray(duration / _NUM_SAMPLES)))
        if np.isfinite(states).all():
            break
    return states


def _sample(flow: Flow, orbit: _Orbit, num_points: int) -> np.ndarray:
    """The orbit at equal times, each from the node before it."""
    num = len(orbit.nodes)
    positions = np.arange(num_points) * num / num_points
    segment = np.floor(positions).astype(int)
    times = (positions - segment) * orbit.period / num
    return _propagate(flow, orbit.nodes[segment], times)[0]


def _pieces(flow: Flow, orbit: _Orbit) -> np.ndarray:
    """Derivatives of the flow over pieces of the orbit, in order, none of which spans more digits than can be read.

    In units of the nodes, as in `_shoot`: a change of coordinates at each, which leaves the product what it is.
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


def _assemble(flow: Flow, orbit: _Orbit, num_points: int) -> LimitCycle:
    values, logs = scaled_product_eigenvalues(_pieces(flow, orbit))
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        multipliers, logs = values * np.exp(logs), np.log(values) + logs
    trivial = int(np.argmin(np.abs(multipliers - 1)))
    error = abs(multipliers[trivial] - 1)
    result, reason = LimitCycleVerdict.converged, ""
    if not error <= _TRIVIAL_ERROR:
        result = LimitCycleVerdict.inaccurate
        reason = (
            f"the multiplier along the flow is {multipliers[trivial]:.6g} and not 1: the orbit is too sensitive to be "
            "computed in float64. Take logarithms of components that nearly vanish, or other coordinates."
        )
    return LimitCycle(
        period=orbit.period,
        points=_sample(flow, orbit, num_points),
        multipliers=np.delete(multipliers, trivial),
        log_multipliers=np.delete(logs, trivial),
        trivial_multiplier=np.array(multipliers[trivial]),
        residual=orbit.residual,
        num_steps=orbit.num_steps,
        result=result,
        reason=reason,
    )


def _no_return(vector_field: Callable, states: np.ndarray, duration: float) -> tuple[Any, str]:
    if _settles(vector_field, states, states[0]):
        return LimitCycleVerdict.equilibrium, "the trajectory settles on an equilibrium (see find_equilibria)."
    after = f"{duration:.3g} units of time"
    return (
        LimitCycleVerdict.no_return,
        f"the trajectory does not come back to itself within {after}. Take a longer duration.",
    )


def _nothing(x: np.ndarray, num_points: int, result: Any, reason: str) -> LimitCycle:
    return LimitCycle(
        period=float("nan"),
        points=np.full((num_points, x.size), np.nan),
        multipliers=np.full(x.size - 1, np.nan, complex),
        log_multipliers=np.full(x.size - 1, np.nan, complex),
        trivial_multiplier=np.array(np.nan, complex),
        residual=float("inf"),
        num_steps=0,
        result=result,
        reason=reason,
    )


@eqx.filter_jit
def _advance(flow: Any, start: Any, time: Any) -> Array:
    """States after 1, ..., `_NUM_SAMPLES` times the given time."""
    start = jnp.asarray(start)

    def step(x: Array, _: None) -> tuple[Array, Array]:
        # From NaN the solver would try all of its steps, each time again: what has escaped is left where it is.
        alive = jnp.all(jnp.isfinite(x))
        x = jnp.where(alive, flow(jnp.where(alive, x, start), time), jnp.nan)
        return x, x

    return jax.lax.scan(step, start, None, length=_NUM_SAMPLES)[1]


@eqx.filter_jit
def _flow_and_jacobian(flow: Any, starts: Any, times: Any) -> tuple[Array, Array, Array]:
    derivative = lambda x, time: integrate_with_derivative(flow.vector_field, x, time, flow.method)
    ends, jacobians = jax.vmap(derivative)(jnp.asarray(starts), jnp.asarray(times))
    return ends, jacobians, jax.vmap(flow.vector_field)(ends)
