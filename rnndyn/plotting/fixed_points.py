"""Fixed points and trajectories in the space of the principal components."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.plotting.projection import Projection, principal_components
from rnndyn.plotting.style import COLORS

STABILITY_COLORS = (COLORS["black"], COLORS["orange"], COLORS["sky"], COLORS["purple"], COLORS["yellow"])
STABILITY_MARKERS = ("o", "X", "D", "s", "v")


def plot_fixed_points(
    fixed_points: FixedPoints,
    trajectories: ArrayLike | None = None,
    *,
    projection: Projection | None = None,
    dimensions: int = 3,
    modes: bool = True,
    max_trajectories: int = 40,
    ax: Any = None,
) -> Any:
    """Draw fixed points by their number of unstable directions, with trajectories, in principal components.

    Stable points are filled discs; saddles have a marker and a colour for each number of unstable directions, and a
    line along every real unstable eigenvector (the plane of a complex pair is drawn as two lines).

    **Arguments:**

    - `fixed_points`: what `find_fixed_points` returned.
    - `trajectories`: states `(B, T, N)` or `(T, N)` to draw behind them; up to `max_trajectories`.
    - `projection`: where to project to; by default the principal components of the trajectories, or of the points.
    - `dimensions`: 2 or 3.
    - `modes`: whether to draw the unstable directions.
    - `ax`: the Axes to draw on (a 3-D one for three dimensions); a new figure by default.

    **Returns:** the Axes. `ax.legend()` names the kinds of points.

    **Raises:** `ValueError` for another number of dimensions, or when there is nothing to project on.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions: expected 2 or 3, got {dimensions}.")
    paths = None if trajectories is None else np.asarray(trajectories, float)
    if paths is not None and paths.ndim == 2:
        paths = paths[None]
    if projection is None:
        if paths is None and len(fixed_points) == 0:
            raise ValueError("trajectories: there are no fixed points to choose a projection from; pass trajectories.")
        projection = principal_components(fixed_points.points if paths is None else paths, dimensions)
    if ax is None:
        _, ax = plt.subplots(subplot_kw={"projection": "3d"} if dimensions == 3 else {})
    if paths is not None:
        for path in projection(paths[:max_trajectories]):
            ax.plot(*path.T[:dimensions], color=COLORS["grey"], linewidth=0.4, alpha=0.5, zorder=1)
    points = projection(fixed_points.points)[:, :dimensions]
    drawn = points if paths is None else projection(paths).reshape(-1, len(projection.axes))
    extent = np.max(np.ptp(drawn, axis=0))
    for count in np.unique(fixed_points.num_unstable):
        of = fixed_points.num_unstable == count
        kind = min(int(count), len(STABILITY_MARKERS) - 1)
        color = STABILITY_COLORS[kind]
        if modes and count > 0:
            for row in np.flatnonzero(of):
                for arrow in _unstable_directions(fixed_points.jacobians[row]):
                    ends = points[row] + 0.06 * extent * np.outer([-1, 1], projection.direction(arrow)[:dimensions])
                    ax.plot(*ends.T, color=color, linewidth=0.9, zorder=2)
        ax.scatter(
            *points[of].T,
            marker=STABILITY_MARKERS[kind],
            s=26 if count == 0 else 20,
            facecolor=color,
            edgecolor="white",
            linewidth=0.5,
            zorder=3 + kind,
            label=_label(int(count), int(of.sum())),
            # Fading with depth would read as another kind of point.
            **({"depthshade": False} if dimensions == 3 else {}),
        )
    _label_axes(ax, projection, dimensions)
    return ax


def _label(count: int, number: int) -> str:
    return f"stable ({number})" if count == 0 else f"{count} unstable ({number})"


def _unstable_directions(jacobian: np.ndarray) -> list[np.ndarray]:
    """Unit vectors that span the unstable eigenspace: real eigenvectors, and both parts of complex ones."""
    values, vectors = np.linalg.eig(jacobian)
    directions = []
    for value, vector in zip(values, vectors.T):
        if abs(value) <= 1 or value.imag < 0:
            continue
        for part in (vector.real, vector.imag):
            length = np.linalg.norm(part)
            # The imaginary part of a real eigenvector is zero up to rounding.
            if length > 1e-9:
                directions.append(part / length)
    return directions


def _label_axes(ax: Any, projection: Projection, dimensions: int) -> None:
    setters = [ax.set_xlabel, ax.set_ylabel] + ([ax.set_zlabel] if dimensions == 3 else [])
    for component, setter in enumerate(setters):
        setter(projection.label(component), labelpad=-10 if dimensions == 3 else None)
    if dimensions == 3:
        # Ticks of principal components carry no meaning that the labels do not; without them the frame stays quiet.
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_ticklabels([])
            axis.set_tick_params(length=0)
            axis.pane.set_facecolor("white")
            axis.pane.set_edgecolor("#DDDDDD")
            axis._axinfo["grid"].update(color="#EEEEEE", linewidth=0.5)
