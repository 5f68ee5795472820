"""What the first call of a driver costs, in a process that has compiled nothing, and what the calls after it cost."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd

ROOT = Path(__file__).parent.parent


def _weights(seed: int, size: int, gain: float) -> np.ndarray:
    return gain / np.sqrt(size) * np.random.default_rng(seed).standard_normal((size, size))


def _tanh(seed: int, size: int, gain: float) -> Callable:
    """A closure, another one for each seed, all of one structure."""
    weights = _weights(seed, size, gain)
    return lambda x: jnp.tanh(weights @ x)


def _gru(seed: int) -> Callable:
    cell = rd.GRUCell(3, 64, key=jax.random.key(seed))
    return lambda h: cell(h, jnp.zeros(3))


def _driven_by_gain(seed: int) -> Callable:
    weights = _weights(seed, 8, 1.0)
    return lambda x, p: jnp.tanh(p * (weights @ x) + 0.1)


def _starts(size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (64, size))


class Case(NamedTuple):
    """One driver: what it is given, the map for a seed, and the call; the number k changes lengths a little."""

    size: str
    build: Callable[[int], Callable]
    call: Callable[[Callable, int], Any]


CASES = {
    "find_fixed_points": Case(
        "GRU of 64 units, 64 candidates",
        _gru,
        lambda f, k: rd.find_fixed_points(f, _starts(64)[: 64 - k], progress=False),
    ),
    "lyapunov_spectrum": Case(
        "128 tanh units, 1000 steps",
        lambda seed: _tanh(seed, 128, 1.5),
        lambda f, k: rd.lyapunov_spectrum(f, _starts(128)[0], 1000 - k),
    ),
    "certify_fixed_point": Case(
        "16 tanh units", lambda seed: _tanh(seed, 16, 0.9), lambda f, k: rd.certify_fixed_point(f, np.zeros(16))
    ),
    "enumerate_fixed_points": Case(
        "2 tanh units",
        lambda seed: _tanh(seed, 2, 1.5),
        lambda f, k: rd.enumerate_fixed_points(f, -np.ones(2), np.ones(2)),
    ),
    "continue_fixed_points": Case(
        "8 tanh units",
        _driven_by_gain,
        lambda f, k: rd.continue_fixed_points(f, np.zeros(8), 0.2, (0.2, 1.5)),
    ),
    "trajectory": Case(
        "64 tanh units, 1000 steps",
        lambda seed: _tanh(seed, 64, 1.5),
        lambda f, k: rd.trajectory(f, _starts(64)[0], 1000 - k),
    ),
}


def report() -> str:
    """CPU seconds of the first call, again, with another length, and on another closure; each in a fresh process."""
    lines = ["CPU seconds             size                             first   again  other length  other closure"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NPROC": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a cold start has nothing to read
    for name, case in CASES.items():
        command = [sys.executable, "-m", "benchmarks.cold_starts", name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        first, again, length, closure = map(float, done.stdout.split())
        lines.append(f"{name:23s} {case.size:31s} {first:6.2f}  {again:6.2f}  {length:12.2f}  {closure:13.2f}")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def measure(name: str) -> list[float]:
    """CPU seconds of the four calls, in this process."""
    jnp.zeros(3).block_until_ready()  # starting JAX is not the driver's
    case, seconds = CASES[name], []
    one, other = case.build(0), case.build(1)
    for f, k in ((one, 0), (one, 0), (one, 3), (other, 0)):
        begin = time.process_time()
        jax.block_until_ready(jax.tree.leaves(case.call(f, k)))
        seconds.append(time.process_time() - begin)
    return seconds


if __name__ == "__main__":
    print(*measure(sys.argv[1]))
