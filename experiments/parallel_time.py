"""All steps at once: how many iterations of Newton's method a sequence takes, and where chaos begins.

Random tanh networks without input, over their gain and over the length of the sequence. The trajectory is the root of
x_t - tanh(g W x_{t-1}) for all t together; an iteration solves a linear recursion for all steps with an associative
scan. Beside the number of iterations stands the largest Lyapunov exponent: where it is above zero, errors of one end
of the sequence grow towards the other, and the number of iterations grows with the length.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

import rnndyn as rd
from experiments._settings import Fraction, Seed, check
from rnndyn import plotting

CAPTION = """All steps at once, and where chaos begins.

Random tanh networks without input, four at each gain; every sequence is solved for all of its steps at once.

- **a** iterations of Newton's method over the gain, a colour for each length: median and range over networks. Grey
  line and band, the gain from which on the largest exponent is above zero: median and range.
- **b** the median over the length, for the gains that are written at the lines; dashed, as many iterations as steps.
- **c** the same over the largest exponent, at the greatest length: blue, sequences that the guard lets through;
  orange, those that it takes for chaotic from their first steps. Grey line, zero; dashed, as many iterations as
  steps. (Above zero a residual of 1e-8 is no error of 1e-8: the last states are off by more, see the report.)
"""

EXPECTED = {0.5: "about 3", 0.8: "4", 1.0: "6 to 10", 1.5: "70 to 130", 2.0: "as many as steps"}
"""Of a trial before this study, N = 50, T = 500, to 1e-8."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    gains: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0)
    """Standard deviation of a recurrent weight, times the root of the number of units."""
    lengths: tuple[int, ...] = (50, 100, 200)
    num_units: int = 50
    num_networks: int = 4
    tol: Fraction = 1e-8
    """Of the residual, relative to the largest state."""
    num_steps: int = 2000
    """Over which the exponent is measured."""
    num_transient: int = 500
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(gains=(0.5, 2.0), lengths=(8,), num_units=4, num_networks=2, num_steps=100, num_transient=20)


class ParallelTime(rd.Result):
    """Rows are gains, then lengths where there are several, then networks.

    - `iterations`: of Newton's method, from the first state repeated.
    - `errors`: the largest difference to the trajectory that is iterated.
    - `refused`: whether the guard takes the orbit for chaotic from its first steps.
    - `exponents`, `stderrs`: the largest Lyapunov exponent and its standard error.
    """

    gains: np.ndarray
    lengths: np.ndarray
    iterations: np.ndarray
    errors: np.ndarray
    refused: np.ndarray
    exponents: np.ndarray
    stderrs: np.ndarray


def compute(config: Config) -> ParallelTime:
    """Solve every sequence at once, and measure every exponent."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(config.seed)
        shape = (config.num_networks, config.num_units)
        weights = rng.standard_normal((*shape, config.num_units)) / np.sqrt(config.num_units)
        starts = rng.standard_normal(shape)
        rows = [study_length(weights, starts, length, config) for length in config.lengths]
        iterations, errors, refused = (np.stack(column, axis=1) for column in zip(*rows))
        exponents, stderrs = exponents_of(weights, starts, config)
    return ParallelTime(
        np.array(config.gains), np.array(config.lengths), iterations, errors, refused, exponents, stderrs
    )


def study_length(weights: np.ndarray, starts: np.ndarray, length: int, config: Config) -> tuple:
    """One length: iterations, errors, and what the guard says, each (gains, networks)."""

    # One program for all gains and networks of a length: these are arrays in it.
    @eqx.filter_jit
    def solve(w: jax.Array, x0: jax.Array) -> tuple:
        f = lambda x: jnp.tanh(w @ x)
        found = rd.parallel_trajectory(f, x0, length, tol=config.tol, max_steps=length + 1, if_chaotic="continue")
        error = jnp.max(jnp.abs(found.states - rd.trajectory(f, x0, length)))
        return found.num_iterations, error, found.exponent > 2 * found.exponent_stderr

    found = [[solve(jnp.asarray(g * w), jnp.asarray(x)) for w, x in zip(weights, starts)] for g in config.gains]
    columns = [np.array([[np.asarray(one[k]) for one in row] for row in found]) for k in range(3)]
    return tuple(columns)


def exponents_of(weights: np.ndarray, starts: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The largest exponent of every network after its transient, and the standard error, each (gains, networks)."""

    @eqx.filter_jit
    def measure(w: jax.Array, x0: jax.Array) -> tuple:
        found = rd.max_lyapunov_exponent(
            lambda x: jnp.tanh(w @ x), x0, config.num_steps, num_transient=config.num_transient
        )
        return found.exponent, found.stderr

    found = [[measure(jnp.asarray(g * w), jnp.asarray(x)) for w, x in zip(weights, starts)] for g in config.gains]
    exponents, stderrs = (np.array([[float(one[k]) for one in row] for row in found]) for k in range(2))
    return exponents, stderrs


def threshold(result: ParallelTime) -> np.ndarray:
    """The gain from which on the exponent of each network is above zero, by interpolation; NaN where it is nowhere.

    Zero itself is common below: a cycle or a circle that the network settles on.
    """
    crossings = []
    for exponents, stderrs in zip(result.exponents.T, result.stderrs.T):
        regular = np.flatnonzero(~(exponents > 2 * stderrs))
        k = regular[-1] if len(regular) else -1
        if k in (-1, len(exponents) - 1):
            crossings.append(np.nan)
            continue
        share = min(1, max(0, -exponents[k] / (exponents[k + 1] - exponents[k])))
        crossings.append(result.gains[k] + share * (result.gains[k + 1] - result.gains[k]))
    return np.array(crossings)


def report(result: ParallelTime) -> str:
    """Iterations at the greatest length, exponents, and what the guard would have said."""
    length = result.lengths[-1]
    lines = [
        f"gain   exponent (range over networks)   iterations of {length} steps   largest error   taken for chaotic   "
        "a trial of 50 units, 500 steps",
    ]
    for k, gain in enumerate(result.gains):
        of, exponents = result.iterations[k, -1], result.exponents[k]
        lines.append(
            f"{gain:4.2f}   {np.median(exponents):8.3f} ({exponents.min():6.3f} to {exponents.max():6.3f})   "
            f"{np.median(of):12.0f} ({of.min():.0f} to {of.max():.0f})   {result.errors[k, -1].max():13.1g}   "
            f"{result.refused[k, -1].sum():.0f} of {of.size}   {EXPECTED.get(float(gain), '')}"
        )
    crossings = threshold(result)
    if np.isfinite(crossings).any():
        crossings = crossings[np.isfinite(crossings)]
        lines.append(
            f"the exponent is above zero from a gain of {np.median(crossings):.2f} ({crossings.min():.2f} to "
            f"{crossings.max():.2f}, {crossings.size} of {result.exponents.shape[1]} networks)"
        )
    chaotic = result.exponents > 2 * result.stderrs
    few, many = (result.iterations[:, -1][which] / length for which in (~chaotic, chaotic))
    for name, shares in (("not chaotic", few), ("chaotic", many)):
        if shares.size:
            lines.append(f"{name}: iterations are {shares.min():.2g} to {shares.max():.2g} of the length")
    return "\n".join(lines)


def plot(result: ParallelTime) -> Figure:
    """Iterations over gain; over length; and over the exponent."""
    figure, axes = plt.subplots(1, 3, figsize=(plotting.PAGE_WIDTH, 2.7))
    longest = int(result.lengths[-1])
    colors = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(result.lengths)))
    draw_gains(axes[0], result, colors)
    draw_lengths(axes[1], result)
    ax = axes[2]
    chaotic = result.refused[:, -1]
    for which, color, label in (
        (~chaotic, plotting.COLORS["blue"], "solved at once"),
        (chaotic, plotting.COLORS["orange"], "refused by the guard"),
    ):
        ax.plot(result.exponents[which], result.iterations[:, -1][which], "o", ms=3.5, mew=0, color=color, label=label)
    ax.axvline(0, color=plotting.COLORS["grey"], linewidth=0.8, zorder=0)
    ax.axhline(longest, color=plotting.COLORS["grey"], linewidth=0.8, linestyle="--", zorder=0)
    draw_log_axis(ax)
    ax.set_xlabel(r"exponent $\lambda_1$ (nats per step)")
    ax.set_ylabel(f"iterations, $T = {longest}$")
    ax.set_title("c  over the exponent")
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.93))
    return figure


def draw_gains(ax: Axes, result: ParallelTime, colors: np.ndarray) -> None:
    """The median over networks with its range, for each length; and where the exponent crosses zero."""
    crossings = threshold(result)
    if np.isfinite(crossings).any():
        ax.axvspan(np.nanmin(crossings), np.nanmax(crossings), color=plotting.COLORS["grey"], alpha=0.25, linewidth=0)
        ax.axvline(np.nanmedian(crossings), color=plotting.COLORS["grey"], linewidth=0.8)
    for k, length in enumerate(result.lengths):
        of = result.iterations[:, k]
        ax.fill_between(result.gains, of.min(axis=1), of.max(axis=1), color=colors[k], alpha=0.25, linewidth=0)
        ax.plot(result.gains, np.median(of, axis=1), "o-", ms=2.5, color=colors[k], label=f"$T = {length}$")
    draw_log_axis(ax)
    ax.set_xlabel("gain $g$")
    ax.set_ylabel("Newton iterations")
    ax.set_title("a  over the gain")
    ax.legend(loc="upper left")


def draw_lengths(ax: Axes, result: ParallelTime) -> None:
    """Iterations over length at a few gains."""
    chosen = np.unique(np.linspace(0, len(result.gains) - 1, min(5, len(result.gains))).astype(int))
    colors = plt.get_cmap("cividis")(np.linspace(0.05, 0.85, len(chosen)))
    for color, k in zip(colors, chosen):
        of = result.iterations[k]
        ax.plot(result.lengths, np.median(of, axis=1), "o-", ms=2.5, color=color)
        draw_end(ax, result.lengths[-1], np.median(of, axis=1)[-1], f"{result.gains[k]:g}", color)
    ax.plot(result.lengths, result.lengths, "--", color=plotting.COLORS["grey"], linewidth=0.8)
    draw_end(ax, result.lengths[-1], result.lengths[-1], "$T$", plotting.COLORS["grey"])
    ax.set_xscale("log", base=2)
    draw_log_axis(ax)
    ax.set_xticks(result.lengths, [str(length) for length in result.lengths])
    ax.margins(x=0.12)
    ax.set_xlabel("length $T$ (steps)")
    ax.set_ylabel("Newton iterations")
    ax.set_title("b  over the length")


def draw_end(ax: Axes, x: float, y: float, text: str, color: object) -> None:
    """The name of a line, right of its end."""
    ax.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7, color=color)


def draw_log_axis(ax: Axes) -> None:
    """A logarithmic axis with the numbers themselves."""
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(ScalarFormatter())
