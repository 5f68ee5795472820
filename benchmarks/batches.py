"""Many networks, or many states, in one call against one call each, warm, in CPU seconds.

What a batch can save is what a call costs beside its arithmetic: dispatch, checks, Python between steps. Where one by
one the arithmetic is the most of it, on one core the ratio is near one; an accelerator or more cores is where a batch
gains more. The peers are the library's own calls in a loop, with programs that are compiled already.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd
from benchmarks._timing import Row, table, time_side_by_side

SIZES = (16, 32)


def report() -> str:
    """The table of `python -m benchmarks batches`."""
    rows = [make(size) for make in (sweep_row, attractors_row, training_row) for size in SIZES]
    return table([*rows, slow_flow_row()])


def sweep_row(size: int, num_maps: int = 16) -> Row:
    """`find_fixed_points_sweep` of 16 random networks against `find_fixed_points` of each."""
    rng = np.random.default_rng(0)
    weights = 1.2 * rng.standard_normal((num_maps, size, size)) / np.sqrt(size)
    maps = _Tanh(jnp.asarray(weights))
    starts = rng.uniform(-1, 1, (32, size))
    at_once = lambda: rd.find_fixed_points_sweep(maps, starts, follow=False, progress=False).counts
    each = lambda: [len(rd.find_fixed_points(_Tanh(jnp.asarray(w)), starts, progress=False)) for w in weights]
    return _row("find_fixed_points_sweep", f"{num_maps} networks of {size} units", at_once, each, num_maps)


def attractors_row(size: int, num_states: int = 64) -> Row:
    """`find_attractors` of 64 states of a memory network against `classify_attractor` of each."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], (2, size))
    f = _Tanh(jnp.asarray(2 * patterns.T @ patterns / size))
    starts = rng.uniform(-1, 1, (num_states, size))
    at_once = lambda: rd.find_attractors(f, starts, progress=False).labels
    each = lambda: [rd.classify_attractor(f, x).kind for x in starts]
    return _row("find_attractors", f"{num_states} states of {size} units", at_once, each, num_states)


def training_row(size: int, num_members: int = 16) -> Row:
    """`fit_ensemble` of 16 networks against `fit` of each, 50 updates of 16 trials of 20 steps."""
    key = jax.random.key(0)

    def make(key: Any) -> rd.RNN:
        cell_key, readout_key = jax.random.split(key)
        return rd.RNN(rd.VanillaCell(2, size, key=cell_key), eqx.nn.Linear(size, 1, key=readout_key))

    def batch(key: Any) -> tuple[jax.Array, jax.Array]:
        inputs = jax.random.normal(key, (16, 20, 2))
        return inputs, jnp.cumsum(inputs[..., :1], axis=1)

    def loss(model: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)

    keys = jax.random.split(key, num_members)
    models, single, optimizer = eqx.filter_vmap(make)(keys), [make(key) for key in keys], optax.adam(1e-3)
    options: dict[str, Any] = {"num_steps": 50, "progress": False}
    at_once = lambda: rd.fit_ensemble(models, loss, batch, optimizer, key=key, **options)
    each = lambda: [rd.fit(model, loss, batch, optimizer, key=k, **options) for model, k in zip(single, keys)]
    return _row("fit_ensemble", f"{num_members} networks of {size} units", at_once, each, num_members)


def slow_flow_row(num_states: int = 200) -> Row:
    """`find_attractors` on Lorenz's model of 1984, sampled every .1, against 1024 plain samples of every state."""
    f = rd.time_map(lorenz_84, 0.1)
    starts = np.random.default_rng(0).uniform(-2, 2, (num_states, 3))

    def plain() -> jax.Array:
        with jax.enable_x64(True):
            return _iterate(f, jnp.asarray(starts))

    at_once = lambda: rd.find_attractors(f, starts, progress=False).labels
    timings = time_side_by_side({"ours": at_once, "plain": plain}, repeats=2)
    ours, peer = timings["ours"], timings["plain"]
    case = f"Lorenz 84, {num_states} states"
    return Row(
        "find_attractors of a flow (seconds per state)",
        case,
        ours.median / num_states,
        "1024 plain samples of the batch",
        peer.median / num_states,
    )


def lorenz_84(x: jax.Array) -> jax.Array:
    """E. N. Lorenz (1984), *Irregularity: a fundamental property of the atmosphere*: a = .25, b = 4, F = 8, G = 1."""
    wind, cosine, sine = x
    return jnp.stack(
        [
            -(cosine**2) - sine**2 - 0.25 * wind + 2.0,
            wind * cosine - 4.0 * wind * sine - cosine + 1.0,
            4.0 * wind * cosine + wind * sine - sine,
        ]
    )


class _Tanh(eqx.Module):
    """x -> tanh(W x)."""

    weights: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.weights @ x)


@eqx.filter_jit
def _iterate(f: Any, states: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 1024, lambda _, x: jax.vmap(f)(x), states)


def _row(name: str, case: str, at_once: Any, each: Any, number: int) -> Row:
    timings = time_side_by_side({"at once": at_once, "each": each}, repeats=2)
    return Row(
        f"{name} (seconds for each)",
        case,
        timings["at once"].median / number,
        "one by one",
        timings["each"].median / number,
        goal="<= 1/5",
    )
