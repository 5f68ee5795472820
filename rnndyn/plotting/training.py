"""Loss curves."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rnndyn.plotting.style import COLORS
from rnndyn.training.history import History


def plot_training(
    history: History, *, smooth: int = 1, color: str = COLORS["blue"], label: str | None = None, ax: Any = None
) -> Any:
    """Draw the training loss over the steps on a logarithmic axis, and the validation loss as points.

    **Arguments:**

    - `history`: of one training run.
    - `smooth`: steps over which the training loss is averaged.
    - `color`, `label`: of this run.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` when `smooth` is not between 1 and the number of steps.
    """
    num_steps = len(history.losses)
    if not 1 <= smooth <= num_steps:
        raise ValueError(f"smooth: expected 1 to {num_steps} steps, got {smooth}.")
    if ax is None:
        _, ax = plt.subplots()
    losses = np.convolve(history.losses, np.full(smooth, 1 / smooth), mode="valid")
    ax.semilogy(history.steps[smooth - 1 :], losses, color=color, linewidth=0.8, label=label)
    if len(history.validation_steps):
        ax.semilogy(history.validation_steps, history.validation_losses, "o", color=color, markersize=3)
    ax.set_xlabel("update")
    ax.set_ylabel("loss")
    return ax
