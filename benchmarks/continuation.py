"""Continuation: points per second along a branch, events located, against the same steps in NumPy.

The peer is what one would write for a single network: pseudo-arclength steps of fixed length with the analytic
Jacobian of a tanh layer, two or three Newton corrections and all eigenvalues, without step control and without locating
bifurcations. Both follow x' = tanh(p W x + b) over the gain p, where the branch stays smooth.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from benchmarks._timing import Row, clock, table, time_side_by_side

SIZES = (2, 20, 100, 500)
_REPEATS = {2: 41, 20: 21, 100: 5, 500: 3}
_MOST_POINTS = {2: 2000, 20: 2000, 100: 40, 500: 4}
"""In each direction, of both: a point of 500 units takes a quarter of a second."""
SPAN = (0.2, 1.2)
START = 0.3


class TanhNetwork(eqx.Module):
    """x' = tanh(p W x + b)."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: Any, p: Any) -> Any:
        return jnp.tanh(p * (self.weights @ x) + self.bias)


def report() -> str:
    """The comparison, then points per second of each way to follow the longest state."""
    lines = [table(rows()), "", "continuation of 500 units: points per second"]
    lines += [f"  {name:<44} {rate:8.1f}" for name, rate in solver_rates().items()]
    return "\n".join(lines)


def rows() -> list[Row]:
    """Seconds for each point, ours against NumPy's."""
    results = []
    for size in SIZES:
        network = _network(size)
        counts: dict[str, int] = {}

        def ours(network: TanhNetwork = network, counts: dict[str, int] = counts) -> None:
            size = len(network.bias)
            branch = rd.continue_fixed_points(network, np.zeros(size), START, SPAN, max_points=_MOST_POINTS[size])
            counts["ours"] = len(branch)

        def peer(network: TanhNetwork = network, counts: dict[str, int] = counts) -> None:
            most = _MOST_POINTS[len(network.bias)]
            counts["peer"] = len(_numpy_branch(network.weights, network.bias, most))

        times = time_side_by_side({"ours": ours, "peer": peer}, repeats=_REPEATS[size])
        per_point = times["ours"].median / counts["ours"]
        results.append(
            Row(
                "continuation, seconds per point",
                f"N = {size} ({1 / per_point:.0f} points/s)",
                per_point,
                "NumPy, fixed steps, no events",
                times["peer"].median / counts["peer"],
                compile_seconds=times["ours"].first - times["ours"].median,
            )
        )
        results.append(
            Row(
                "continuation, seconds for all of the span or the most points",
                f"N = {size} ({counts['ours']} points, NumPy {counts['peer']})",
                times["ours"].median,
                "NumPy, fixed steps, no events",
                times["peer"].median,
            )
        )
    return sorted(results, key=lambda row: row.benchmark, reverse=True)


def solver_rates(size: int = SIZES[-1]) -> dict[str, float]:
    """Points per second for each way to take steps and to find multipliers."""
    network = _network(size)
    options: dict[str, dict[str, Any]] = {
        "dense steps, all multipliers": {},
        "dense steps, 16 multipliers (Arnoldi)": {"num_multipliers": 16},
        "GMRES steps, 16 multipliers (Arnoldi)": {"num_multipliers": 16, "linear_solver": "gmres"},
    }
    most = _MOST_POINTS[size]
    return {
        name: _rate(lambda o=o: rd.continue_fixed_points(network, np.zeros(size), START, SPAN, max_points=most, **o))
        for name, o in options.items()
    }


def _rate(follow: Callable[[], rd.Branch]) -> float:
    follow()
    start = clock()
    branch = follow()
    return len(branch) / (clock() - start)


def _network(size: int) -> TanhNetwork:
    rng = np.random.default_rng(0)
    # Inside the unit circle until p = 1.25: what is timed are steps, with few events among them.
    weights = 0.8 * rng.standard_normal((size, size)) / np.sqrt(size)
    return TanhNetwork(weights, 0.3 * rng.standard_normal(size))


def _numpy_branch(
    weights: np.ndarray, bias: np.ndarray, most: int, step: float = 0.03
) -> list[tuple[np.ndarray, np.ndarray]]:
    size = len(bias)
    z = np.append(np.zeros(size), START)
    tangent = np.append(np.zeros(size), 1.0)
    z, tangent, _ = _numpy_correct(weights, bias, z, tangent)
    points = []
    for sign in (1.0, -1.0):
        at, along, last = z, sign * tangent, len(points) + most
        while SPAN[0] <= at[-1] <= SPAN[1] and len(points) < last:
            at, along, jacobian = _numpy_correct(weights, bias, at + step * along, along)
            points.append((at, np.linalg.eigvals(jacobian)))
    return points


def _numpy_correct(
    weights: np.ndarray, bias: np.ndarray, guess: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, z = len(bias), guess
    while True:
        drive = weights @ z[:-1]
        image = np.tanh(z[-1] * drive + bias)
        slopes = 1 - image**2
        jacobian = z[-1] * slopes[:, None] * weights
        bordered = np.block([[jacobian - np.eye(size), (slopes * drive)[:, None]], [row[None]]])
        residual = np.append(image - z[:-1], row @ (z - guess))
        if np.max(np.abs(residual)) < 1e-13:
            tangent = np.linalg.solve(bordered, np.append(np.zeros(size), 1.0))
            return z, tangent / np.linalg.norm(tangent), jacobian
        z = z - np.linalg.solve(bordered, residual)
