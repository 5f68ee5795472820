"""The look that all figures share."""

import contextlib
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler

COLORS = {
    "black": "#000000",
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "yellow": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#8C8C8C",
}
"""Colours that stay apart for colour-blind readers (Okabe & Ito 2008, Color Universal Design)."""

CELL_COLORS = {
    "vanilla": COLORS["blue"],
    "LSTM": COLORS["orange"],
    "GRU": COLORS["green"],
    "leaky": COLORS["purple"],
    "orthogonal": COLORS["sky"],
    "IRNN": COLORS["black"],
    "LSTM, chrono": COLORS["yellow"],
}
"""One colour for each kind of cell in all figures: the kind itself, and the two that are a vanilla network of another
initialisation or activation, and the LSTM whose gates start open (C. Tallec & Y. Ollivier 2018)."""

COLUMN_WIDTH = 3.5
"""Width of one column of a two-column page, inches."""

PAGE_WIDTH = 7.2
"""Width of both columns, inches."""

_PARAMETERS: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.prop_cycle": cycler(
        color=[COLORS[name] for name in ("blue", "orange", "green", "purple", "yellow", "sky", "black")]
    ),
    "image.cmap": "viridis",
}


@contextlib.contextmanager
def paper_style() -> Iterator[None]:
    """Draw figures inside the block with the style that all figures of rnndyn share.

    ```python
    with rnndyn.plotting.paper_style():
        figure, ax = plt.subplots()
    ```

    **Returns:** a context manager. It sets Matplotlib's `rcParams` (sizes in inches for a column of print, fonts in
    points, the colour-blind safe cycle of M. Okabe & K. Ito 2008, resolution) and puts the old ones back at the end,
    also when the block raises. What is drawn outside of it is not touched.
    """
    with plt.rc_context(_PARAMETERS):
        yield
