"""The wiring diagram of a memory network: memories as nodes, saddles as the lines between them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.destinations.connections import CertifiedConnections
from rnndyn.plotting.projection import principal_components
from rnndyn.plotting.style import COLORS


def plot_wiring(
    connections: CertifiedConnections,
    *,
    places: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    colors: ArrayLike | None = None,
    ax: Any = None,
) -> Any:
    """Draw memories as nodes and a line for every saddle whose two branches are proved to end in two of them.

    **Arguments:**

    - `connections`: what `certify_connections` returned.
    - `places`: where to draw the memories, (K, 2); by default their first two principal components.
    - `names`: what to write into each node; by default the row in `points`.
    - `colors`: of the nodes, (K, 3) or (K, 4).
    - `ax`: axes to draw into; new ones by default.

    **Returns:** the axes. Several saddles between the same two memories are drawn as one line, with their number.

    **Raises:** `ValueError` for places, names or colours of another number than there are memories.
    """
    balls = connections.balls
    first = np.flatnonzero(np.diff(balls.owners, prepend=-1))
    num = len(first)
    if places is None:
        centers = balls.centers[first]
        size = min(2, *centers.shape)
        spots = np.zeros((num, 2))
        spots[:, :size] = principal_components(centers, size)(centers)
    else:
        spots = np.asarray(places, float)
    texts = [str(k) for k in range(num)] if names is None else list(names)
    shades = np.ones((num, 3)) if colors is None else np.asarray(colors, float)
    for name, given, expected in (("places", spots.shape, (num, 2)), ("names", (len(texts),), (num,))):
        if given != expected:
            raise ValueError(f"{name}: expected {expected} for {num} memories, got {given}.")
    if len(shades) != num:
        raise ValueError(f"colors: expected {num}, one for each memory, got {len(shades)}.")
    if ax is None:
        _, ax = plt.subplots()
    edges, counts = np.unique(connections.edges.reshape(-1, 2), axis=0, return_counts=True)
    for (i, j), count in zip(edges, counts):
        ax.plot(*spots[[i, j]].T, color=COLORS["orange"], linewidth=1.4, zorder=2)
        if count > 1:
            ax.text(*spots[[i, j]].mean(axis=0), f"×{count}", fontsize=6.5, ha="center", va="center", zorder=3)
    ax.scatter(*spots.T, s=150, c=shades, edgecolors="black", linewidths=0.7, zorder=4)
    for text, spot, shade in zip(texts, spots, shades):
        # White on dark nodes, black on light ones (luminance of Rec. 709).
        dark = shade[:3] @ np.array([0.2126, 0.7152, 0.0722]) < 0.45
        ax.text(*spot, text, fontsize=6, ha="center", va="center", color="white" if dark else "black", zorder=5)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.margins(0.12)
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax
