"""Fixed points: the second-order search against a first-order (Adam) search of the same network.

The peer minimises q = |F(x) - x|^2 / 2 from the same starts with Adam in float32, the way FixedPointFinder does
(M. Golub & D. Sussillo 2018), written in JAX so that both run compiled. Recall is the share of the distinct true
fixed points (those that Newton's method finds from either search's ends, and from all candidates) that lie within 1e-3
of an end. Then a driven GRU against the same algorithm with the defaults of FixedPointFinder's PyTorch version, chaotic
networks whose fixed points candidates do not find, one of 1000 units, and two of 10 000 and 100 000, each alone.
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
    every = rd.find_fixed_points(f, starts, all_candidates=True, progress=False)
    known = rd.FixedPoints.concatenate([ours, every, rd.find_fixed_points(f, ends, progress=False)])

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


def driven_gru() -> str:
    """A GRU of 128 units with PyTorch's initial weights, its input held: one fixed point."""
    size, rng = 128, np.random.default_rng(0)
    draw = lambda *shape: rng.uniform(-1, 1, shape) / np.sqrt(size)
    cell = rd.GRUCell.from_weights(draw(3 * size, 3), draw(3 * size, size), draw(3 * size), draw(size))
    f = rd.as_map(cell, rng.standard_normal(3))
    starts = rng.uniform(-1, 1, (256, size)).astype(np.float32)
    ours, _, cpu = timed(lambda: rd.find_fixed_points(f, starts, progress=False), 1)
    (ends, q, num_steps), _, peer_cpu = timed(lambda: jax.device_get(golub_search(f, jnp.asarray(starts))), 1)
    listed = int(np.max(as_listed(ends), initial=-1)) + 1
    near = [np.min(np.max(np.abs(ours.points - end), axis=1)) < 1e-3 for end in ends]
    return (
        f"driven GRU, N = 128: {len(ours)} fixed point(s) in {cpu:.2f} CPU s; FixedPointFinder's algorithm, "
        f"{int(num_steps)} steps: {peer_cpu:.2f} CPU s ({peer_cpu / cpu:.1f} times), lists {listed}, largest q "
        f"{float(np.max(q)):.1g}, {np.mean(near):.2f} of its ends within 1e-3 of ours"
    )


def as_listed(ends: np.ndarray) -> np.ndarray:
    """Labels of ends that are one to FixedPointFinder: within 1e-3 of one another (its tol_unique)."""
    labels, heads = np.zeros(len(ends), int), np.zeros((0, ends.shape[1]))
    for row, end in enumerate(ends):
        near = np.flatnonzero(np.linalg.norm(heads - end, axis=1) <= 1e-3)
        labels[row] = near[0] if near.size else len(heads)
        heads = heads if near.size else np.concatenate([heads, end[None]])
    return labels


def chaotic_gru(size: int) -> str:
    """A GRU of gain 3 without input and bias: a fixed point from a path where candidates find none."""
    weight = 3.0 * np.random.default_rng(0).standard_normal((3 * size, size)) / np.sqrt(size)
    f = rd.as_map(rd.GRUCell.from_weights(np.zeros((3 * size, 1)), weight, np.zeros(3 * size), np.zeros(size)))
    starts = np.random.default_rng(1).uniform(-1, 1, (8, size))
    begin = time.process_time()
    found = rd.find_fixed_points(f, starts, max_steps=8, max_rounds=1, num_paths=2, progress=False)
    cpu = time.process_time() - begin
    steps = found.paths.num_steps.tolist() if found.paths is not None else []
    return f"chaotic GRU, N = {size}: {len(found)} fixed points from 2 paths of {steps} steps, {cpu:.1f} CPU s in all"


def thousand_units() -> str:
    """A random tanh network of gain 1.3 and 1000 units: a search from candidates, its first call."""
    size, rng = 1000, np.random.default_rng(0)
    weight = 1.3 * rng.standard_normal((size, size)) / np.sqrt(size)
    f = rd.as_map(rd.VanillaCell.from_weights(np.zeros((size, 1)), weight, 0.1 * rng.standard_normal(size)))
    starts = rng.uniform(-1, 1, (NUM_CANDIDATES, size)).astype(np.float32)
    begin = time.process_time()
    found = rd.find_fixed_points(f, starts, progress=False)
    cpu = time.process_time() - begin
    followed = "no paths" if found.paths is None else f"{len(found.paths)} paths"
    return (
        f"random tanh, N = {size}: {len(found)} fixed points, is_balanced {found.is_balanced}, "
        f"{found.num_candidates} candidates and {followed}, {cpu:.1f} CPU s in all"
    )


def ten_thousand_units() -> str:
    """A dense tanh network of 10 000 units (800 MB): one point to 1e-12 from a guess, and eight multipliers."""
    size, rng = 10_000, np.random.default_rng(0)
    weight = rng.standard_normal((size, size))
    weight *= 0.9 / np.sqrt(size)
    f = rd.as_map(rd.VanillaCell.from_weights(np.zeros((size, 1)), weight, 0.3 * rng.standard_normal(size)))
    del weight
    begin = time.process_time()
    found = rd.find_large_fixed_point(f, np.zeros(size))
    cpu = time.process_time() - begin
    return f"dense tanh, N = 10000: {as_large(found)}, {cpu:.1f} CPU s"


def hundred_thousand_units() -> str:
    """A tanh network of 100 000 units, ten connections each and three patterns on top: products only."""
    size, rng = 100_000, np.random.default_rng(0)
    sources, strengths = rng.integers(size, size=(size, 10)), 0.7 * rng.standard_normal((size, 10)) / np.sqrt(10)
    patterns = rng.choice([-1.0, 1.0], (size, 3))
    rise, bias = 1.6 / size, 0.1 * rng.standard_normal(size)

    def f(x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.sum(strengths * x[sources], axis=1) + rise * (patterns @ (patterns.T @ x)) + bias)

    begin = time.process_time()
    found = rd.find_large_fixed_point(f, np.zeros(size))
    cpu = time.process_time() - begin
    return f"sparse and low rank, N = 100000: {as_large(found)}, {cpu:.1f} CPU s"


def as_large(found: Any) -> str:
    """What was found of a large fixed point."""
    scale = np.max(np.abs(found.multipliers), initial=0.0)
    good = int(np.sum(found.multiplier_residuals <= 1e-9 * scale))
    return (
        f"residual {found.residual:.1e}, {found.num_steps} steps, {found.num_products} products, "
        f"{good} of {len(found.multipliers)} multipliers to 1e-9, largest modulus "
        f"{scale:.4f}, unstable directions {found.num_unstable} (the rest below {found.rest_bound:.4f})"
    )


@eqx.filter_jit
def golub_search(f: Any, starts: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Joint Adam on the mean of q in float32, at rate .05, lowered by a factor .7 every 500 steps.

    It ends when q < 1e-12 or a step changes q by less than 1e-20 for every candidate, or after 5000 steps: the
    settings of FixedPointFinder's PyTorch version of 2023.
    """
    optimizer = optax.adam(optax.exponential_decay(0.05, 500, 0.7, staircase=True))

    def speeds(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((jax.vmap(f)(x) - x) ** 2, axis=1)

    def step(carry: Any) -> Any:
        x, state, before, count, _ = carry
        q, pull = jax.vjp(speeds, x)
        updates, state = optimizer.update(pull(jnp.full_like(q, 1 / len(x)))[0], state)
        done = jnp.all((jnp.abs(q - before) < 1e-20) | (q < 1e-12)) & (count > 0)
        return x + updates, state, q, count + 1, done

    begin = (starts, optimizer.init(starts), jnp.full(len(starts), jnp.inf, starts.dtype), 0, jnp.asarray(False))
    x, _, q, count, _ = jax.lax.while_loop(lambda c: ~c[-1] & (c[-2] < 5000), step, begin)
    return x, q, count


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
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]
    lines.append("")
    for alone in (
        driven_gru,
        lambda: chaotic_gru(128),
        lambda: chaotic_gru(500),
        thousand_units,
        ten_thousand_units,
        hundred_thousand_units,
    ):
        lines.append(alone())
        print(lines[-1], flush=True)
    return "\n".join(lines)
