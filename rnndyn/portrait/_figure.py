"""A portrait as one figure: states, multipliers, attractors, exponents, memory, and inputs beside each other."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rnndyn.plotting.fixed_points import plot_fixed_points
from rnndyn.plotting.lyapunov import plot_spectrum
from rnndyn.plotting.multipliers import plot_multipliers
from rnndyn.plotting.projection import Projection, principal_components
from rnndyn.plotting.style import COLORS, PAGE_WIDTH, paper_style

_KIND_COLORS = {
    "fixed point": COLORS["blue"],
    "cycle": COLORS["orange"],
    "invariant circle": COLORS["green"],
    "chaotic": COLORS["purple"],
}
_MOST_BARS = 12
_MOST_POINTS = 6


def draw(portrait: Any) -> Any:
    """The figure of a `Portrait`: six panels, those without data say why."""
    place = portrait.places[0]
    with paper_style():
        figure = plt.figure(figsize=(PAGE_WIDTH, 4.9), layout="constrained")
        grid = figure.add_gridspec(2, 3, width_ratios=(1.15, 1, 1))
        projection = state_projection(place)
        space = {"projection": "3d"} if projection is not None and len(projection.axes) == 3 else {}
        _states(figure.add_subplot(grid[:, 0], **space), place, projection)
        _multipliers(figure.add_subplot(grid[0, 1]), place)
        _attractors(figure.add_subplot(grid[0, 2]), place)
        _exponents(figure.add_subplot(grid[1, 1]), portrait)
        last = figure.add_subplot(grid[1, 2])
        if len(portrait.places) > 1:
            _inputs(last, portrait)
        else:
            _memory(last, portrait)
        figure.suptitle(f"{portrait.title}: {portrait.description}", fontsize=9)
    return figure


def state_projection(place: Any) -> Projection | None:
    """Principal components of what is drawn of the states, up to three; `None` where nothing moves."""
    drawn = [place.trajectories.reshape(-1, place.states.shape[1])]
    if place.fixed_points is not None:
        drawn.append(place.fixed_points.points)
    if place.attractors is not None:
        drawn += [a.points for a in place.attractors.attractors]
    pool = np.concatenate(drawn)
    pool = pool[np.isfinite(pool).all(axis=1)]
    dimensions = min(3, pool.shape[1])
    if len(pool) <= dimensions or dimensions < 2:
        return None
    return principal_components(pool, dimensions)


def _states(ax: Any, place: Any, projection: Projection | None) -> None:
    if projection is None:
        if place.states.shape[1] == 1:
            _line(ax, place)
        else:
            _empty(ax, "no states to draw")
        return
    dimensions = len(projection.axes)
    if place.fixed_points is not None:
        plot_fixed_points(
            place.fixed_points, place.trajectories, projection=projection, dimensions=dimensions, modes=False, ax=ax
        )
    else:
        for path in projection(place.trajectories):
            ax.plot(*path.T, color=COLORS["grey"], linewidth=0.4, alpha=0.5)
    for attractor in place.attractors.attractors if place.attractors is not None else ():
        if attractor.kind in ("fixed point", "unbounded", "undecided"):
            continue
        points = projection(attractor.points)
        ax.scatter(*points.T, s=3, color=_KIND_COLORS[attractor.kind], label=attractor.label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)
    ax.set_title(f"states, {place.name}")


def _line(ax: Any, place: Any) -> None:
    """A network of one unit: its orbits over time, and its fixed points as lines."""
    for path in place.trajectories[:, :, 0]:
        ax.plot(path, color=COLORS["grey"], linewidth=0.4, alpha=0.5)
    if place.fixed_points is not None:
        for point, stable in zip(place.fixed_points.points[:, 0], place.fixed_points.is_stable):
            ax.axhline(point, color=COLORS["blue"] if stable else COLORS["orange"], linestyle="-" if stable else "--")
    ax.set(title=f"states, {place.name}", xlabel="step", ylabel="x")


def _multipliers(ax: Any, place: Any) -> None:
    points = place.fixed_points
    ax.set_title("multipliers of fixed points")
    if points is None or len(points) == 0:
        _empty(ax, "no fixed point was found")
        return
    kinds = np.unique(points.num_unstable, return_index=True)[1][:_MOST_POINTS]
    labels = [
        "stable"
        if points.is_stable[k]
        else f"{points.num_unstable[k]} unstable"
        if points.num_unstable[k]
        else "neutral"
        for k in kinds
    ]
    plot_multipliers(points.multipliers[kinds], labels=labels, ax=ax)
    ax.legend(loc="upper left", fontsize=6, handletextpad=0.2)


def _stability(points: Any, k: int) -> str:
    if points.is_stable[k]:
        return "stable"
    return f"{points.num_unstable[k]} unstable" if points.num_unstable[k] else "neutral"


def _attractors(ax: Any, place: Any) -> None:
    ax.set_title("where states end")
    found = place.attractors
    if found is None:
        _empty(ax, "not looked at")
        return
    shown = min(len(found), _MOST_BARS)
    rows = [
        (a.label, share, error, _KIND_COLORS.get(a.kind, COLORS["grey"]))
        for a, share, error in zip(found.attractors[:shown], found.basin_fractions, found.basin_fraction_stderr)
    ]
    rest = float(found.basin_fractions[shown:].sum())
    rows += [
        (name, share, 0.0, COLORS["grey"])
        for name, share in (
            (f"{len(found) - shown} more", rest),
            ("unbounded", found.unbounded_fraction),
            ("undecided", found.undecided_fraction),
        )
        if share > 0
    ]
    places = np.arange(len(rows))
    names, shares, errors, colors = zip(*rows)
    ax.barh(places, shares, xerr=errors, color=colors, height=0.7, error_kw={"linewidth": 0.7})
    ax.set_yticks(places, names, fontsize=6)
    ax.invert_yaxis()
    ax.set_xlim(0, min(1.0, 1.15 * max(s + e for s, e in zip(shares, errors))))
    ax.set_xlabel(f"share of {len(found.labels)} states")


def _exponents(ax: Any, portrait: Any) -> None:
    place = portrait.places[0]
    ax.set_title("Lyapunov exponents")
    drawn = False
    for spectrum, color, label in (
        (place.spectrum, COLORS["purple"], place.name),
        (portrait.conditional, COLORS["green"], "driven"),
    ):
        if spectrum is None or not np.isfinite(spectrum.exponents).any():
            continue
        plot_spectrum(spectrum.exponents, spectrum.stderr, color=color, label=label, ax=ax)
        drawn = True
    points = place.fixed_points
    stable = [] if points is None else np.flatnonzero(points.is_stable)
    if points is not None and len(stable):
        sizes = np.abs(points.multipliers[stable[0]])
        shown = np.log(sizes[sizes > 0])[:16]
        ax.plot(
            np.arange(1, len(shown) + 1), shown, "o", ms=2.5, color=COLORS["blue"], label=r"$\ln|\mu|$, a stable point"
        )
        drawn = True
    if not drawn:
        _empty(ax, "not measured")
        return
    ax.axhline(0, color=COLORS["grey"], linewidth=0.6)
    ax.legend(loc="lower left", fontsize=6)


def _memory(ax: Any, portrait: Any) -> None:
    ax.set_title("reach of gradients")
    memory = portrait.memory
    if memory is None or not np.isfinite(memory.log_gradient).any():
        _empty(ax, "no input, no measurement" if memory is None else "not finite")
        return
    # To where the fall is plain: the rest is a straight line.
    reach = float(memory.horizon) if np.isfinite(memory.horizon) else np.inf
    shown = memory.lags <= max(10.0, 8 * reach)
    ax.errorbar(
        memory.lags[shown],
        memory.log_gradient[shown],
        memory.log_gradient_stderr[shown],
        color=COLORS["blue"],
        elinewidth=0.6,
        linewidth=1,
    )
    ax.axhline(-1, color=COLORS["grey"], linestyle="--", linewidth=0.7)
    ax.annotate("1/e", (memory.lags[shown][-1], -1), ha="right", va="bottom", fontsize=6, color=COLORS["grey"])
    ax.set(xlabel="steps back", ylabel="ln of the typical gradient")


def _inputs(ax: Any, portrait: Any) -> None:
    """How many fixed points under each input, by stability."""
    ax.set_title("fixed points under each input")
    names = [place.name for place in portrait.places]
    stable, unstable = (
        np.array(
            [0 if p.fixed_points is None else int(np.sum(p.fixed_points.is_stable == flag)) for p in portrait.places]
        )
        for flag in (True, False)
    )
    rows = np.arange(len(names))
    ax.barh(rows, stable, color=COLORS["blue"], label="stable", height=0.7)
    ax.barh(rows, unstable, left=stable, color=COLORS["sky"], label="not stable", height=0.7)
    ax.set_yticks(rows, names, fontsize=6)
    ax.invert_yaxis()
    ax.set_xlabel("number")
    ax.legend(fontsize=6)


def _empty(ax: Any, text: str) -> None:
    ax.set_axis_off()
    place = (0.5, 0.5, 0.5, text) if hasattr(ax, "get_zlim") else (0.5, 0.5, text)
    ax.text(*place, transform=ax.transAxes, ha="center", va="center", fontsize=7, color=COLORS["grey"])
