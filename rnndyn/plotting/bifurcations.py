"""Bifurcations: branches over a parameter, curves in the plane of two, and orbit diagrams."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.bifurcations.continuation import Branch
from rnndyn.dynamics.bifurcations.curves import BifurcationCurve
from rnndyn.dynamics.bifurcations.diagram import BifurcationDiagram
from rnndyn.dynamics.bifurcations.orbit_diagram import OrbitDiagram
from rnndyn.plotting.style import COLORS

BIFURCATION_COLORS = {
    "fold": COLORS["orange"],
    "branch point": COLORS["black"],
    "flip": COLORS["purple"],
    "neimark-sacker": COLORS["green"],
    "border collision": COLORS["grey"],
}
BIFURCATION_MARKERS = {"fold": "o", "branch point": "D", "flip": "s", "neimark-sacker": "^", "border collision": "X"}
BIFURCATION_NAMES = {
    "fold": "fold",
    "branch point": "branch point",
    "flip": "flip",
    "neimark-sacker": "Neimark-Sacker",
    "border collision": "border collision",
}

SPECIAL_POINT_MARKERS = {
    "cusp": "^",
    "1:1": "o",
    "1:2": "s",
    "1:3": "v",
    "1:4": "D",
    "generalized flip": "P",
    "Chenciner": "*",
    "fold-flip": "X",
}
"""Points of codimension two; the numbers are strong resonances, 1:1 is Bogdanov-Takens."""

Observable = int | Callable[[np.ndarray], ArrayLike]


def plot_bifurcation_diagram(
    diagram: BifurcationDiagram | Branch | Sequence[Branch],
    observable: Observable = 0,
    *,
    color: str = COLORS["blue"],
    ax: Any = None,
) -> Any:
    """Draw branches over their parameter: stable parts as full lines, unstable ones broken, bifurcations as markers.

    A cycle is drawn as one line for each of its points.

    **Arguments:**

    - `diagram`: what `bifurcation_diagram`, `continue_fixed_points` or `continue_cycles` returned, or several branches.
    - `observable`: the height: the number of a state variable, or a function of states `(..., N) -> (...)`.
    - `color`: of the branches.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes. `ax.legend()` names stability and the kinds of bifurcations.

    **Raises:** `ValueError` when there is no such state variable, or the function gives another shape.
    """
    branches = _branches(diagram)
    if ax is None:
        _, ax = plt.subplots()
    for branch in branches:
        cycles = branch.points[:, None] if branch.period == 1 else branch.points
        heights = _observe(observable, cycles)
        for style, part in (("-", branch.is_stable), ("--", ~branch.is_stable)):
            # A segment has the stability of its end points; where they differ, that of the first.
            shown = part.copy()
            shown[1:] |= part[:-1]
            for height in heights.T:
                ax.plot(
                    branch.parameters,
                    np.where(shown, height, np.nan),
                    style,
                    color=color,
                    linewidth=1.2 if style == "-" else 0.8,
                    label=_once(ax, "stable" if style == "-" else "unstable") if part.any() else None,
                )
    for branch in branches:
        for event in branch.bifurcations:
            ax.plot(
                np.full(event.period, event.parameter),
                _observe(observable, event.points),
                BIFURCATION_MARKERS[event.kind],
                color=BIFURCATION_COLORS[event.kind],
                markeredgecolor="white",
                markeredgewidth=0.5,
                zorder=3,
                label=_once(ax, BIFURCATION_NAMES[event.kind]),
            )
    ax.set_xlabel("p")
    ax.set_ylabel(f"$x_{{{observable + 1}}}$" if isinstance(observable, int) else "observable")
    return ax


def plot_bifurcation_curves(curves: BifurcationCurve | Sequence[BifurcationCurve], *, ax: Any = None) -> Any:
    """Draw curves of bifurcations in the plane of two parameters, and their points of codimension two.

    **Arguments:**

    - `curves`: what `continue_bifurcation` returned, one or several.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes. `ax.legend()` names the kinds of curves and points.

    **Raises:** `ValueError` when there is no curve.
    """
    curves = [curves] if isinstance(curves, BifurcationCurve) else list(curves)
    if not curves:
        raise ValueError("curves: expected at least one curve.")
    if ax is None:
        _, ax = plt.subplots()
    for curve in curves:
        label = _once(ax, BIFURCATION_NAMES[curve.kind])
        ax.plot(*curve.parameters.T, color=BIFURCATION_COLORS[curve.kind], label=label)
    drawn: list[np.ndarray] = []
    for point in (point for curve in curves for point in curve.special_points):
        # Two curves share a Bogdanov-Takens point, two folds their cusp; located to 1e-8 on each.
        if any(np.max(np.abs(point.parameters - other)) < 1e-6 for other in drawn):
            continue
        drawn.append(point.parameters)
        ax.plot(
            *point.parameters,
            SPECIAL_POINT_MARKERS[point.kind],
            color=COLORS["black"],
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
            label=_once(ax, point.kind),
        )
    ax.set_xlabel("$p_1$")
    ax.set_ylabel("$p_2$")
    return ax


def plot_orbit_diagram(orbits: OrbitDiagram, observable: Observable = 0, *, axes: Any = None) -> Any:
    r"""Draw the states that remain at each parameter, and under them the largest Lyapunov exponent.

    **Arguments:**

    - `orbits`: what `orbit_diagram` returned.
    - `observable`: the height: the number of a state variable, or a function of states `(..., N) -> (...)`.
    - `axes`: the two Axes to draw on, states and exponent; a new figure by default.

    **Returns:** the two Axes. The exponent has a band of two standard errors, orange where it is positive.

    **Raises:** `ValueError` when there is no such state variable, or the function gives another shape.
    """
    if axes is None:
        _, axes = plt.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    top, bottom = axes
    heights = _observe(observable, orbits.states)
    top.plot(
        np.repeat(orbits.parameters, heights.shape[1]),
        heights.ravel(),
        ",",
        color=COLORS["black"],
        alpha=0.3,
        rasterized=True,
    )
    top.set_ylabel(f"$x_{{{observable + 1}}}$" if isinstance(observable, int) else "observable")
    p, values, band = orbits.parameters, orbits.exponents, 2 * orbits.stderr
    bottom.axhline(0, color=COLORS["grey"], linewidth=0.6, zorder=0)
    bottom.fill_between(p, values - band, values + band, color=COLORS["blue"], alpha=0.25, linewidth=0)
    bottom.plot(p, values, color=COLORS["blue"], linewidth=0.7)
    bottom.plot(p, np.where(values > 0, values, np.nan), color=COLORS["orange"], linewidth=0.7)
    bottom.set_xlabel("p")
    bottom.set_ylabel(r"$\lambda_1$ (nats per step)")
    return axes


def _branches(diagram: BifurcationDiagram | Branch | Sequence[Branch]) -> list[Branch]:
    if isinstance(diagram, Branch):
        return [diagram]
    branches = list(diagram.branches if isinstance(diagram, BifurcationDiagram) else diagram)
    if not branches:
        raise ValueError("diagram: expected at least one branch.")
    return branches


def _observe(observable: Observable, states: np.ndarray) -> np.ndarray:
    """One number for each state along the last axis."""
    if isinstance(observable, int):
        if not 0 <= observable < states.shape[-1]:
            raise ValueError(f"observable: states have variables 0 to {states.shape[-1] - 1}, got {observable}.")
        return states[..., observable]
    values = np.asarray(observable(states), float)
    if values.shape != states.shape[:-1]:
        raise ValueError(
            f"observable: expected it to map states of shape {states.shape} to {states.shape[:-1]}, got {values.shape}."
        )
    return values


def _once(ax: Any, label: str) -> str | None:
    """The label, unless the Axes have it already."""
    return None if label in ax.get_legend_handles_labels()[1] else label
