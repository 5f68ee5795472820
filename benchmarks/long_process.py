"""A process that lives long: what a hundred networks of one structure, and then of many, leave behind."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from rnndyn._programs.compiling import num_maps

STATES = 0.5 * np.random.default_rng(0).standard_normal((40, 24))

DRIVERS: dict[str, Callable[[Any, int], Any]] = {
    "find_fixed_points": lambda f, n: rd.find_fixed_points(f, STATES[:33, :n], progress=False),
    "classify_attractor": lambda f, n: rd.classify_attractor(f, STATES[0, :n]),
    "certify_fixed_point": lambda f, n: rd.certify_fixed_point(f, STATES[0, :n]),
    "lyapunov_spectrum": lambda f, n: rd.lyapunov_spectrum(f, STATES[0, :n], 300, num_transient=100),
    "jacobian_product_spectrum": lambda f, n: rd.jacobian_product_spectrum(f, STATES[0, :n], (1, 10, 50)),
    "linearize": lambda f, n: rd.linearize(f, STATES[0, :n]),
    "trajectory": lambda f, n: rd.trajectory(f, STATES[0, :n], 50),
    "find_slow_points": lambda f, n: rd.find_slow_points(f, STATES[:33, :n], progress=False),
    "find_cycles": lambda f, n: rd.find_cycles(f, STATES[:33, :n], 2, progress=False),
    "find_attractors": lambda f, n: rd.find_attractors(f, STATES[:33, :n], progress=False),
}


def report() -> str:
    """Memory maps, resident memory and CPU seconds per network along the way."""
    lines = ["structures      networks  memory maps  resident MB  CPU s per network (ten drivers)"]
    alike = [(seed, 2) for seed in range(100)]
    lines += _live("one", alike, list(DRIVERS), every=25)
    # Few drivers: each structure is compiled anew.
    differing = [(seed, 2 + seed) for seed in range(20)]
    lines += _live("all differ", differing, ["find_fixed_points", "lyapunov_spectrum", "linearize"], every=5)
    return "\n".join(lines)


def _live(name: str, networks: list[tuple[int, int]], drivers: list[str], *, every: int) -> list[str]:
    lines, begin = [], time.process_time()
    for count, (seed, size) in enumerate(networks, start=1):
        f = _closure(seed, size) if seed % 2 else _module(seed, size)
        for driver in drivers:
            DRIVERS[driver](f, size)
        if count % every == 0:
            now = time.process_time()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            megabytes = pages * resource.getpagesize() / 2**20
            lines.append(f"{name:14s}  {count:8d}  {num_maps():11d}  {megabytes:11.0f}  {(now - begin) / every:.2f}")
            print(lines[-1], flush=True)
            begin = now
    return lines


def _weights(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal((size, size)) / np.sqrt(size), 0.1 * rng.standard_normal(size)


def _module(seed: int, size: int) -> Any:
    weight, bias = _weights(seed, size)
    return rd.as_map(rd.VanillaCell.from_weights(np.zeros((size, 1)), weight, bias))


def _closure(seed: int, size: int) -> Any:
    weight, bias = _weights(seed, size)
    return lambda x: jnp.tanh(weight @ x + bias)
