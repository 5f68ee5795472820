"""The search behind `find_fixed_points`: rounds of Newton's method, and the table of the distinct roots found."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn.dynamics.numerics.deduplication import group_points, thin_points
from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET, map_in_chunks, run_in_lanes
from rnndyn.dynamics.numerics.evidence import is_degenerate
from rnndyn.dynamics.numerics.newton import NewtonMethod, NewtonProblem, NewtonState


@dataclasses.dataclass(frozen=True)
class RootTable:
    """Distinct roots of F(x) - x with their linearisation, one row each; the fields are those of `FixedPoints`."""

    points: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    jacobians: np.ndarray
    multipliers: np.ndarray
    gaps: np.ndarray
    hits: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> "RootTable":
        """The given rows (a mask, or indices)."""
        return RootTable(**{name: column[rows] for name, column in vars(self).items()})

    def join(self, other: "RootTable") -> "RootTable":
        """The rows of both."""
        columns = vars(other)
        return RootTable(**{name: np.concatenate([column, columns[name]]) for name, column in vars(self).items()})

    def sorted(self) -> "RootTable":
        """By the number of unstable directions, then by coordinates."""
        num_unstable = np.sum(np.abs(self.multipliers) > 1, axis=1)
        return self.take(np.lexsort((*self.points.T[::-1], num_unstable)))


def empty_roots(size: int) -> RootTable:
    """A table without rows for states of `size` entries."""
    scalar, vector = np.zeros(0), np.zeros((0, size))
    matrix = np.zeros((0, size, size))
    return RootTable(vector, scalar, scalar, matrix, vector.astype(complex), scalar, np.zeros(0, int))


class FixedPointSearch:
    """What all rounds so far have found."""

    def __init__(
        self,
        f: Callable[[Array], Array],
        candidates: np.ndarray,
        region: np.ndarray | None,
        *,
        max_steps: int,
        linear_solver: str,
        progress: bool,
    ):
        self.f = f
        self.candidates = candidates
        self.region = region
        self.max_steps = max_steps
        self.linear_solver = linear_solver
        self.progress = progress
        self.num_candidates = 0
        self.roots = empty_roots(candidates.shape[1])
        self._unconverged: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        images = map_in_chunks(
            lambda x: _images(f, x), candidates, bytes_per_item=64 * candidates.shape[1], description="", progress=False
        )
        images = images[np.isfinite(images).all(axis=1)]
        largest = max(np.max(np.abs(candidates)), np.max(np.abs(images), initial=0.0))
        self.scale = float(largest) if largest > 0 else 1.0

    @property
    def num_found(self) -> int:
        """The number of distinct roots so far."""
        return len(self.roots)

    @property
    def unconverged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ends, residuals and the stalled flags of the candidates that reached no root."""
        points, residuals, stalled = zip(*self._unconverged)
        return np.concatenate(points), np.concatenate(residuals), np.concatenate(stalled)

    def run(self, starts: np.ndarray) -> None:
        """Run Newton's method from `starts` and add the roots that are new."""
        num_starts, size = starts.shape
        lower, upper = np.full_like(starts, -np.inf), np.full_like(starts, np.inf)
        if self.region is not None:
            inside = np.all((starts >= self.region[0]) & (starts <= self.region[1]), axis=1)
            lower[inside], upper[inside] = self.region
        problems = NewtonProblem(starts, np.full(num_starts, self.scale), lower, upper)  # pyright: ignore
        # Dense: the Jacobian, its factors and the tangents of its columns. gmres: its Krylov basis.
        bytes_per_lane = 8 * size * (6 * size if self.linear_solver == "dense" else 64)
        # On a CPU more lanes only fall out of its cache; on an accelerator they fill it.
        most = 256 if jax.default_backend() == "cpu" else 8192
        num_lanes = max(1, min(most, MEMORY_BUDGET // bytes_per_lane))
        ends: NewtonState = map_in_chunks(
            lambda part: _newton_in_lanes(self.f, part, self.max_steps, self.linear_solver, num_lanes),
            problems,
            bytes_per_item=64 * size,
            description="fixed points",
            progress=self.progress,
            # Later rounds are padded to the size of the first, so that they need no compilation of their own; a start
            # at NaN is done at once.
            least_size=len(self.candidates),
            padding=np.nan,
        )
        self.num_candidates += num_starts
        converged, stalled = np.asarray(ends.converged), np.asarray(ends.stalled)
        x, residuals = np.asarray(ends.x), np.max(np.abs(ends.g), axis=1)
        self._unconverged.append((x[~converged], residuals[~converged], stalled[~converged]))
        if converged.any():
            self._add(x[converged])

    def seeds(self, rng: np.random.Generator, *, uniform: bool) -> np.ndarray:
        """Starting points for the next round: between the roots, around them, between roots and candidates.

        With `uniform`, as many again from the whole region.
        """
        roots = self.roots.points
        if len(roots) > 512:
            roots = roots[rng.choice(len(roots), 512, replace=False)]
        pool = self.candidates if len(roots) == 0 else roots
        num, size = int(np.clip(8 * len(roots), 64, 512)), self.candidates.shape[1]
        # Halfway between two roots a saddle of the basin boundary is near; the weights blur the middle.
        weights = rng.beta(4.0, 4.0, (num, 1))
        pairs = rng.integers(len(pool), size=(2, num))
        between = weights * pool[pairs[0]] + (1 - weights) * pool[pairs[1]]
        towards = self.candidates[rng.integers(len(self.candidates), size=num)]
        weights = rng.uniform(size=(num, 1))
        mixed = weights * pool[pairs[0]] + (1 - weights) * towards
        spread = np.sqrt(np.mean(np.var(self.candidates, axis=0))) + 1e-3 * self.scale
        parts = [between + 0.05 * spread * rng.standard_normal((num, size)), mixed]
        if uniform and self.region is not None:
            parts.append(rng.uniform(self.region[0], self.region[1], (2 * num, size)))
        seeds = np.concatenate(parts)
        return seeds if self.region is None else np.clip(seeds, self.region[0], self.region[1])

    def _add(self, ends: np.ndarray) -> None:
        # Repeats to eight digits are merged first, so that few points need to be polished and decomposed. Two ends
        # of one root may fall into neighbouring cells of the grid; the grouping below joins them.
        _, first, hits = np.unique(np.round(ends / (1e-8 * self.scale)), axis=0, return_index=True, return_counts=True)
        new = self._polish(ends[first], hits)
        self.roots = distinct_roots(self.roots.join(new), self.scale)

    def _polish(self, points: np.ndarray, hits: np.ndarray) -> RootTable:
        """Newton steps for as long as they lower the residual, then the linearisation at the end."""
        size = points.shape[1]
        points, residuals, jacobians = map_in_chunks(
            lambda x: _polish_batch(self.f, x),
            points,
            bytes_per_item=48 * size**2,
            description="polishing",
            progress=self.progress,
        )
        return linearize_roots(points, residuals, jacobians, hits, self.scale)


def distinct_roots(roots: RootTable, scale: float) -> RootTable:
    """Each root once, with the hits of all its repeats: of several rows for one root, that of the smallest residual."""
    degenerate = is_degenerate(roots.gaps, roots.jacobians)
    labels = np.empty(len(roots), int)
    labels[~degenerate] = group_points(roots.points[~degenerate], roots.errors[~degenerate])
    # A degenerate root is known to a fraction of the scale only, and may belong to a continuum, along which chains of
    # neighbours would merge to one: its repeats are those within a fixed distance of one of them.
    labels[degenerate] = len(roots) + thin_points(roots.points[degenerate], 1e-4 * scale)
    best = []
    counts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        best.append(rows[np.argmin(roots.residuals[rows])])
        counts.append(roots.hits[rows].sum())
    return dataclasses.replace(roots.take(np.array(best, int)), hits=np.array(counts, int))


def linearize_roots(
    points: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray, hits: np.ndarray, scale: float
) -> RootTable:
    """The table of roots, with multipliers, gaps and error estimates computed on the host."""
    size = points.shape[1]
    gaps = np.linalg.svd(np.eye(size) - jacobians, compute_uv=False)[:, -1]
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    reach = np.maximum(np.max(np.abs(points), axis=1), 1e-3 * scale)
    floor = np.maximum(residuals, np.finfo(float).eps * (1 + row_sums) * reach)
    with np.errstate(divide="ignore"):
        errors = floor * np.sqrt(size) / gaps
    multipliers = np.linalg.eigvals(jacobians).astype(complex)
    order = np.argsort(-np.abs(multipliers), axis=1, kind="stable")
    multipliers = np.take_along_axis(multipliers, order, axis=1)
    return RootTable(points, residuals, errors, jacobians, multipliers, gaps, hits)


@eqx.filter_jit
def _images(f: Callable[[Array], Array], points: Any) -> Array:
    return jax.vmap(f)(jnp.asarray(points))


@eqx.filter_jit
def _newton_in_lanes(f: Any, problems: Any, max_steps: int, linear_solver: str, num_lanes: int) -> NewtonState:
    method = NewtonMethod(f, linear_solver=linear_solver, max_steps=max_steps)
    return run_in_lanes(method.init, method.step, method.done, jax.tree.map(jnp.asarray, problems), num_lanes)


@eqx.filter_jit
def _polish_batch(f: Callable[[Array], Array], points: Any) -> tuple[Array, Array, Array]:
    def polish(x: Array) -> tuple[Array, Array, Array]:
        identity = jnp.eye(x.size)

        def improve(_: Any, x: Array) -> Array:
            g = f(x) - x
            new = x - jnp.linalg.solve(jax.jacfwd(f)(x) - identity, g)
            better = jnp.max(jnp.abs(f(new) - new)) < jnp.max(jnp.abs(g))
            return jnp.where(better, new, x)

        # Two steps: the first reaches the floor from where the search stopped, the second tries once more.
        x = jax.lax.fori_loop(0, 2, improve, x)
        return x, jnp.max(jnp.abs(f(x) - x)), jax.jacfwd(f)(x)

    return jax.vmap(polish)(jnp.asarray(points))
