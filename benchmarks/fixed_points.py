"""Fixed points: the second-order search against a first-order (Adam) search of the same network.

The peer minimises q = |F(x) - x|^2 / 2 from the same starts with Adam in float32, the way FixedPointFinder does
(M. Golub & D. Sussillo 2018), written in JAX so that both run compiled. Recall is the share of the distinct true
fixed points (those that Newton's method finds from either search's ends) that lie within 1e-3 of an end.
"""

import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd

TITLE = "Fixed points: Newton in lanes against Adam"
NUM_CANDIDATES = 1024
ADAM_STEPS, ADAM_RATE = 2000, 1e-2


def rows() -> list[dict[str, Any]]:
    """One row for each network: sizes, seconds of CPU, candidates per second, recall, and the ratio."""
    measured = []
    for name, f, starts in networks():
        measured.append(measure(name, f, starts))
        print(measured[-1], flush=True)
    return measured


def networks() -> list[tuple[str, Any, np.ndarray]]:
    """The trained flip-flop networks of the tests, and random tanh networks of gain 1.3."""
    chosen = []
    for kind in ("gru", "vanilla"):
        data = np.load(Path(__file__).parent.parent / "tests" / "data" / f"flipflop_{kind}16.npz")
        cell = (
            rd.GRUCell.from_weights(data["W_ih"], data["W_hh"], data["b"], data["b_hh"][32:])
            if kind == "gru"
            else rd.VanillaCell.from_weights(data["W_ih"], data["W_hh"], data["b"])
        )
        chosen.append((f"flip-flop {kind}, N = 16", rd.as_map(cell), data["initial_states"]))
    rng = np.random.default_rng(0)
    for size in (16, 64, 256):
        weight = 1.3 * rng.standard_normal((size, size)) / np.sqrt(size)
        cell = rd.VanillaCell.from_weights(np.zeros((size, 1)), weight, 0.1 * rng.standard_normal(size))
        starts = rng.uniform(-1, 1, (NUM_CANDIDATES, size)).astype(np.float32)
        chosen.append((f"random tanh, N = {size}", rd.as_map(cell), starts))
    return chosen


def measure(name: str, f: Any, starts: np.ndarray) -> dict[str, Any]:
    """Both searches on one network: compile time apart, then CPU seconds of a warm run."""
    repeats = 3 if starts.shape[1] < 256 else 1
    ours, ours_compile, ours_cpu = timed(lambda: rd.find_fixed_points(f, starts, progress=False), repeats)
    ends, adam_compile, adam_cpu = timed(lambda: np.asarray(adam_search(f, jnp.asarray(starts))), repeats)
    known = rd.FixedPoints.concatenate([ours, rd.find_fixed_points(f, ends, progress=False)])

    def recall(found: np.ndarray) -> float:
        if len(known) == 0:
            return float("nan")
        nearest = [np.min(np.max(np.abs(found - point), axis=1), initial=np.inf) for point in known.points]
        return float(np.mean(np.array(nearest) < 1e-3))

    return {
        "network": name,
        "fixed points": len(known),
        "CPU s": round(ours_cpu, 2),
        "candidates/s": round(ours.num_candidates / ours_cpu),
        "recall": round(recall(ours.points), 3),
        "Adam CPU s": round(adam_cpu, 2),
        "Adam candidates/s": round(len(starts) / adam_cpu),
        "Adam recall": round(recall(ends), 3),
        "CPU ratio": round(adam_cpu / ours_cpu, 1),
        "compile s": round(ours_compile, 1),
        "Adam compile s": round(adam_compile, 1),
    }


def timed(function: Any, repeats: int) -> tuple[Any, float, float]:
    """The result, the time of the first call beyond a warm one, and the median CPU seconds of the warm calls."""
    start = time.perf_counter()
    result = function()
    first = time.perf_counter() - start
    cpu, wall = [], []
    for _ in range(repeats):
        begin, begin_wall = time.process_time(), time.perf_counter()
        function()
        cpu.append(time.process_time() - begin)
        wall.append(time.perf_counter() - begin_wall)
    return result, max(first - float(np.median(wall)), 0.0), float(np.median(cpu))


@eqx.filter_jit
def adam_search(f: Any, starts: jax.Array) -> jax.Array:
    """Where Adam on q leaves the candidates after `ADAM_STEPS` steps."""
    optimizer = optax.adam(optax.exponential_decay(ADAM_RATE, ADAM_STEPS, 0.01))

    def q(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((f(x) - x) ** 2)

    def step(carry: Any, _: None) -> Any:
        x, state = carry
        updates, state = optimizer.update(jax.vmap(jax.grad(q))(x), state)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (starts, optimizer.init(starts)), length=ADAM_STEPS)
    return x


def report() -> str:
    """The rows as text."""
    measured = rows()
    names = list(measured[0])
    cells = [names, *[[str(row[name]) for name in names] for row in measured]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)
