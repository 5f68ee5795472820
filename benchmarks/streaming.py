"""Streaming: a recurrent step against a causal attention layer with a key/value cache, at growing lengths.

Run as `python -m benchmarks.streaming`. The recurrent network keeps its state, the attention layer the keys and values
of all it has read: what a step costs, in time and memory, does not depend on the length for the one and grows with it
for the other. Reading a known sequence all at once is where attention is parallel and the network is not.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import rnndyn as rd
from benchmarks._timing import Row, table, time_side_by_side

WIDTH, NUM_HEADS = 256, 4
LENGTHS = (64, 256, 1024, 4096, 16384)
_STEPS = 100
"""Steps in one timed call."""
_REPEATS = 3


class CachedAttention(eqx.Module):
    """One layer of causal multi-head attention: four projections, and a softmax over all that was read."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    output: jax.Array

    def __init__(self, width: int, *, key: jax.Array):
        draw = lambda k: jax.random.normal(k, (width, width)) / jnp.sqrt(width)
        self.query, self.key, self.value, self.output = map(draw, jax.random.split(key, 4))

    def step(self, cache: tuple[jax.Array, jax.Array], place: jax.Array, input: jax.Array) -> tuple[Any, jax.Array]:
        """Read one input (W,) at a place of the cache (T, W); gives the cache and the output (W,)."""
        keys, values = (
            jax.lax.dynamic_update_index_in_dim(rows, weight @ input, place, 0)
            for rows, weight in zip(cache, (self.key, self.value))
        )
        split = lambda rows: rows.reshape(-1, NUM_HEADS, WIDTH // NUM_HEADS)
        scores = jnp.einsum("hd,thd->ht", split(self.query @ input)[0], split(keys)) / jnp.sqrt(WIDTH // NUM_HEADS)
        scores = jnp.where(jnp.arange(len(keys)) <= place, scores, -jnp.inf)
        mixed = jnp.einsum("ht,thd->hd", jax.nn.softmax(scores), split(values))
        return (keys, values), self.output @ mixed.ravel()

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """All of a sequence (T, W) at once."""
        split = lambda rows: rows.reshape(-1, NUM_HEADS, WIDTH // NUM_HEADS)
        query, key, value = (split(inputs @ weight.T) for weight in (self.query, self.key, self.value))
        return jax.nn.dot_product_attention(query, key, value, is_causal=True).reshape(-1, WIDTH) @ self.output.T


def rows(lengths: tuple[int, ...] = LENGTHS) -> list[Row]:
    """Seconds per step and bytes kept, at each length; and seconds for a whole sequence."""
    cells = {"GRU": rd.GRUCell, "LSTM": rd.LSTMCell}
    models = {name: rd.RNN(cell(WIDTH, WIDTH, key=jax.random.key(0)), lambda h: h) for name, cell in cells.items()}
    attention = CachedAttention(WIDTH, key=jax.random.key(1))
    found = []
    for length in lengths:
        found += _steps(models, attention, length)
    for length in lengths[:-1]:
        found += _whole(models, attention, length)
    return sorted(found, key=lambda row: row.benchmark)


def _steps(models: dict[str, rd.RNN], attention: CachedAttention, length: int) -> list[Row]:
    """Steps that end at `length`, from a state or cache that has read what is before."""
    inputs = jax.random.normal(jax.random.key(2), (_STEPS, WIDTH))
    cache = tuple(jax.random.normal(jax.random.key(k), (length, WIDTH)) for k in (3, 4))

    @eqx.filter_jit
    def recurrent(model: rd.RNN, state: Any) -> Any:
        return jax.lax.scan(lambda state, input: model.step(state, input), state, inputs)

    @eqx.filter_jit
    def attend(attention: CachedAttention, cache: Any) -> Any:
        # Every step is taken at the full length: the cost at that length, whatever the number of steps timed.
        return jax.lax.scan(lambda cache, input: attention.step(cache, jnp.asarray(length - 1), input), cache, inputs)

    calls: dict[str, Callable[[], Any]] = {
        name: lambda model=model: recurrent(model, model.start()) for name, model in models.items()
    }
    calls["attention"] = lambda: attend(attention, cache)
    timings = time_side_by_side(calls, repeats=_REPEATS)
    kept = {name: rd.Stream(model).num_bytes for name, model in models.items()}
    cached = sum(rows.nbytes for rows in cache)
    per_step = timings["attention"].median / _STEPS
    return [
        Row(
            "One step at a length, seconds",
            f"{name}, {WIDTH} units, {length} steps read ({kept[name]} bytes)",
            timings[name].median / _STEPS,
            f"attention ({cached} bytes)",
            per_step,
        )
        for name in models
    ]


def _whole(models: dict[str, rd.RNN], attention: CachedAttention, length: int) -> list[Row]:
    """A sequence that is known from the start."""
    inputs = jax.random.normal(jax.random.key(2), (length, WIDTH))
    run = eqx.filter_jit(lambda model, inputs: model(inputs))
    calls: dict[str, Callable[[], Any]] = {
        name: lambda model=model: run(model, inputs) for name, model in models.items()
    }
    calls["attention"] = lambda: run(attention, inputs)
    timings = time_side_by_side(calls, repeats=_REPEATS)
    return [
        Row(
            "Whole sequence, seconds",
            f"{name}, {WIDTH} units, {length} steps",
            timings[name].median,
            "causal attention, all at once",
            timings["attention"].median,
        )
        for name in models
    ]


if __name__ == "__main__":
    print(table(rows()))
