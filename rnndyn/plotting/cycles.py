"""Cycles and invariant circles in the plane of the principal components."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.cycles.cycle_list import Cycles, CycleSet
from rnndyn.dynamics.cycles.invariant_circles import InvariantCircle
from rnndyn.plotting.fixed_points import STABILITY_COLORS, STABILITY_MARKERS
from rnndyn.plotting.projection import Projection, principal_components
from rnndyn.plotting.style import COLORS


def plot_cycles(
    cycles: Cycles | CycleSet,
    trajectories: ArrayLike | None = None,
    *,
    projection: Projection | None = None,
    max_cycles: int = 60,
    ax: Any = None,
) -> Any:
    """Draw cycles as polygons from point to point: filled discs where stable, by unstable directions otherwise.

    **Arguments:**

    - `cycles`: what `find_cycles` returned, for one period or several.
    - `trajectories`: states `(B, T, N)` or `(T, N)` to draw behind them.
    - `projection`: where to project to. By default the plane itself for two units, else the principal components of
        the trajectories, or of the cycles.
    - `max_cycles`: the most cycles to draw of each period, the stable ones first.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes. `ax.legend()` names periods and stability.

    **Raises:** `ValueError` when there is nothing to draw.
    """
    parts = [part for part in (cycles if isinstance(cycles, CycleSet) else [cycles]) if len(part)]
    if not parts:
        raise ValueError("cycles: there are none to draw.")
    paths = None if trajectories is None else np.asarray(trajectories, float)
    if paths is not None and paths.ndim == 2:
        paths = paths[None]
    pool = np.concatenate([part.points.reshape(-1, part.points.shape[2]) for part in parts])
    plane = _plane(pool if paths is None else paths, projection)
    if ax is None:
        _, ax = plt.subplots()
    if paths is not None:
        for path in plane(paths):
            ax.plot(*path.T[:2], color=COLORS["grey"], linewidth=0.4, alpha=0.5, zorder=1)
    for part in parts:
        for count in np.unique(part.num_unstable):
            # Sorted by unstable directions: the stable ones are the first.
            rows = np.flatnonzero(part.num_unstable == count)
            kind = min(int(count), len(STABILITY_MARKERS) - 1)
            stability = "stable" if count == 0 else f"{count} unstable"
            label = f"period {part.period}, {stability} ({len(rows)})"
            for row in rows[rows < max_cycles]:
                closed = plane(part.points[row])[:, :2]
                closed = np.concatenate([closed, closed[:1]])
                ax.plot(
                    *closed.T,
                    "-" if count == 0 else ":",
                    marker=STABILITY_MARKERS[kind],
                    color=STABILITY_COLORS[kind],
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                    linewidth=0.9 if count == 0 else 0.7,
                    zorder=4 if count == 0 else 3,
                    label=label,
                )
                label = None
    _label(ax, plane)
    return ax


def plot_invariant_circle(
    circle: InvariantCircle,
    orbit: ArrayLike | None = None,
    *,
    num_images: int = 12,
    projection: Projection | None = None,
    color: str = COLORS["blue"],
    label: str | None = None,
    ax: Any = None,
) -> Any:
    r"""Draw an invariant circle, the first images of one of its points, and its rotation number as the title.

    An orbit that has locked is drawn as the points of its cycle.

    **Arguments:**

    - `circle`: what `find_invariant_circle` returned.
    - `orbit`: states `(T, N)` to draw behind it.
    - `num_images`: how many images $\gamma(n \rho)$ of the point at angle 0 to number; 0 for none.
    - `projection`: where to project to. By default the plane itself for two units, else principal components.
    - `color`, `label`: of the curve.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` when there is no circle and no cycle.
    """
    if circle.kind == "none":
        raise ValueError(f"circle: there is nothing to draw: {circle.reason}")
    if circle.cycle is None:
        images = circle.curve(circle.rotation_number * np.arange(num_images))
        curve = circle.curve(np.linspace(0, 1, 513))
        name = rf"$\rho$ = {circle.rotation_number:.6g} per step"
    else:
        images = curve = circle.cycle.points[0]
        name = f"locked, period {circle.cycle.period}"
    plane = _plane(curve, projection)
    if ax is None:
        _, ax = plt.subplots()
    if orbit is not None:
        ax.plot(*plane(orbit).T[:2], ".", color=COLORS["grey"], markersize=1.5, alpha=0.6, zorder=1)
    flat = plane(curve)[:, :2]
    ax.plot(*flat.T, "-" if circle.cycle is None else "o", color=color, label=label, zorder=2)
    if circle.cycle is None and num_images:
        spots = plane(images)[:, :2]
        ax.plot(*spots.T, "o", color=color, markersize=3, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
        middle = flat.mean(axis=0)
        for number, spot in enumerate(spots):
            ax.annotate(
                str(number),
                spot + 0.08 * (spot - middle),
                ha="center",
                va="center",
                fontsize=6,
                color=color,
                annotation_clip=False,
            )
    ax.set_title(name)
    _label(ax, plane)
    ax.margins(0.12)
    return ax


class _StatePlane:
    """The two entries of a state as they are."""

    def __call__(self, states: ArrayLike) -> np.ndarray:
        return np.asarray(states, float)

    def label(self, component: int) -> str:
        return f"$x_{component + 1}$"


def _plane(states: np.ndarray, projection: Projection | None) -> Projection | _StatePlane:
    if projection is not None:
        return projection
    return _StatePlane() if states.shape[-1] == 2 else principal_components(states, 2)


def _label(ax: Any, plane: Projection | _StatePlane) -> None:
    ax.set_xlabel(plane.label(0))
    ax.set_ylabel(plane.label(1))
