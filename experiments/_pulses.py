"""Where pulses of input take a network with memories: destinations, the weakest pulse from one to another, passages."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


@eqx.filter_jit
def after_pulse(f: Any, start: jax.Array, pulse: jax.Array, num_steps: int) -> jax.Array:
    """The state a number of steps after a pulse."""
    zero = jnp.zeros_like(pulse)
    return jax.lax.fori_loop(0, num_steps, lambda _, x: f(x, zero), f(start, pulse))


def nearest_memory(x: jax.Array, memories: jax.Array) -> jax.Array:
    """The index of the memory at which a state has arrived, or -1."""
    distances = jnp.linalg.norm(x - memories, axis=-1)
    # Memories lie several units apart, and attract within tens of steps.
    return jnp.where(jnp.min(distances) < 0.05, jnp.argmin(distances), -1)


@eqx.filter_jit
def destinations(f: Any, start: Any, memories: Any, pulses: Any, num_steps: int) -> jax.Array:
    """The memory after each of some pulses, `(P,)`."""
    return jax.vmap(
        lambda pulse: nearest_memory(after_pulse(f, jnp.asarray(start), pulse, num_steps), jnp.asarray(memories))
    )(jnp.asarray(pulses))


def weakest_pulses(
    f: Any, memories: np.ndarray, reached: np.ndarray, directions: np.ndarray, radii: np.ndarray, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Size and direction of the weakest pulse from each memory to each other one, bisected on its ray."""
    count = len(memories)
    thresholds, ways = np.full((count, count), np.inf), np.zeros((count, count, 2))
    for i in range(count):
        for j in range(count):
            found = reached[i] == j
            if i == j or not found.any():
                continue
            radius = int(np.argmax(found.any(axis=0)))
            # Of the rays that reach it with the smallest size, up to eight; always eight, to share a compilation.
            rays = np.flatnonzero(found[:, radius])
            rays = rays[np.linspace(0, len(rays) - 1, 8).round().astype(int)]
            low, high = radii[radius - 1] if radius else 0.0, radii[radius]
            sizes = np.asarray(bisect(f, memories[i], memories, directions[rays], low, high, j, num_steps))
            best = np.argmin(sizes)
            thresholds[i, j], ways[i, j] = sizes[best], directions[rays[best]]
    return thresholds, ways


@eqx.filter_jit
def bisect(
    f: Any, start: Any, memories: Any, directions: Any, low: Any, high: Any, goal: Any, num_steps: int
) -> jax.Array:
    """The smallest sizes of pulses along some directions that lead to the memory `goal`, to the last bit."""

    def one(direction: jax.Array) -> jax.Array:
        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) / 2
            end = after_pulse(f, jnp.asarray(start), middle * direction, num_steps)
            enough = nearest_memory(end, jnp.asarray(memories)) == goal
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        return jax.lax.fori_loop(0, 50, halve, (jnp.asarray(low), jnp.asarray(high)))[1]

    return jax.vmap(one)(jnp.asarray(directions))


@eqx.filter_jit
def pulse_and_settle(f: Any, start: Any, pulse: Any, num_steps: int) -> jax.Array:
    """The states from a pulse on."""
    first = f(jnp.asarray(start), jnp.asarray(pulse))
    step = lambda x, _: (f(x, jnp.zeros(2)), x)
    return jax.lax.scan(step, first, length=num_steps)[1]


@eqx.filter_jit
def switch_times(f: Any, start: Any, goal: Any, pulses: Any, near: Any) -> Any:
    """Steps after each pulse until the state is within `near` of the memory it goes to; at most 4000."""

    def one(pulse: jax.Array) -> Any:
        waiting = lambda carry: (jnp.linalg.norm(carry[0] - goal) > near) & (carry[1] < 4000)
        step = lambda carry: (f(carry[0], jnp.zeros(2)), carry[1] + 1)
        return jax.lax.while_loop(waiting, step, (f(jnp.asarray(start), pulse), 0))[1]

    return jax.vmap(one)(jnp.asarray(pulses))
