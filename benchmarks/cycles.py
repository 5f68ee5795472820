"""Cycles: how many per second, and how the cost grows with the period and the size of the state.

The peer solves the same equations for all points of a cycle by the same Newton method with dense linear algebra
(`find_fixed_points` on the map of sequences), which costs O((p N)^3) a step; multiple shooting costs O(p N^3).
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd

LARGEST_PEER = 200
"""The peer is left out where p N is larger."""


class Henon(eqx.Module):
    """(x, y) -> (1 - a x^2 + y, b x)."""

    a: np.ndarray
    b: np.ndarray

    def __call__(self, x: Any) -> Any:
        return jnp.stack([1 - self.a * x[0] ** 2 + x[1], self.b * x[0]])


class Network(eqx.Module):
    """x -> tanh(W x)."""

    weights: np.ndarray

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(self.weights @ x)


class Sequences(eqx.Module):
    """(x_0, ..., x_{p-1}) -> (F(x_{p-1}), F(x_0), ...) as one vector: its fixed points are the cycles of F."""

    f: Any
    period: int = eqx.field(static=True)

    def __call__(self, flat: Any) -> Any:
        return jnp.roll(jax.vmap(self.f)(flat.reshape(self.period, -1)), 1, axis=0).ravel()


def sequence_memory(num_units: int, length: int) -> tuple[Network, np.ndarray]:
    """A network that runs through `length` random sign patterns, and states close to them."""
    rng = np.random.default_rng(num_units + length)
    patterns = rng.choice([-1.0, 1.0], (num_units, length))
    network = Network(2 * np.roll(patterns, -1, axis=1) @ np.linalg.pinv(patterns))
    return network, patterns.T + 0.1 * rng.uniform(-1, 1, (length, num_units))


def chaotic() -> dict[str, Any]:
    """All cycles of the Hénon map to period 10; all are unstable."""
    starts = np.random.default_rng(0).uniform(-0.3, 0.3, (32, 2))
    f = Henon(np.array(1.4), np.array(0.3))
    found, first, seconds = timed(lambda: rd.find_cycles(f, starts, range(1, 11), progress=False))
    num_starts = sum(cycles.num_candidates for cycles in found)
    return {
        "case": "Henon, periods 1 to 10",
        "N": 2,
        "p": 10,
        "cycles": len(found),
        "CPU s": round(seconds, 2),
        "cycles/s": round(len(found) / seconds, 1),
        "starts/s": round(num_starts / seconds),
        "compile s": round(first, 1),
        "dense CPU s": "",
        "dense / ours": "",
    }


def growth(num_units: int, period: int) -> dict[str, Any]:
    """The cycle of one sequence memory, from as many starts as it has points, against dense linear algebra."""
    f, starts = sequence_memory(num_units, period)
    # One round, without the divisors that a map with a region would need: the equations of one period.
    search = lambda: rd.find_cycles(f, starts, period, max_rounds=1, num_random=0, progress=False)[period]
    found, first, seconds = timed(search)
    dense = float("nan")
    if num_units * period <= LARGEST_PEER:
        orbits = np.stack([np.roll(starts, -shift, axis=0).ravel() for shift in range(period)])
        peer = lambda: rd.find_fixed_points(Sequences(f, period), orbits, max_rounds=1, progress=False)
        _, _, dense = timed(peer)
    return {
        "case": "sequence memory",
        "N": num_units,
        "p": period,
        "cycles": len(found),
        "CPU s": round(seconds, 3),
        "cycles/s": round(len(found) / seconds, 1),
        "starts/s": round(found.num_candidates / seconds),
        "compile s": round(first, 1),
        "dense CPU s": "" if np.isnan(dense) else round(dense, 3),
        "dense / ours": "" if np.isnan(dense) else round(dense / seconds, 1),
    }


def certificate() -> str:
    """A line on how long it takes to prove the cycle of period 5 of a network of 20 units."""
    f, starts = sequence_memory(20, 5)
    cycles = rd.find_cycles(f, starts, 5, max_rounds=1, num_random=0, progress=False)[5]
    points = cycles.points[cycles.is_stable][0]
    proof, first, seconds = timed(lambda: rd.certify_cycle(f, points))
    return (
        f"certificate, N = 20, p = 5: {seconds:.2f} s of CPU (first call {first:.1f} s more), "
        f"certified: {proof.certified}, radius {proof.existence_radius:.1e}"
    )


def timed(function: Any) -> tuple[Any, float, float]:
    """The result, the CPU time of the first call beyond a warm one, and that of a warm call: the median of three.

    Calls of more than two seconds are not repeated: what else the machine does falls on them less.
    """
    start = time.process_time()
    result = function()
    first = time.process_time() - start
    cpu: list[float] = []
    while len(cpu) < 3 and sum(cpu) < 2:
        begin = time.process_time()
        function()
        cpu.append(time.process_time() - begin)
    return result, max(first - float(np.median(cpu)), 0.0), float(np.median(cpu))


def report() -> str:
    """The rows as text."""
    measured = [chaotic()]
    measured += [growth(*sizes) for sizes in ((20, 5), (20, 10), (60, 10), (60, 20), (200, 10))]
    names = list(measured[0])
    cells = [names, *[[str(row[name]) for name in names] for row in measured]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([*lines, "", certificate()])
