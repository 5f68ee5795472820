"""Where the trajectory of a flow comes back to itself, settles, or escapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn._programs import compiled
from rnndyn.dynamics.cycles._flow_shooting import Flow
from rnndyn.dynamics.cycles.verdicts import LimitCycleVerdict
from rnndyn.dynamics.numerics.integration_method import Method

_NUM_SAMPLES = 4096
"""Samples of the trajectory in which close returns are looked for."""


def time_scale(vector_field: Callable, x: np.ndarray) -> float:
    """1 / |Dv|, the fastest time of the flow at a state; 1 where that is no number."""
    norm = float(np.linalg.norm(np.asarray(jax.jacfwd(vector_field)(jnp.asarray(x)))))
    return 1 / norm if np.isfinite(norm) and norm > 0 else 1.0


def find_return(
    vector_field: Callable, start: np.ndarray, duration: float, transient: float, period: float | None, rounds: int
) -> tuple[np.ndarray, float, tuple[int, int, float] | None]:
    """The samples of the trajectory, the time they take, and where it comes back; none where it escapes or settles."""
    for k in range(rounds):
        first = start
        if transient > 0:
            start = _follow(vector_field, start, transient)[-1]
            if not np.isfinite(start).all():
                # There is no state to go on from, and a solver that starts at NaN takes all its steps.
                return start[None], duration, None
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


def _follow(vector_field: Callable, start: np.ndarray, duration: float) -> np.ndarray:
    """The trajectory at `_NUM_SAMPLES` equal steps."""
    # First with relative accuracy down to nothing. A component of mere rounding error cannot be followed like that.
    for atol in (1e-60, 1e-12 * max(float(np.max(np.abs(start))), 1e-280)):
        flow = Flow(vector_field, Method(None, np.asarray(1e-9), np.full(start.size, atol), 4096, num_probes=0))
        states = np.asarray(_advance(flow, start, np.asarray(duration / _NUM_SAMPLES)))
        if np.isfinite(states).all():
            break
    return states


def no_return(vector_field: Callable, states: np.ndarray, duration: float) -> tuple[Any, str]:
    """Why no return was found: the verdict, and the reason in words."""
    if _settles(vector_field, states, states[0]):
        return LimitCycleVerdict.equilibrium, "the trajectory settles on an equilibrium (see find_equilibria)."
    after = f"{duration:.3g} units of time"
    return (
        LimitCycleVerdict.no_return,
        f"the trajectory does not come back to itself within {after}. Take a longer duration.",
    )


@compiled
def _advance(flow: Any, start: Any, time: Any) -> Array:
    """States after 1, ..., `_NUM_SAMPLES` times the given time."""
    start = jnp.asarray(start)

    def step(x: Array, _: None) -> tuple[Array, Array]:
        # From NaN the solver would try all of its steps, each time again: what has escaped is left where it is.
        alive = jnp.all(jnp.isfinite(x))
        x = jnp.where(alive, flow(jnp.where(alive, x, start), time), jnp.nan)
        return x, x

    return jax.lax.scan(step, start, None, length=_NUM_SAMPLES)[1]
