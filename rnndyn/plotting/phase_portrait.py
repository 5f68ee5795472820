"""The phase portrait of a map of the plane: nullclines, displacements, fixed points, manifolds of saddles."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn.dynamics.fixed_points.saddle_manifolds import find_saddle_manifolds
from rnndyn.plotting.style import COLORS

KINDS = {
    "stable": ("o", COLORS["black"], COLORS["black"]),
    "saddle": ("D", COLORS["orange"], "white"),
    "unstable": ("o", "white", COLORS["black"]),
}
"""Marker, face and edge colour of fixed points with no, one and two unstable directions."""


def plot_phase_portrait(
    f: Callable[[Array], Array],
    lower: Any,
    upper: Any,
    *,
    fixed_points: Any = None,
    nullclines: bool = True,
    field: bool = True,
    manifolds: bool = True,
    trajectories: ArrayLike | None = None,
    resolution: int = 200,
    num_arrows: int = 17,
    ax: Any = None,
) -> Any:
    r"""Draw the phase portrait of a map of the plane.

    On the nullcline of component i the map leaves it as it is, $F_i(x) = x_i$; where both cross is a fixed point.
    Arrows show the direction of the displacement $F(x) - x$, darker where it is longer. Stable and unstable manifolds
    start at the saddles; the stable ones bound the basins.

    **Arguments:**

    - `f`: the map, `(2,) -> (2,)`.
    - `lower`, `upper`: corners of the box to draw, `(2,)`.
    - `fixed_points`: what `find_fixed_points` or `enumerate_fixed_points` returned (anything with `points` and
        `num_unstable`).
    - `nullclines`, `field`, `manifolds`: whether to draw them. Manifolds need `fixed_points`.
    - `trajectories`: states `(B, T, 2)` or `(T, 2)`.
    - `resolution`: grid points along each side, for the nullclines.
    - `num_arrows`: arrows along each side.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes. `ax.legend()` names what is drawn.

    **Raises:** `ValueError` when the box is not one of the plane.
    """
    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    if lower.shape != (2,) or upper.shape != (2,) or not (lower < upper).all():
        raise ValueError(f"lower, upper: expected two corners of the plane, lower < upper, got {lower} and {upper}.")
    if ax is None:
        _, ax = plt.subplots()
    if field:
        _draw_field(f, lower, upper, num_arrows, ax)
    if nullclines:
        _draw_nullclines(f, lower, upper, resolution, ax)
    if trajectories is not None:
        paths = np.asarray(trajectories, float)
        for path in paths if paths.ndim == 3 else paths[None]:
            ax.plot(*path.T, color=COLORS["black"], linewidth=0.6, alpha=0.6, zorder=2)
    if fixed_points is not None:
        points, counts = np.asarray(fixed_points.points, float), np.asarray(fixed_points.num_unstable)
        inside = np.all((points >= lower) & (points <= upper), axis=1)
        if manifolds:
            _draw_manifolds(f, points[inside & (counts == 1)], lower, upper, ax)
        for count, (name, (marker, face, edge)) in enumerate(KINDS.items()):
            rows = inside & (counts == count)
            if rows.any():
                ax.scatter(
                    *points[rows].T,
                    marker=marker,
                    s=22 if marker == "o" else 18,
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=0.7,
                    zorder=6,
                    label=f"{name} ({rows.sum()})",
                )
    ax.set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]))
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


def _moves(f: Callable, lower: np.ndarray, upper: np.ndarray, num: int, inset: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid, (num, num, 2), and the displacements there; `inset` of a spacing away from the edges."""
    axes = [np.linspace(low, high, num) for low, high in zip(lower, upper)]
    if inset:
        margin = inset * (upper - lower) / num
        axes = [np.linspace(low + m, high - m, num) for low, high, m in zip(lower, upper, margin)]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    return grid, np.asarray(jax.jit(jax.vmap(jax.vmap(f)))(jnp.asarray(grid))) - grid


def _draw_field(f: Callable, lower: np.ndarray, upper: np.ndarray, num: int, ax: Any) -> None:
    grid, moves = _moves(f, lower, upper, num, inset=0.5)
    # Unit arrows in units of the box, so that a stretched picture keeps their directions.
    scaled = moves / (upper - lower)
    length = np.linalg.norm(scaled, axis=-1)
    unit = scaled / np.maximum(length, 1e-300)[..., None] * (upper - lower) / num * 0.75
    shade = np.clip(length / max(float(np.quantile(length, 0.9)), 1e-300), 0, 1)
    ax.quiver(
        *np.moveaxis(grid, -1, 0),
        *np.moveaxis(unit, -1, 0),
        shade,
        cmap="Greys",
        clim=(-0.6, 1.3),
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        width=0.0035,
        headwidth=4,
        headlength=4,
        headaxislength=3.5,
        zorder=1,
    )


def _draw_nullclines(f: Callable, lower: np.ndarray, upper: np.ndarray, num: int, ax: Any) -> None:
    grid, moves = _moves(f, lower, upper, num, inset=0.0)
    for component, color in enumerate((COLORS["blue"], COLORS["green"])):
        ax.contour(
            grid[..., 0], grid[..., 1], moves[..., component], levels=[0.0], colors=[color], linewidths=0.9, zorder=3
        )
        # Contours carry no label of their own.
        ax.plot([], [], color=color, linewidth=0.9, label=f"$F_{component + 1}(x) = x_{component + 1}$")


def _draw_manifolds(f: Callable, saddles: np.ndarray, lower: np.ndarray, upper: np.ndarray, ax: Any) -> None:
    names = {"stable manifold": ("--", COLORS["purple"]), "unstable manifold": ("-", COLORS["yellow"])}
    for saddle in saddles:
        if not np.all((saddle > lower) & (saddle < upper)):
            continue
        curves = find_saddle_manifolds(f, saddle, lower, upper)
        for (name, (line, color)), branches in zip(names.items(), (curves.stable, curves.unstable)):
            for branch in branches:
                known = name in ax.get_legend_handles_labels()[1]
                ax.plot(*branch.T, line, color=color, linewidth=1.0, zorder=4, label=None if known else name, alpha=0.9)
