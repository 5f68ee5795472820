"""Basins of attraction, and what a system does over a plane of two parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.patches import Patch

from rnndyn.dynamics.attractors.basins import Basins
from rnndyn.plotting.style import COLORS

REGIME_COLORS = {
    "fixed point": COLORS["blue"],
    "cycle": COLORS["sky"],
    "invariant circle": COLORS["green"],
    "chaotic": COLORS["orange"],
    "several": COLORS["yellow"],
    "unbounded": COLORS["black"],
    "undecided": "#D9D9D9",
}
"""The colour of each kind of long-term behaviour, in the order of legends."""

_BASIN_COLORS = tuple(COLORS[name] for name in ("blue", "yellow", "green", "purple", "sky", "orange", "grey"))


def plot_basins(basins: Basins, *, show_attractors: bool = True, legend: bool = True, ax: Any = None) -> Any:
    """Draw a plane of initial states, each coloured by the attractor that it goes to.

    **Arguments:**

    - `basins`: what `find_basins` returned. White is unbounded, light grey undecided. Of more than seven attractors
        the colours repeat in lighter shades.
    - `show_attractors`: draw the attractors themselves where the plane holds them (states of two entries).
    - `legend`: name the attractors of up to eight of them.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.
    """
    if ax is None:
        _, ax = plt.subplots()
    found = basins.attractors
    colors = [_shade(index) for index in range(len(found))]
    # Labels -2 and -1 come first in the table of colours.
    table = ListedColormap(["#FFFFFF", REGIME_COLORS["undecided"], *colors])
    norm = BoundaryNorm(np.arange(-2.5, len(found) + 0.5), table.N)
    steps = [(axis[1] - axis[0]) / 2 for axis in (basins.first, basins.second)]
    extent = (
        basins.first[0] - steps[0],
        basins.first[-1] + steps[0],
        basins.second[0] - steps[1],
        basins.second[-1] + steps[1],
    )
    ax.imshow(
        basins.labels, cmap=table, norm=norm, extent=extent, origin="lower", aspect="auto", interpolation="nearest"
    )
    if show_attractors and basins.origin.size == 2:
        for attractor in found.attractors:
            size = 3.5 if attractor.is_periodic else 0.8
            ax.plot(*attractor.points.T, "o", color="black", markersize=size, markeredgecolor="white", mew=size / 7)
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])
    names = ("$x_1$", "$x_2$") if basins.origin.size == 2 else ("$a$", "$b$")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    if legend and len(found) <= 8:
        handles = [
            Patch(color=color, label=f"{kind} ({share:.0%})")
            for color, kind, share in zip(colors, found.kinds, found.basin_fractions)
        ]
        for label, name, color in ((-1, "undecided", REGIME_COLORS["undecided"]), (-2, "unbounded", "#FFFFFF")):
            if np.any(basins.labels == label):
                handles.append(
                    Patch(
                        facecolor=color,
                        edgecolor=COLORS["grey"],
                        label=f"{name} ({np.mean(basins.labels == label):.0%})",
                    )
                )
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.0), frameon=True, framealpha=0.85)
    return ax


def plot_regime_map(
    kinds: Any,
    first: ArrayLike | Sequence[float],
    second: ArrayLike | Sequence[float],
    *,
    colors: Mapping[str, str] | None = None,
    labels: Sequence[str] = ("", ""),
    legend: bool = True,
    ax: Any = None,
) -> Any:
    """Draw what a system does over a plane of two parameters, one cell for each pair.

    **Arguments:**

    - `kinds`: names, `(Q, P)`: row i, column j for `second[i]`, `first[j]`; for instance `ClassifiedAttractor.kind`.
    - `first`, `second`: the parameters along the horizontal `(P,)` and the vertical axis `(Q,)`, increasing. Cells
        meet half-way between them.
    - `colors`: name to colour, in the order of the legend; `REGIME_COLORS` by default.
    - `labels`: of the two axes.
    - `legend`: whether to name the colours that occur, above the map.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` when the shapes do not fit, parameters do not increase, or a name has no colour.
    """
    names = np.asarray(kinds)
    axes = [np.asarray(values, float) for values in (first, second)]
    if names.ndim != 2 or [v.shape for v in axes] != [(names.shape[1],), (names.shape[0],)]:
        raise ValueError(
            f"kinds: expected one name for each of {axes[1].shape} x {axes[0].shape} parameters, "
            f"got shape {names.shape}."
        )
    for name, values in zip(("first", "second"), axes):
        if not np.all(np.diff(values) > 0):
            raise ValueError(f"{name}: expected increasing parameters.")
    palette = dict(REGIME_COLORS if colors is None else colors)
    unknown = sorted(set(names.ravel().tolist()) - set(palette))
    if unknown:
        raise ValueError(f"colors: no colour for {', '.join(map(repr, unknown))}.")
    if ax is None:
        _, ax = plt.subplots()
    order = list(palette)
    index = np.vectorize(order.index, otypes=[int])(names)
    norm = BoundaryNorm(np.arange(-0.5, len(order)), len(order))
    table = ListedColormap(list(palette.values()))
    ax.pcolormesh(_edges(axes[0]), _edges(axes[1]), index, cmap=table, norm=norm, linewidth=0, rasterized=True)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    if legend:
        present = [name for name in order if np.any(names == name)]
        ax.legend(
            handles=[Patch(color=palette[name], label=name) for name in present],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=min(3, len(present)),
        )
    return ax


def _shade(index: int) -> tuple[float, float, float]:
    """The colour of the basin `index`: seven, then the same lighter and lighter."""
    turn, place = divmod(index, len(_BASIN_COLORS))
    white = 1 - 0.65**turn
    red, green, blue = to_rgb(_BASIN_COLORS[place])
    return red + (1 - red) * white, green + (1 - green) * white, blue + (1 - blue) * white


def _edges(values: np.ndarray) -> np.ndarray:
    """Half-way between neighbours; the outer cells are as wide as their inner halves."""
    if values.size == 1:
        return values[0] + np.array([-0.5, 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
