"""Slow manifolds, and the speed of a map of the plane."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn.dynamics.fixed_points.slow_points import SlowPoints
from rnndyn.plotting.projection import Projection, principal_components
from rnndyn.plotting.style import COLORS


def plot_line_attractor(
    slow_points: SlowPoints,
    trajectories: ArrayLike | None = None,
    *,
    values: ArrayLike | None = None,
    projection: Projection | None = None,
    ax: Any = None,
) -> Any:
    """Draw the slow manifold with its slowest mode, over trajectories, in two principal components.

    **Arguments:**

    - `slow_points`: what `find_slow_points` returned.
    - `trajectories`: states `(B, T, N)` or `(T, N)` to draw behind it.
    - `values`: a number for each point of the manifold's sample, such as a readout, drawn as its colour; by default
        the logarithm of the drift.
    - `projection`: where to project to; by default the principal components of the sample.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes; its last collection is the sample, for a colour bar.

    **Raises:** `ValueError` when there is no manifold, or another number of values than points.
    """
    manifold = slow_points.manifold
    if len(manifold.points) == 0:
        raise ValueError("slow_points: it holds no slow manifold to draw.")
    if values is None:
        values = np.log10(np.maximum(manifold.drift, 1e-16))
    if np.shape(values) != (len(manifold.points),):
        raise ValueError(f"values: expected {len(manifold.points)}, one for each point, got {np.shape(values)}.")
    projection = principal_components(manifold.points, 2) if projection is None else projection
    if ax is None:
        _, ax = plt.subplots()
    if trajectories is not None:
        paths = np.asarray(trajectories, float)
        for path in projection(paths if paths.ndim == 3 else paths[None]):
            ax.plot(*path.T[:2], color=COLORS["grey"], linewidth=0.4, alpha=0.5, zorder=1)
    flat = projection(manifold.points)[:, :2]
    if manifold.dimension:
        mode = projection.direction(np.real(manifold.modes[:, :, 0]))[:, :2]
        ax.quiver(
            *flat.T,
            *mode.T,
            angles="xy",
            pivot="mid",
            headwidth=0,
            headlength=0,
            headaxislength=0,
            color=COLORS["black"],
            width=0.003,
            alpha=0.5,
            zorder=2,
        )
    ax.scatter(*flat.T, c=np.asarray(values), s=12, zorder=3)
    ax.set_xlabel(projection.label(0))
    ax.set_ylabel(projection.label(1))
    return ax


def plot_speed(
    f: Callable[[Array], Array],
    lower: Any,
    upper: Any,
    *,
    points: ArrayLike | None = None,
    resolution: int = 200,
    ax: Any = None,
) -> Any:
    """Draw the speed |F(x) - x| of a map of the plane as a picture, with its direction.

    **Arguments:**

    - `f`: the map, `(2,) -> (2,)`.
    - `lower`, `upper`: corners of the box to draw, `(2,)`.
    - `points`: points to mark, such as fixed points, `(K, 2)`.
    - `resolution`: pixels along each side.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes; its last image holds log10 of the speed, for a colour bar.

    **Raises:** `ValueError` when the box is not one of the plane.
    """
    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    if lower.shape != (2,) or upper.shape != (2,) or not (lower < upper).all():
        raise ValueError(f"lower, upper: expected two corners of the plane, lower < upper, got {lower} and {upper}.")
    if ax is None:
        _, ax = plt.subplots()
    axes = [np.linspace(low, high, resolution) for low, high in zip(lower, upper)]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    moves = np.asarray(jax.jit(jax.vmap(jax.vmap(f)))(jnp.asarray(grid))) - grid
    speed = np.linalg.norm(moves, axis=-1)
    image = np.log10(np.maximum(speed, 1e-16))
    ax.imshow(image, origin="lower", extent=(lower[0], upper[0], lower[1], upper[1]), aspect="auto")
    every = max(resolution // 16, 1)
    unit = (moves / np.maximum(speed, 1e-16)[..., None])[::every, ::every]
    ax.quiver(*np.moveaxis(grid[::every, ::every], -1, 0), *np.moveaxis(unit, -1, 0), color="white", alpha=0.6)
    if points is not None:
        ax.plot(*np.asarray(points, float).T, "o", color=COLORS["orange"], markeredgecolor="white")
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax
