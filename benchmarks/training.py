"""Forward and backward pass of a layer over a batch, beside torch.nn, `flax.nnx.RNN` and a plain scan of Equinox cells.

One thread each: torch by `set_num_threads`, JAX by pinning the process to one core (`taskset -c 0 python -m benchmarks
training`). Times are CPU seconds, medians of turns, since what else the machine does falls on wall time first. Peers
come with `pip install "rnndyn[bench]"`; a missing one is said, and its rows are left out.
"""

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from benchmarks._timing import Row, table

SIZES = ((64, 100, 64, 128), (64, 200, 128, 256), (32, 200, 256, 512))
"""Sequences B, steps T, inputs I, units H."""
CELLS: dict[str, Any] = {"vanilla": rd.VanillaCell, "GRU": rd.GRUCell, "LSTM": rd.LSTMCell}
REPEATS = 7
GOALS = {"torch.nn": "1.0", "flax.nnx.RNN": "0.77", "Equinox scan": "0.77"}
Call = Callable[[], Any]


def report(sizes: tuple = SIZES, repeats: int = REPEATS) -> str:
    """The table, geometric means over cells and sizes, and which peers are missing."""
    missing = [name for name in ("torch", "flax") if importlib.util.find_spec(name) is None]
    rows = [row for size in sizes for name in CELLS for row in compare(name, size, missing, repeats)]
    lines = [table(sorted(rows, key=lambda row: row.peer))]
    for peer in sorted({row.peer for row in rows}):
        ratios = [row.ratio for row in rows if row.peer == peer]
        lines.append(f"geometric mean beside {peer}: {math.exp(statistics.mean(map(math.log, ratios))):.2f}")
    lines += [f"{name} is not installed: its rows are left out (extra `bench`)" for name in missing]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines.append(f"CPU seconds; JAX may use {cores} core{'s' if cores != 1 else ''}, torch one thread")
    return "\n".join(lines)


def compare(name: str, size: tuple[int, int, int, int], missing: list[str], repeats: int) -> list[Row]:
    """One cell at one size, beside every peer that is there; all take turns."""
    inputs = np.random.default_rng(0).normal(size=(size[0], size[1], size[2])).astype(np.float32)
    calls: dict[str, Call] = {
        "ours": ours(name, size, inputs),
        "plain scan (fast=False)": ours(name, size, inputs, fast=False),
        "Equinox scan": naive_equinox(name, size, inputs),
    }
    if "flax" not in missing:
        calls["flax.nnx.RNN"] = of_flax(name, size, inputs)
    if "torch" not in missing:
        calls["torch.nn"] = of_torch(name, size, inputs)
    seconds = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key, call in calls.items():
            start = time.process_time()
            call()
            seconds[key].append(time.process_time() - start)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    case = f"{name}, (B, T, I, H) = {size}"
    return [
        Row("Forward and backward pass, CPU seconds", case, median["ours"], key, median[key], GOALS.get(key, ""))
        for key in calls
        if key != "ours"
    ]


def ours(name: str, size: tuple, inputs: np.ndarray, fast: bool = True) -> Call:
    """`rnndyn.unroll` under `vmap`."""
    cell = CELLS[name](size[2], size[3], key=jax.random.key(0))

    def loss(cell: Any, inputs: Any) -> Any:
        return jnp.sum(jax.vmap(lambda u: cell.output(rd.unroll(cell, u, fast=fast)))(inputs) ** 2)

    return gradient_call(loss, cell, inputs)


class _Elman(eqx.Module):
    """Equinox has no vanilla cell: two of its linear layers."""

    of_input: eqx.nn.Linear
    of_state: eqx.nn.Linear

    def __call__(self, input: Any, state: Any) -> Any:
        return jnp.tanh(self.of_input(input) + self.of_state(state))


def naive_equinox(name: str, size: tuple, inputs: np.ndarray) -> Call:
    """The loop of Equinox' documentation: a scan of the cell over one sequence, mapped over the batch."""
    *_, width, units = size
    key = jax.random.key(0)
    if name == "vanilla":
        cell: Any = _Elman(eqx.nn.Linear(width, units, key=key), eqx.nn.Linear(units, units, use_bias=False, key=key))
    else:
        cell = (eqx.nn.GRUCell if name == "GRU" else eqx.nn.LSTMCell)(width, units, key=key)

    def run(cell: Any, inputs: Any) -> Any:
        zero = jnp.zeros(units)

        def step(state: Any, input: Any) -> tuple[Any, Any]:
            state = cell(input, state)
            return state, state[0] if name == "LSTM" else state

        return jax.lax.scan(step, (zero, zero) if name == "LSTM" else zero, inputs)[1]

    return gradient_call(lambda cell, inputs: jnp.sum(jax.vmap(lambda u: run(cell, u))(inputs) ** 2), cell, inputs)


def gradient_call(loss: Callable, model: Any, inputs: np.ndarray) -> Call:
    """A call that waits for the gradient."""
    gradient, there = eqx.filter_jit(eqx.filter_grad(loss)), jnp.asarray(inputs)
    return lambda: jax.block_until_ready(jax.tree.leaves(gradient(model, there)))


def of_flax(name: str, size: tuple, inputs: np.ndarray) -> Call:
    """`flax.nnx.RNN` of its own cell."""
    from flax import nnx  # pyright: ignore[reportMissingImports]

    kinds = {"vanilla": nnx.SimpleCell, "GRU": nnx.GRUCell, "LSTM": nnx.OptimizedLSTMCell}
    model = nnx.RNN(kinds[name](size[2], size[3], rngs=nnx.Rngs(0)))
    gradient = nnx.jit(nnx.grad(lambda model, inputs: jnp.sum(model(inputs) ** 2)))
    there = jnp.asarray(inputs)
    return lambda: jax.block_until_ready(jax.tree.leaves(gradient(model, there)))


def of_torch(name: str, size: tuple, inputs: np.ndarray) -> Call:
    """`torch.nn`, time first, which is its faster layout."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    kinds = {"vanilla": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}
    model, there = kinds[name](size[2], size[3]), torch.tensor(inputs).transpose(0, 1).contiguous()

    def call() -> None:
        model.zero_grad()
        (model(there)[0] ** 2).sum().backward()

    return call


if __name__ == "__main__":
    print(report())
