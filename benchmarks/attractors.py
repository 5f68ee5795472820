"""Attractors of networks: initial states per second, against a plain batched iteration of the same map.

Run as `python -m benchmarks.attractors`. The peer takes the steps that a fixed transient needs and recognises nothing.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from benchmarks._timing import Row, table, time_side_by_side

_TRANSIENT = 1000
"""Steps of the peer: what is commonly waited for before states are called attractors."""


def rows(num_states: tuple[int, ...] = (256, 1024, 4096), num_units: int = 64) -> list[Row]:
    """One row for each number of initial states, in seconds per initial state."""
    return [_row(num, num_units) for num in num_states]


def report() -> str:
    """The table of `python -m benchmarks attractors`."""
    found = rows()
    speeds = ", ".join(f"{1 / row.seconds:.0f} ({row.case})" for row in found)
    return f"{table(found)}\ninitial states per second: {speeds}"


def main() -> None:
    print(report())


class _Memory(eqx.Module):
    """x -> tanh(W x): a Hopfield network of four random patterns with a random antisymmetric part."""

    weights: jax.Array | np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.weights @ x)


def _network(num_units: int) -> Callable[[jax.Array], jax.Array]:
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], (4, num_units))
    noise = rng.standard_normal((num_units, num_units)) / np.sqrt(num_units)
    return _Memory(2 * patterns.T @ patterns / num_units + 0.3 * (noise - noise.T))


@eqx.filter_jit
def _iterate(f: Callable, states: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, _TRANSIENT, lambda _, x: jax.vmap(f)(x), states)


def _row(num_states: int, num_units: int) -> Row:
    f = _network(num_units)
    starts = np.random.default_rng(1).uniform(-1, 1, (num_states, num_units))

    def plain() -> jax.Array:
        with jax.enable_x64(True):
            return _iterate(f, jnp.asarray(starts))

    found = rd.find_attractors(f, starts, progress=False)
    timings = time_side_by_side(
        {"ours": lambda: rd.find_attractors(f, starts, progress=False).labels, "plain": plain}, repeats=3
    )
    return Row(
        "Attractors from many initial states (seconds per state)",
        f"{num_units} units, {num_states} states, {len(found)} attractors",
        timings["ours"].median / num_states,
        f"{_TRANSIENT} plain steps of the batch",
        timings["plain"].median / num_states,
        compile_seconds=timings["ours"].first - timings["ours"].median,
    )


if __name__ == "__main__":
    main()
