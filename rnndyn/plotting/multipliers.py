"""Multipliers in the complex plane."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.plotting.style import COLORS


def plot_multipliers(
    multipliers: ArrayLike,
    *,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """Draw multipliers in the complex plane with the unit circle: outside it, perturbations grow.

    **Arguments:**

    - `multipliers`: complex, shape `(K, N)` or `(N,)`: one row, one colour.
    - `labels`: one label for each row, for the legend.
    - `colors`: one colour for each row; those of the style in turn by default.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` for another number of labels or colours than rows.
    """
    rows = np.atleast_2d(np.asarray(multipliers))
    names, paints = ([None] * len(rows) if given is None else list(given) for given in (labels, colors))
    for argument, given in (("labels", names), ("colors", paints)):
        if len(given) != len(rows):
            raise ValueError(f"{argument}: expected {len(rows)}, one for each row of multipliers, got {len(given)}.")
    if ax is None:
        _, ax = plt.subplots()
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.fill(np.cos(angle), np.sin(angle), color="#F2F2F2", zorder=0)
    ax.plot(np.cos(angle), np.sin(angle), color=COLORS["grey"], linewidth=0.8, zorder=1)
    for row, name, paint in zip(rows, names, paints):
        ax.plot(row.real, row.imag, "o", color=paint, markersize=3, markeredgewidth=0, alpha=0.75, label=name, zorder=2)
    limit = 1.08 * max(1.0, float(np.max(np.abs(rows), initial=1.0)))
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.set_xlabel(r"Re $\mu$")
    ax.set_ylabel(r"Im $\mu$")
    return ax
