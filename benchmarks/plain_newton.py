"""Fixed points of a published network: `find_fixed_points` beside a plain NumPy loop, from the same candidates.

The network (`tests/data/modarith_attractive_100.npz`) adds modulo 3; it has 35 fixed points without input. The peer is
what one writes in an afternoon: all candidates in one array, Newton steps by `numpy.linalg.solve` on all that still
move, halved until the residual falls, ends within 1e-7 of one another taken as one. CPU seconds, which count all
threads alike, in turns, after one call of each.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import rnndyn as rd

NUM_CANDIDATES, ALPHA, REPEATS = 1024, 0.1, 5
FEW = 128
"""Of the candidates: mixtures of what they found, and paths, add what they did not meet."""


class Leaky(eqx.Module):
    """x -> (1 - a) x + a (W tanh(x) + b)."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return (1 - ALPHA) * x + ALPHA * (self.weights @ jnp.tanh(x) + self.bias)


def plain_newton(weights: np.ndarray, bias: np.ndarray, starts: np.ndarray, max_steps: int = 100) -> np.ndarray:
    """The distinct fixed points of the network that damped Newton steps reach from the starts."""

    def residual(x: np.ndarray) -> np.ndarray:
        return ALPHA * (np.tanh(x) @ weights.T + bias - x)

    x, moving, arrived = starts.copy(), np.arange(len(starts)), []
    for _ in range(max_steps):
        g = residual(x[moving])
        size = np.linalg.norm(g, axis=1)
        arrived += list(moving[size < 1e-12])
        moving, g, size = moving[size >= 1e-12], g[size >= 1e-12], size[size >= 1e-12]
        if not moving.size:
            break
        jacobians = ALPHA * (weights * (1 - np.tanh(x[moving]) ** 2)[:, None] - np.eye(len(bias)))
        steps = np.linalg.solve(jacobians, -g[:, :, None])[:, :, 0]
        damping, left = np.ones(len(moving)), np.arange(len(moving))
        for _ in range(10):
            tried = x[moving[left]] + damping[left, None] * steps[left]
            falls = np.linalg.norm(residual(tried), axis=1) < (1 - 1e-4 * damping[left]) * size[left]
            x[moving[left[falls]]] = tried[falls]
            left = left[~falls]
            if not left.size:
                break
            damping[left] /= 2
        moving = np.delete(moving, left)  # those whose residual no longer falls have stalled
    distinct: list[np.ndarray] = []
    for end in x[arrived]:
        if not distinct or np.min(np.max(np.abs(np.array(distinct) - end), axis=1)) > 1e-7:
            distinct.append(end)
    return np.array(distinct)


def candidates(weights: np.ndarray, bias: np.ndarray, colors: np.ndarray) -> dict[str, np.ndarray]:
    """States of trials, as the analysis of a trained network starts from them, and uniform ones."""
    rng = np.random.default_rng(0)
    states = []
    for sequence in np.ndindex(3, 3, 3):
        times = np.array([4, 14, 24]) + rng.integers(0, 9, 3)
        x = np.ones(len(bias))
        for t in range(90):
            shown = sum(colors[c] for c, start in zip(sequence, times) if 0 <= t - start < 2)
            x = (1 - ALPHA) * x + ALPHA * (weights @ np.tanh(x) + bias + shown)
            states.append(x)
    chosen = np.array(states)[rng.choice(len(states), NUM_CANDIDATES, replace=False)]
    return {
        "states of trials": chosen,
        "states of trials, scaled": chosen * (1 + 0.3 * rng.standard_normal((NUM_CANDIDATES, 1))),
        "uniform states": rng.uniform(-3, 3, (NUM_CANDIDATES, len(bias))),
    }


def rows() -> list[dict[str, Any]]:
    """For each kind of candidates the points and the median CPU seconds of the loop, of one round from all of them and
    from a few, and by default."""
    data = np.load(Path(__file__).parent.parent / "tests" / "data" / "modarith_attractive_100.npz")
    weights, bias, colors = (data[name].astype(float) for name in ("W", "b", "colors"))
    f, measured = Leaky(weights, bias), []
    for name, starts in candidates(weights, bias, colors).items():
        searches: dict[str, Callable[[], Any]] = {
            "NumPy loop": lambda starts=starts: plain_newton(weights, bias, starts),
            "one round": lambda starts=starts: rd.find_fixed_points(f, starts, max_rounds=1, progress=False).points,
            f"one round of {FEW}": lambda starts=starts: (
                rd.find_fixed_points(f, starts[:FEW], max_rounds=1, progress=False).points
            ),
            "default": lambda starts=starts: rd.find_fixed_points(f, starts, progress=False).points,
        }
        found = {key: len(search()) for key, search in searches.items()}
        seconds: dict[str, list[float]] = {key: [] for key in searches}
        for _ in range(REPEATS):
            for key, search in searches.items():
                begin = time.process_time()
                search()
                seconds[key].append(time.process_time() - begin)
        for key in searches:
            cpu = statistics.median(seconds[key])
            measured.append({"candidates": name, "search": key, "points": found[key], "CPU s": round(cpu, 2)})
            print(measured[-1], flush=True)
    return measured


def report() -> str:
    """The rows as text."""
    measured = rows()
    names = list(measured[0])
    cells = [names, *[[str(row[name]) for name in names] for row in measured]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)
