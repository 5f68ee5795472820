"""Saddle points and cycles near a trajectory, with frames that stretch and squeeze at every step."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float

from rnndyn.dynamics.cycles.cycles import find_cycles
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.numerics.eigenvalues import orbit_product, product_eigenvalues
from rnndyn.dynamics.numerics.evaluation import evaluate

# How much of the gap between the largest stable multiplier and the unit circle the metric gives away, for a rounder
# ellipsoid.
_RELAXED = 0.4
_FARTHEST = 0.5
_NUM_CANDIDATES = 48
_NUM_TWISTED = 60


@dataclasses.dataclass(frozen=True)
class Saddle:
    """A hyperbolic cycle of period p (1: a fixed point), and adapted frames along it.

    - `points`: (p, N).
    - `unstable`: (p, N, u); DF maps each onto the span of the next and stretches all of its vectors.
    - `stable`: (p, N, N - u), orthonormal; DF maps each into the span of the next.
    - `left`: (p, u, N), orthonormal rows that vanish on the stable directions.
    - `multipliers`: (N,) of the cycle, by falling modulus; `jacobians`: (p, N, N).
    - `squeezes`: (p, N - u, N - u), DF between the stable directions.
    """

    points: Float[np.ndarray, "p N"]
    unstable: Float[np.ndarray, "p N u"]
    stable: Float[np.ndarray, "p N S"]
    left: Float[np.ndarray, "p u N"]
    multipliers: np.ndarray
    jacobians: Float[np.ndarray, "p N N"]
    squeezes: Float[np.ndarray, "p S S"]

    @property
    def period(self) -> int:
        return len(self.points)

    @property
    def num_unstable(self) -> int:
        return self.unstable.shape[2]

    def coordinates(self, phase: int, points: Float[np.ndarray, "T N"]) -> tuple[np.ndarray, np.ndarray]:
        """Unstable (T, u) and stable (T, N - u) coordinates of points about one point of the cycle."""
        axes = np.concatenate([self.unstable[phase], self.stable[phase]], axis=1)
        z = np.linalg.solve(axes, (points - self.points[phase]).T).T
        return z[:, : self.num_unstable], z[:, self.num_unstable :]


def find_saddles(f: Callable, states: Float[np.ndarray, "T N"], max_period: int, max_unstable: int) -> list[Saddle]:
    """Saddles of period up to `max_period` near the states, those of fewest unstable directions first.

    Fixed points are looked for from states spread over the trajectory, cycles from those that come closest to
    themselves after p steps.
    """
    scale = spread(states)
    found: list[np.ndarray] = []
    some = states[np.linspace(0, len(states) - 1, min(_NUM_CANDIDATES, len(states))).astype(int)]
    with warnings.catch_warnings():
        # That others are missing: only those near the states are wanted.
        warnings.simplefilter("ignore", UserWarning)
        points = find_fixed_points(f, some, max_rounds=1, num_paths=0, progress=False).points
        found += [point[None] for point in np.asarray(points)]
        for period in range(2, max_period + 1):
            if len(states) <= period:
                break
            back = np.linalg.norm(states[period:] - states[:-period], axis=1)
            nearest = states[np.argsort(back)[: _NUM_CANDIDATES // 2]]
            cycles = find_cycles(f, nearest, period, max_rounds=1, num_random=0, progress=False)
            found += list(cycles[period].points)
    ranked = []
    for points in found:
        distance = min(np.linalg.norm(states - point, axis=1).min() for point in points) / scale
        if distance > _FARTHEST:
            continue
        saddle = frames(f, points, max_unstable)
        if saddle is not None:
            ranked.append(((saddle.num_unstable, saddle.period, distance), saddle))
    return [saddle for _, saddle in sorted(ranked, key=lambda pair: pair[0])]


def spread(states: Float[np.ndarray, "T N"]) -> float:
    """The size of a set of states: the root of their summed variances."""
    return float(np.linalg.norm(states.std(axis=0)))


def frames(f: Callable, points: Float[np.ndarray, "p N"], max_unstable: int) -> Saddle | None:
    """The cycle with its frames; `None` where it is not hyperbolic, stable, or of too many unstable directions."""
    period, size = points.shape
    _, jacobians = evaluate(f, points)
    around, multipliers = orbit_product(jacobians), product_eigenvalues(jacobians)
    moduli = np.abs(multipliers)
    u = int(np.sum(moduli > 1))
    if u == 0 or u > max_unstable or np.any(np.abs(moduli - 1) < 1e-3):
        return None
    unstable = np.empty((period, size, u))
    left = np.empty((period, u, size))
    # Orthonormal bases of the unstable subspace at the first point and, from the transpose, of the rows that vanish on
    # the stable one.
    unstable[0] = _invariant_subspace(around, u)
    left[0] = _invariant_subspace(around.T, u).T
    for k in range(1, period):
        unstable[k] = np.linalg.qr(jacobians[k - 1] @ unstable[k - 1])[0]
    for k in range(period - 1, 0, -1):
        left[k] = np.linalg.qr((left[(k + 1) % period] @ jacobians[k]).T)[0].T
    kernels = np.stack([null_space(rows) for rows in left])
    stretches, squeezes = [], []
    for k in range(period):
        following = (k + 1) % period
        stretches.append(np.linalg.lstsq(unstable[following], jacobians[k] @ unstable[k], rcond=None)[0])
        squeezes.append(kernels[following].T @ jacobians[k] @ kernels[k])
    # In reverse, the unstable directions contract: ellipsoids that each step maps into a smaller copy of the next.
    inverses = [np.linalg.inv(stretches[k]) for k in range(period - 1, -1, -1)]
    backward = contracting_bases(inverses, [np.eye(u)] * period, contraction_rate(inverses))
    assert backward is not None
    # The reversed steps come by the points 0, period - 1, ..., 1.
    outward = np.stack([unstable[k] @ backward[(period - k) % period] for k in range(period)])
    outward /= np.max(np.linalg.norm(outward, 2, axis=(1, 2)))
    return Saddle(points, outward, kernels, left, multipliers, jacobians, np.stack(squeezes))


def contraction_rate(steps: Sequence[np.ndarray] | np.ndarray) -> float:
    """A rate (a step) between the spectral radius of a circle of linear maps and one."""
    if len(steps[0]) == 0:
        return 0.0
    radius = np.max(np.abs(np.linalg.eigvals(orbit_product(steps)))) ** (1 / len(steps))
    return float(radius + _RELAXED * (1 - radius))


def contracting_bases(
    steps: Sequence[np.ndarray],
    widths: Sequence[np.ndarray],
    rate: float,
    twists: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray] | None:
    r"""Bases in whose coordinates each of a circle of linear maps A_k contracts to `rate`, and that hold given shapes.

    The ellipsoids are those of $S_{k+1} = \rho^{-2} A_k S_k A_k^T + Q_{k+1}$, Q = w w' for the widths w_k (n, any): a
    discrete Lyapunov equation. They are the smallest that hold both the image of the last and the columns of w, so
    that a map with large transient growth is given room only where it goes.

    With `twists` K_k (each (u, n, n)) the maps A_k ± K_k, of the two ends of a set, are to contract as well, and
    K_k S_k K_k' is added to the image; `None` where no such ellipsoids are found.
    """
    size, period = len(steps[0]), len(steps)
    if size == 0:
        return [np.zeros((0, 0)) for _ in steps]
    shapes = [w @ w.T for w in widths]
    around, gathered = np.eye(size), np.zeros((size, size))
    for k, step in enumerate(steps):
        around = step @ around / rate
        gathered = step @ gathered @ step.T / rate**2 + shapes[(k + 1) % period]
    metrics = [scipy.linalg.solve_discrete_lyapunov(around, gathered)]
    for k, step in enumerate(steps[:-1]):
        metrics.append(step @ metrics[-1] @ step.T / rate**2 + shapes[k + 1])
    if twists is not None and any(np.any(twist) for twist in twists):
        for _ in range(_NUM_TWISTED):
            before = np.trace(metrics[0])
            for k in range(period):
                parts = [steps[k], *twists[k]]
                image = sum(part @ metrics[k] @ part.T for part in parts)
                metrics[(k + 1) % period] = image / rate**2 + shapes[(k + 1) % period]
            change = np.trace(metrics[0]) / before - 1
            if not np.isfinite(change) or change > 10:
                return None
            if abs(change) < 1e-3:
                break
        else:
            return None
    return [root(metric) for metric in metrics]


def root(metric: np.ndarray) -> np.ndarray:
    """A matrix L with L L' equal to a positive semi-definite one, but for a floor that keeps it regular."""
    floor = 1e-12 * np.trace(metric) / len(metric)
    return np.linalg.cholesky(0.5 * (metric + metric.T) + floor * np.eye(len(metric)))


def null_space(rows: Float[np.ndarray, "u N"]) -> Float[np.ndarray, "N S"]:
    """An orthonormal basis of the vectors on which all rows vanish."""
    return np.linalg.qr(rows.T, mode="complete")[0][:, len(rows) :]


def _invariant_subspace(matrix: np.ndarray, u: int) -> np.ndarray:
    """An orthonormal basis of the span of the eigenvectors outside the unit circle."""
    _, vectors, found = scipy.linalg.schur(matrix, output="real", sort="ouc")  # pyright: ignore[reportAssignmentType]
    if found != u:
        raise ValueError(f"the ordered Schur form found {found} unstable multipliers, the eigenvalues {u}.")
    return vectors[:, :u]
