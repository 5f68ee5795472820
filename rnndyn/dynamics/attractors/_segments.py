"""Pieces of orbits: one with the growth of its tangent vectors, many until they return, and late states of many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnndyn._programs import compiled
from rnndyn.dynamics.numerics.drivers import map_in_chunks, run_in_lanes
from rnndyn.dynamics.numerics.frames import push_frame
from rnndyn.dynamics.numerics.torus import difference

_STEPS_PER_TURN = 8
"""Steps between two looks at which lanes are done."""


class Segment(NamedTuple):
    """A piece of one orbit."""

    states: Float[Array, "T N"]
    log_growth: Float[Array, "T k"]
    """ln of the diagonal of R at every step: growth of a tangent vector, and across it."""
    frame: Float[Array, "N k"]


@compiled
def follow(f: Callable[[Array], Array], x: Array, frame: Float[Array, "N k"], num_steps: int) -> Segment:
    """`num_steps` states after `x`, with the growth of the one or two tangent vectors of `frame`."""

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x, frame = carry
        x, pushed = push_frame(f, x, (), frame)
        first, log_first = _unit(pushed[:, 0], frame[:, 0])
        columns, logs = [first], [log_first]
        if frame.shape[1] == 2:
            across = pushed[:, 1] - first * (first @ pushed[:, 1])
            # Once more: after strong stretching the first projection leaves a rest along the first vector.
            across = across - first * (first @ across)
            second, log_second = _unit(across, frame[:, 1])
            columns.append(second)
            logs.append(log_second)
        frame = jnp.stack(columns, axis=1)
        return (x, frame), (x, jnp.stack(logs))

    (_, frame), (states, logs) = jax.lax.scan(step, (x, frame), None, length=num_steps)
    return Segment(states, logs, frame)


@compiled
def skip(f: Callable[[Array], Array], x: Array, num_steps: Array) -> Array:
    """The state `num_steps` steps later; the number is not compiled in."""
    return jax.lax.fori_loop(0, num_steps, lambda _, x: f(x), x)


class Ends(NamedTuple):
    """Where many orbits stand after a round."""

    states: Float[np.ndarray, "K N"]
    periods: Int[np.ndarray, " K"]
    """After how many steps an orbit came back to where it was; 0 where it did not."""
    escaped: Bool[np.ndarray, " K"]


def run_until_return(
    f: Callable[[Array], Array],
    starts: Float[np.ndarray, "K N"],
    *,
    num_steps: int,
    tolerance: float,
    radius: float,
    num_rows: int,
    progress: bool,
) -> Ends:
    """Run every start until it returns within `tolerance`, exceeds `radius`, or has taken `num_steps` steps.

    A return is one to a state that the orbit had after 1, 2, 4, 8, ... steps (R. Brent 1980, *An improved Monte Carlo
    factorization algorithm*): no orbit is stored, and the memory is that of two states each. The batch is padded to
    `num_rows`, so that rounds with fewer and fewer starts share one compilation.
    """
    num, size = starts.shape
    batch = np.full((num_rows, size), np.nan)
    batch[:num] = starts
    lanes = int(np.clip(2**15 // size, 32, 512)) if jax.default_backend() == "cpu" else 8192
    limits = (jnp.asarray(num_steps), jnp.asarray(tolerance), jnp.asarray(radius))
    ends = map_in_chunks(
        lambda part: _run_lanes(f, jnp.asarray(part), limits, lanes),
        batch,
        bytes_per_item=64 * size,
        description="orbits",
        progress=progress,
        padding=np.nan,
    )
    return Ends(*(np.asarray(a)[:num] for a in ends))


class _Lane(NamedTuple):
    x: Array
    anchor: Array
    age: Array
    interval: Array
    num_steps: Array
    period: Array
    escaped: Array


@compiled
def _run_lanes(f: Callable, starts: Array, limits: tuple[Array, Array, Array], num_lanes: int) -> Any:
    num_steps, tolerance, radius = limits
    zero = jnp.zeros((), jnp.int32)

    def init(x: Array) -> _Lane:
        return _Lane(x, x, zero, zero + 1, zero, zero, ~jnp.all(jnp.isfinite(x)))

    def done(lane: _Lane) -> Array:
        return (lane.period > 0) | lane.escaped | (lane.num_steps >= num_steps)

    def one(_: Any, lane: _Lane) -> _Lane:
        x = f(lane.x)
        age = lane.age + 1
        apart = difference(x, lane.anchor, getattr(f, "period", None))
        period = jnp.where(jnp.max(jnp.abs(apart)) <= tolerance, age, 0)
        moves = age == lane.interval
        new = _Lane(
            x,
            jnp.where(moves, x, lane.anchor),
            jnp.where(moves, 0, age),
            jnp.where(moves, 2 * lane.interval, lane.interval),
            lane.num_steps + 1,
            period,
            ~(jnp.max(jnp.abs(x)) <= radius),
        )
        stop = done(lane)
        return jax.tree.map(lambda a, b: jnp.where(stop, a, b), lane, new)

    def step(lane: _Lane) -> _Lane:
        return jax.lax.fori_loop(0, _STEPS_PER_TURN, one, lane)

    lanes = run_in_lanes(init, step, done, starts, num_lanes)
    return lanes.x, lanes.period, lanes.escaped


def late_states(
    f: Callable[[Array], Array], starts: Float[np.ndarray, "K N"], num_states: int, every: int
) -> Float[np.ndarray, "K M N"]:
    """`num_states` states of the orbit of each start, `every` steps apart."""
    block = 64
    parts = []
    for first in range(0, len(starts), block):
        part = starts[first : first + block]
        padded = np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
        parts.append(np.asarray(_strided(f, jnp.asarray(padded), num_states, every))[: len(part)])
    return np.concatenate(parts)


@compiled
def _strided(f: Callable, starts: Array, num_states: int, every: int) -> Array:
    def stride(x: Array, _: None) -> tuple[Array, Array]:
        x = jax.lax.fori_loop(0, every, lambda _, x: f(x), x)
        return x, x

    return jax.vmap(lambda x: jax.lax.scan(stride, x, None, length=num_states)[1])(starts)


def _unit(vector: Array, before: Array) -> tuple[Array, Array]:
    """Direction and log length; a vector that vanished (log length -inf) keeps its direction."""
    length = jnp.linalg.norm(vector)
    alive = length > 0
    safe = jnp.where(alive, length, 1)
    return jnp.where(alive, vector / safe, before), jnp.where(alive, jnp.log(safe), -jnp.inf)
