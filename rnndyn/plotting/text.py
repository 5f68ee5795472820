"""Text with the value of a unit behind every character."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn._validation import check_at_least


def plot_text(
    text: str,
    values: ArrayLike | None = None,
    *,
    limit: float = 2.5,
    num_lines: int = 9,
    width: int = 62,
    font_size: float = 5,
    ax: Any = None,
) -> Any:
    """Write text in cells of one size and colour each cell by a value, for instance the state of a unit there.

    **Arguments:**

    - `text`: what to write. Lines longer than `width` are broken, lines beyond `num_lines` left out.
    - `values`: one number for each character, shape `(len(text),)`; none by default.
    - `limit`: the absolute value at which the colour is darkest, in the units of `values`.
    - `num_lines`, `width`: size of the panel in characters.
    - `font_size`: in points.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` where there are not as many values as characters, or for a panel without a cell.
    """
    check_at_least("num_lines", num_lines, 1)
    check_at_least("width", width, 1)
    colors = None if values is None else np.asarray(values, float)
    if colors is not None and colors.shape != (len(text),):
        raise ValueError(f"values: expected one for each of {len(text)} characters, got shape {colors.shape}.")
    if ax is None:
        _, ax = plt.subplots()
    ax.set(xlim=(0, width), ylim=(num_lines, 0), xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    shade = np.full((num_lines, width), np.nan)
    for index, row, column in _places(text, width):
        if row >= num_lines:
            break
        if colors is not None:
            shade[row, column] = colors[index]
        ax.text(
            column + 0.5, row + 0.52, text[index], ha="center", va="center", fontsize=font_size,
            family="DejaVu Sans Mono", parse_math=False,
        )  # fmt: skip
    if colors is not None:
        extent = (0, width, num_lines, 0)
        ax.imshow(shade, extent=extent, aspect="auto", cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.7)
    return ax


def _places(text: str, width: int) -> list[tuple[int, int, int]]:
    """Index, row and column of every character but the line breaks."""
    places, row, column = [], 0, 0
    for index, character in enumerate(text):
        if character == "\n" or column == width:
            row, column = row + 1, 0
        if character != "\n":
            places.append((index, row, column))
            column += 1
    return places
