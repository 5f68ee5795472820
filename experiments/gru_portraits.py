"""Phase portraits of GRUs with two units (Jordan, Sokol & Park 2021).

Two gated units have one, three or more fixed points, nine at the most here, and attracting closed curves. All fixed
points of random networks are enumerated, with proof, and one network of each number is shown. The last two portraits
are of weights chosen by hand.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import rnndyn as rd
from experiments._settings import NotNegative, Real, Seed, check
from rnndyn import plotting

CAPTION = """GRUs with two units: one to nine fixed points (after Jordan, Sokol & Park 2021).

- **a** to **d**, **f** portraits with 1, 3, 5, 7, 9 fixed points; **e** one with an attracting closed curve (black).
  Arrows, the direction of one step, darker where it is longer; blue and green, where one of the two units stays as it
  is; filled circles, stable points; diamonds, saddles; open circles, unstable points; pink dashed and yellow, stable
  and unstable manifolds of the saddles.
- **g** how many of the random networks have how many fixed points, proved; "open", saturated networks whose
  enumeration takes more boxes than it was given.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_networks: int = 240
    """Random networks."""
    gains: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0)
    """Standard deviations of their recurrent weights, in turn."""
    bias_scale: NotNegative = 0.5
    max_boxes: int = 20_000
    """The most that the enumeration of a network may examine."""
    counts: tuple[int, ...] = (1, 3, 5, 7)
    """Numbers of fixed points of which a random network is shown."""
    turn: Real = 1.0
    turning_gain: float = 3.2
    """Angle in radians, and gain, of the recurrent weights of a network with a closed curve."""
    uncoupled_gain: float = 3.0
    """Of two units that do not see each other, with nine fixed points."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(num_networks=4, counts=(1,), max_boxes=2000)


class Portrait(rd.Result):
    """One network with all of its fixed points.

    - `weights`, `bias`: weight_hh (6, 2) and bias (6,), gates in the order r, z, n.
    - `fixed_points`: enumerated; `proved` says whether they are all.
    - `circle`: the attracting invariant circle, or `None`.
    """

    title: str
    weights: np.ndarray
    bias: np.ndarray
    fixed_points: rd.EnumeratedFixedPoints
    circle: rd.InvariantCircle | None


class GRUPortraits(rd.Result):
    """The portraits, and how many of the random networks have each number of fixed points.

    - `numbers`: of fixed points of each random network, proved; -1 where the enumeration is open.
    """

    portraits: tuple[Portrait, ...]
    numbers: np.ndarray


def compute(config: Config) -> GRUPortraits:
    """Enumerate the fixed points of random networks, and choose the clearest of each number."""
    rng = np.random.default_rng(config.seed)
    gains = np.resize(config.gains, config.num_networks)
    weights = gains[:, None, None] * rng.standard_normal((config.num_networks, 6, 2))
    biases = config.bias_scale * rng.standard_normal((config.num_networks, 6))
    found = [enumerate_points(*parts, config) for parts in zip(weights, biases)]
    numbers = np.array([len(points) if points.proved else -1 for points in found])
    stable = np.array([int(points.is_stable.sum()) for points in found])
    portraits = []
    for count in config.counts:
        rows = np.flatnonzero((numbers == count) & (stable > 0))
        if len(rows):
            # The clearest: points far apart, and far from a bifurcation.
            row = max(rows, key=lambda row: clearness(found[row]))
            title = f"{count} fixed point{'s' * (count > 1)}"
            portraits.append(Portrait(title, weights[row], biases[row], found[row], None))
    # With both gates half open, h' = h / 2 + tanh(W h / 2) / 2: weights that turn give a closed curve, and two units
    # that do not see each other nine fixed points.
    half_open = np.zeros((4, 2))
    cosine, sine = np.cos(config.turn), np.sin(config.turn)
    turning = np.concatenate([half_open, config.turning_gain * np.array([[cosine, -sine], [sine, cosine]])])
    circle = rd.find_invariant_circle(make_map(turning, np.zeros(6)), np.array([0.5, 0.1]), progress=False)
    points = enumerate_points(turning, np.zeros(6), config)
    portraits.append(Portrait("a closed curve", turning, np.zeros(6), points, circle))
    uncoupled = np.concatenate([half_open, config.uncoupled_gain * np.eye(2)])
    points = enumerate_points(uncoupled, np.zeros(6), config)
    portraits.append(Portrait("9 fixed points", uncoupled, np.zeros(6), points, None))
    return GRUPortraits(tuple(portraits), numbers)


def make_map(weights: Any, bias: Any) -> Any:
    """The map of a GRU of two units without input."""
    cell = rd.GRUCell.from_weights(jnp.zeros((6, 1)), weights, bias, jnp.zeros(2))
    return rd.as_map(cell)


def enumerate_points(weights: np.ndarray, bias: np.ndarray, config: Config) -> rd.EnumeratedFixedPoints:
    """Every fixed point of one network, in the square that holds all long-term states."""
    return rd.enumerate_fixed_points(make_map(weights, bias), max_boxes=config.max_boxes, progress=False)


def clearness(found: rd.EnumeratedFixedPoints) -> float:
    """The smallest of: the distance of two points, the distance from the edge, the singular gap of I - DF."""
    points = found.points
    apart = np.linalg.norm(points[:, None] - points, axis=2)[np.triu_indices(len(points), 1)]
    gaps = np.linalg.svd(np.eye(2) - found.jacobians, compute_uv=False)[:, -1]
    return float(min(np.min(apart, initial=2.0), 2 * np.min(1 - np.abs(points)), np.min(gaps)))


def report(result: GRUPortraits) -> str:
    """What was proved of every portrait, and the numbers in random networks."""
    lines = ["portrait              fixed points  stable  saddles  unstable  proved  boxes examined"]
    for one in result.portraits:
        counts = np.bincount(one.fixed_points.num_unstable, minlength=3)
        lines.append(
            f"{one.title:<20}  {len(one.fixed_points):12d}  {counts[0]:6d}  {counts[1]:7d}  {counts[2]:8d}  "
            f"{one.fixed_points.proved!s:6}  {one.fixed_points.num_boxes:14d}"
        )
        if one.circle is not None:
            lines.append(
                f"{'':20}  circle: rotation number {one.circle.rotation_number:.8f} turns per step, normal multiplier "
                f"{one.circle.multipliers[0]:.4f}, residual {one.circle.residual:.1e}"
            )
    shares = {int(n): int(np.sum(result.numbers == n)) for n in np.unique(result.numbers[result.numbers >= 0])}
    lines.append(
        f"random networks by their number of fixed points: {shares}, all proved; open {np.sum(result.numbers < 0)}   "
        "(Jordan, Sokol & Park 2021 show many such portraits)"
    )
    return "\n".join(lines)


def plot(result: GRUPortraits) -> Figure:
    """The portraits, their legend, and the numbers of fixed points of random networks."""
    figure, axes = plt.subplots(2, 4, figsize=(plotting.PAGE_WIDTH, 3.9), width_ratios=[1, 1, 1, 0.9])
    cells = [*axes[0, :3], *axes[1, :3]]
    for place, (ax, one) in enumerate(zip(cells, result.portraits)):
        draw_portrait(ax, one)
        ax.set_title(f"{'abcdef'[place]}  {one.title}", fontsize=8)
        ax.set_ylabel("$h_2$" if place % 3 == 0 else "")
        ax.set_xlabel("$h_1$" if place >= 3 else "")
    for ax in cells[len(result.portraits) :]:
        ax.set_axis_off()
    draw_numbers(axes[0, 3], result)
    draw_legend(axes[1, 3])
    return figure


def draw_portrait(ax: Any, one: Portrait) -> None:
    """One portrait, in the part of the square where things are."""
    if one.circle is None:
        shown = one.fixed_points.points
    else:
        shown = np.concatenate([one.fixed_points.points, one.circle.curve(np.linspace(0, 1, 200))])
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = np.maximum(0.25 * (high - low), 0.3)
    # Saturated units rest on the edge of the square, whose rim is shown.
    low, high = np.maximum(low - margin, -1.06), np.minimum(high + margin, 1.06)
    # In float64: where a unit is saturated, single precision cannot tell on which side of the line it moves.
    with jax.enable_x64(True):
        plotting.plot_phase_portrait(
            make_map(one.weights, one.bias), low, high, fixed_points=one.fixed_points, num_arrows=13, ax=ax
        )
    if one.circle is not None:
        ax.plot(*one.circle.curve(np.linspace(0, 1, 400)).T, color=plotting.COLORS["black"], linewidth=1.6, zorder=5)


def draw_numbers(ax: Any, result: GRUPortraits) -> None:
    """How many random networks have each number of fixed points."""
    values, counts = np.unique(np.where(result.numbers < 0, 11, result.numbers), return_counts=True)
    colors = [plotting.COLORS["grey" if value == 11 else "sky"] for value in values]
    ax.bar(values, counts, color=colors, width=1.2)
    for value, count in zip(values, counts):
        ax.text(value, count * 1.15, str(count), ha="center", fontsize=6)
    ax.set_yscale("log")
    ax.set_title("g  random GRUs", fontsize=8)
    ax.set(xlabel="fixed points", ylabel="networks")
    ax.set_xticks([1, 3, 5, 7, 9, 11], ["1", "3", "5", "7", "9", "open"])
    ax.set_ylim(0.7, 4 * counts.max())


def draw_legend(ax: Any) -> None:
    """What the lines and markers of the portraits mean."""
    colors = plotting.COLORS
    disc = {"linestyle": "none", "markersize": 4.5, "markeredgewidth": 0.7}
    handles = [
        Line2D([], [], color=colors["blue"], linewidth=0.9, label="$h_1$ stays"),
        Line2D([], [], color=colors["green"], linewidth=0.9, label="$h_2$ stays"),
        Line2D([], [], color=colors["purple"], linestyle="--", label="stable manifold"),
        Line2D([], [], color=colors["yellow"], label="unstable manifold"),
        Line2D([], [], marker="o", color=colors["black"], label="stable point", **disc),
        Line2D([], [], marker="D", color=colors["orange"], label="saddle", **disc),
        Line2D([], [], marker="o", markerfacecolor="white", markeredgecolor="black", label="unstable point", **disc),
        Line2D([], [], color=colors["black"], linewidth=1.6, label="invariant circle"),
    ]
    ax.legend(handles=handles, loc="center", borderpad=0)
    ax.set_axis_off()
