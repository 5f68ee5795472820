"""Lyapunov exponents: spectra, convergence, dependence on a parameter, and where on the attractor they come from."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.growth.local_exponents import LocalExponents
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum
from rnndyn.dynamics.growth.lyapunov_sweep import LyapunovSweep
from rnndyn.plotting.projection import Projection, principal_components
from rnndyn.plotting.style import COLORS


def plot_spectrum(
    exponents: ArrayLike,
    stderr: ArrayLike | None = None,
    *,
    normalise: bool = False,
    color: str = COLORS["blue"],
    label: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw a Lyapunov spectrum with a band of two standard errors.

    **Arguments:**

    - `exponents`: descending, `(N,)`, such as `LyapunovSpectrum.exponents`.
    - `stderr`: their standard errors, `(N,)`.
    - `normalise`: draw against i / N, on which spectra of networks of different size fall onto one curve.
    - `color`, `label`: of the curve.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` when the two arrays differ in shape.
    """
    values = np.asarray(exponents, float)
    if stderr is not None and np.shape(stderr) != values.shape:
        raise ValueError(f"stderr: expected the shape {values.shape} of the exponents, got {np.shape(stderr)}.")
    if ax is None:
        _, ax = plt.subplots()
    index = np.arange(1, len(values) + 1) / (len(values) if normalise else 1)
    ax.plot(index, values, color=color, label=label)
    if stderr is not None:
        band = 2 * np.asarray(stderr, float)
        ax.fill_between(index, values - band, values + band, color=color, alpha=0.25, linewidth=0)
    ax.axhline(0, color=COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set_xlabel("i / N" if normalise else "i")
    ax.set_ylabel(r"$\lambda_i$ (nats per step)")
    return ax


def plot_convergence(spectrum: LyapunovSpectrum, *, num_exponents: int = 5, ax: Any = None) -> Any:
    """Draw the running averages of the leading exponents over the window, with their final error bars.

    **Arguments:**

    - `spectrum`: one spectrum, not a batch.
    - `num_exponents`: how many exponents to draw.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.
    """
    if ax is None:
        _, ax = plt.subplots()
    local = np.asarray(spectrum.local_exponents)[:, :num_exponents]
    times = np.asarray(spectrum.times)
    running = np.cumsum(local, axis=0) / np.arange(1, len(local) + 1)[:, None]
    for i, curve in enumerate(running.T):
        (line,) = ax.plot(times, curve, label=rf"$\lambda_{{{i + 1}}}$")
        ax.errorbar(times[-1], spectrum.exponents[i], 2 * spectrum.stderr[i], color=line.get_color(), capsize=2)
    ax.set_xlabel("time")
    ax.set_ylabel("running mean of the growth rate")
    ax.legend()
    return ax


def plot_exponents_against(
    sweep: LyapunovSweep, axis: str, *, color: str = COLORS["blue"], label: str | None = None, ax: Any = None
) -> Any:
    """Draw the largest exponent of a sweep against one axis: every other one as scatter, their mean as a line.

    **Arguments:**

    - `sweep`: what `lyapunov_sweep` returned.
    - `axis`: the name of the axis to draw against.
    - `color`, `label`: of the curve.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes.

    **Raises:** `ValueError` for a name that the sweep does not have.
    """
    if axis not in sweep.axis_names:
        raise ValueError(f"axis: the sweep has the axes {', '.join(sweep.axis_names)}, not {axis!r}.")
    if ax is None:
        _, ax = plt.subplots()
    place = sweep.axis_names.index(axis)
    values = np.moveaxis(sweep.exponents[..., 0], place, 0)
    values = values.reshape(len(values), -1)
    along = sweep.axis_values[axis]
    ax.plot(np.repeat(along, values.shape[1]), values.ravel(), "o", color=color, markersize=2.5, alpha=0.5)
    ax.plot(along, values.mean(axis=1), color=color, label=label)
    ax.axhline(0, color=COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set_xlabel(axis)
    ax.set_ylabel(r"$\lambda_1$ (nats per step)")
    return ax


def plot_local_exponents(
    local: LocalExponents, *, which: int = 0, projection: Projection | None = None, ax: Any = None
) -> Any:
    """Draw the states of an attractor coloured by the growth rate there.

    **Arguments:**

    - `local`: what `local_exponents` returned.
    - `which`: the exponent to draw.
    - `projection`: of states of more than two entries; principal components by default.
    - `ax`: the Axes to draw on; a new figure by default.

    **Returns:** the Axes; its last collection is the picture, for a colour bar.

    **Raises:** `ValueError` when there is no exponent `which`.
    """
    rates = np.asarray(local.exponents)
    if not 0 <= which < rates.shape[1]:
        raise ValueError(f"which: expected 0 to {rates.shape[1] - 1}, got {which}.")
    states = np.asarray(local.states)
    if ax is None:
        _, ax = plt.subplots()
    if states.shape[1] == 2 and projection is None:
        flat, labels = states, ("$x_1$", "$x_2$")
    else:
        projection = principal_components(states, 2) if projection is None else projection
        flat, labels = projection(states), (projection.label(0), projection.label(1))
    # Colours are symmetric about zero: red stretches, blue contracts. The range leaves out one in fifty.
    limit = max(float(np.quantile(np.abs(rates[np.isfinite(rates[:, which]), which]), 0.98)), 1e-12)
    ax.scatter(
        *flat.T, c=rates[:, which], cmap="coolwarm", vmin=-limit, vmax=limit, s=1.5, linewidth=0, rasterized=True
    )
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    return ax
