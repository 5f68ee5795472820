"""Chaos in random networks, beside its mean-field theory (Sompolinsky, Crisanti & Sommers 1988).

dx/dt = -x + g J tanh(x) with independent Gaussian entries of J, of variance 1 / N. Below g = 1 every state of a large
network goes to 0; above, it is chaotic. The theory of infinitely many units gives autocorrelation and largest exponent
without anything to fit: both come from a particle in a potential (`experiments/_mean_field.py`).
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._mean_field import mean_field
from experiments._runge_kutta import RungeKutta
from experiments._settings import Seed, check, check_increasing, check_same_length
from rnndyn import plotting

CAPTION = """Chaos in random networks, and its mean-field theory (Sompolinsky, Crisanti & Sommers 1988).

dx/dt = -x + g J tanh(x) with Gaussian J of variance 1/N; the same J for all gains. Black: theory of infinitely many
units, solved, not fitted. Error bars: standard deviation over networks, of which
there are 20, 12, 8 and 5 of the four sizes.

- **a** eight units of one of the largest networks, below and above the onset g = 1.
- **b** largest exponent over the gain, a colour for each size; below g = 1 the theory is g - 1, the rate at which
  states go to 0.
- **c** autocorrelation of the largest networks at three gains, each a thin line; dashed, theory. Networks of this size
  still differ at long lags.
- **d** its value at lag 0 over the gain, for the largest networks.
- **e** largest exponent over the size at three gains, the same colours as in **c**; dots, networks; dashed, theory.
- **f** the gain at which the state 0 loses stability in each network, 1 / max Re eig J, over the size;
  dashed, the limit.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    gains: tuple[float, ...] = (0.8, 0.95, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
    sizes: tuple[int, ...] = (100, 200, 400, 800)
    num_networks: tuple[int, ...] = (20, 12, 8, 5)
    """Of each size."""
    transient: float = 75.0
    """Time before anything is measured, in time constants of a unit."""
    time: float = 150.0
    """Time measured over."""
    dt: float = 0.25
    """Step of the method of Runge and Kutta (order 4)."""
    shown_gains: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Gains of the autocorrelations."""
    quiet_gain: float = 0.8
    """Gain below the onset whose units are drawn."""
    max_lag: float = 15.0
    num_theory: int = 16
    """Gains at which the theory is solved."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "sizes", "num_networks")
        check_increasing(self, "gains", "sizes")
        if missing := [gain for gain in self.shown_gains if gain not in self.gains or gain <= 1]:
            raise ValueError(f"shown_gains: got {missing}; allowed are entries of gains above 1.")
        if self.max_lag >= self.time:
            raise ValueError(f"max_lag: got {self.max_lag}; allowed is less than time, which is {self.time}.")


SMOKE = Config(
    gains=(0.8, 2.0),
    sizes=(16,),
    num_networks=(2,),
    transient=10.0,
    time=20.0,
    shown_gains=(2.0,),
    max_lag=5.0,
    num_theory=2,
)


SIZE_COLORS = [plotting.COLORS[name] for name in ("yellow", "sky", "blue", "black")]


class Network(eqx.Module):
    """dx/dt = -x + g J tanh(x)."""

    weight: jax.Array
    gain: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return -x + self.gain * (self.weight @ jnp.tanh(x))


class Runs(rd.Result):
    """All networks of one size.

    - `exponents`: largest exponent over networks and gains, nats per time constant of a unit.
    - `variances`: mean x^2 over units and time, over networks and gains.
    - `correlations`: mean x(t) x(t + lag), over networks, shown gains and lags.
    - `abscissae`: the largest real part of the eigenvalues of J, for each network.
    """

    size: int
    exponents: np.ndarray
    variances: np.ndarray
    correlations: np.ndarray
    abscissae: np.ndarray


class MeanFieldChaos(rd.Result):
    """Networks, and the theory beside them.

    - `traces`: eight units below the onset and at the first shown gain, over `trace_times`.
    - `theory_gains`, `theory_variances`, `theory_exponents`: the curves above the onset.
    - `expected_exponents`, `expected_variances`: the theory at each gain of the networks.
    - `expected_correlations`: at each shown gain, over `lags`.
    """

    gains: np.ndarray
    shown_gains: np.ndarray
    runs: tuple[Runs, ...]
    lags: np.ndarray
    trace_gains: np.ndarray
    trace_times: np.ndarray
    traces: np.ndarray
    theory_gains: np.ndarray
    theory_variances: np.ndarray
    theory_exponents: np.ndarray
    expected_exponents: np.ndarray
    expected_variances: np.ndarray
    expected_correlations: np.ndarray


def compute(config: Config) -> MeanFieldChaos:
    """All networks, eight units to look at, and the theory."""
    lags = np.arange(round(config.max_lag / config.dt)) * config.dt
    runs = tuple(measure(size, num, config) for size, num in zip(config.sizes, config.num_networks))
    trace_gains = np.array([config.quiet_gain, config.shown_gains[0]])
    weight, x0 = draw_network(config.sizes[-1], 0, config)
    follow = lambda gain: rd.trajectory(RungeKutta(Network(weight, gain), config.dt), x0, round(40 / config.dt))[:, :8]
    traces = np.asarray(jax.vmap(follow)(jnp.asarray(trace_gains, weight.dtype)))
    chaotic = {gain: mean_field(gain) for gain in config.gains if gain > 1}
    # More of them near the onset, where the curves bend.
    curve = [
        mean_field(1 + 0.01 + (config.gains[-1] - 1.01) * part**2) for part in np.linspace(0, 1, config.num_theory)
    ]
    return MeanFieldChaos(
        gains=np.array(config.gains),
        shown_gains=np.array(config.shown_gains),
        runs=runs,
        lags=lags,
        trace_gains=trace_gains,
        trace_times=np.arange(traces.shape[1]) * config.dt,
        traces=traces,
        theory_gains=np.array([one.gain for one in curve]),
        theory_variances=np.array([one.variance for one in curve]),
        theory_exponents=np.array([one.exponent for one in curve]),
        expected_exponents=np.array([chaotic[gain].exponent if gain > 1 else gain - 1 for gain in config.gains]),
        expected_variances=np.array([chaotic[gain].variance if gain > 1 else 0.0 for gain in config.gains]),
        expected_correlations=np.stack([chaotic[gain].at(lags) for gain in config.shown_gains]),
    )


def draw_network(size: int, index: int, config: Config) -> tuple[jax.Array, jax.Array]:
    """J of one network, and an initial state."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), size), index)
    weight_key, state_key = jax.random.split(key)
    weight = jax.random.normal(weight_key, (size, size)) / jnp.sqrt(size)
    return weight, jax.random.normal(state_key, (size,))


def measure(size: int, num_networks: int, config: Config) -> Runs:
    """Exponents and second moments of all networks of one size, at all gains."""
    shown = [config.gains.index(gain) for gain in config.shown_gains]
    num_lags = round(config.max_lag / config.dt)

    # All gains of a network share J, so that a step of them is one product of matrices.
    @jax.jit
    def run(weight: jax.Array, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
        local = lambda gain: rd.local_exponents(
            RungeKutta(Network(weight, gain), config.dt),
            x0,
            round(config.time / config.dt),
            num_transient=round(config.transient / config.dt),
            dt=config.dt,
        )
        both = jax.vmap(local)(jnp.asarray(config.gains, weight.dtype))
        return both.exponents[..., 0].mean(axis=-1), both.states

    exponents, variances, correlations, abscissae = [], [], [], []
    for index in range(num_networks):
        weight, x0 = draw_network(size, index, config)
        of_network, states = jax.device_get(run(weight, x0))
        exponents.append(of_network)
        variances.append(np.mean(states.astype(float) ** 2, axis=(1, 2)))
        correlations.append([autocorrelation(states[row].astype(float), num_lags) for row in shown])
        abscissae.append(np.linalg.eigvals(np.asarray(weight, float)).real.max())
    return Runs(size, np.array(exponents), np.array(variances), np.array(correlations), np.array(abscissae))


def autocorrelation(states: np.ndarray, num_lags: int) -> np.ndarray:
    """Mean of x(t) x(t + lag) over times and units, of states (times, units)."""
    num_times = len(states)
    # Padded with zeros, so that the circular sum of the transform has no term from round the end.
    power = np.abs(np.fft.rfft(states, 2 * num_times, axis=0)) ** 2
    return np.fft.irfft(power.mean(axis=1), 2 * num_times)[:num_lags] / (num_times - np.arange(num_lags))


def report(result: MeanFieldChaos) -> str:
    """Exponents, variances and correlations beside the theory."""
    lines = [
        "largest exponent (nats per time constant; mean +- sd over networks) beside the theory of N = infinity,",
        "solved here from the potential of Sompolinsky, Crisanti & Sommers (1988); up to g = 1 it is g - 1",
        "   g   " + "   ".join(f"     N = {runs.size:<6d}" for runs in result.runs) + "    theory",
    ]
    for row, gain in enumerate(result.gains):
        values = [runs.exponents[:, row] for runs in result.runs]
        told = "   ".join(f"{value.mean():7.4f} +- {value.std():6.4f}" for value in values)
        lines.append(f"{gain:5.2f}  {told}   {result.expected_exponents[row]:7.4f}")
    last = result.runs[-1]
    lines.append(f"autocorrelation at lag 0, N = {last.size}, and the theory:")
    for row, gain in enumerate(result.gains):
        value, expected = last.variances[:, row], result.expected_variances[row]
        lines.append(f"{gain:5.2f}  {value.mean():7.4f} +- {value.std():6.4f}   {expected:7.4f}")
    lines.append(
        "autocorrelation minus theory at the lag where the theory is half, over its value at lag 0 (mean +- sd):"
    )
    for row, gain in enumerate(result.shown_gains):
        expected = result.expected_correlations[row]
        half = int(np.argmin(np.abs(expected - expected[0] / 2)))
        apart = [(runs.correlations[:, row, half] - expected[half]) / expected[0] for runs in result.runs]
        told = ", ".join(f"N = {runs.size}: {v.mean():.3f} +- {v.std():.3f}" for runs, v in zip(result.runs, apart))
        lines.append(f"{gain:5.2f}  lag {result.lags[half]:.2f}   {told}")
    lines.append(
        "gain at which the state 0 loses stability (1 / max Re eig J), mean +- sd over networks; the limit is 1:"
    )
    for runs in result.runs:
        onset = 1 / runs.abscissae
        lines.append(f"  N = {runs.size:4d}   {onset.mean():.4f} +- {onset.std():.4f}")
    for row, gain in enumerate(result.gains):
        if gain < 1:
            apart = np.concatenate([runs.exponents[:, row] - (gain * runs.abscissae - 1) for runs in result.runs])
            stays = np.concatenate([gain * runs.abscissae < 1 for runs in result.runs])
            if stays.any():
                lines.append(
                    f"exponent at g = {gain:g} where 0 is stable, against g max Re eig J - 1: largest difference "
                    f"{np.max(np.abs(apart[stays])):.1e}"
                )
    return "\n".join(lines)


def plot(result: MeanFieldChaos) -> Figure:
    """Units, exponents, autocorrelations, and how they come to the theory as N grows."""
    figure, axes = plt.subplots(2, 3, figsize=(plotting.PAGE_WIDTH, 4.2))
    draw_traces(axes[0, 0], result)
    draw_exponents(axes[0, 1], result)
    colors = dict(zip(result.shown_gains, (plotting.COLORS[name] for name in ("green", "purple", "orange"))))
    last = result.runs[-1]
    for row, (gain, color) in enumerate(colors.items()):
        axes[0, 2].plot(result.lags, last.correlations[:, row].T, color=color, linewidth=0.6, alpha=0.6)
        axes[0, 2].plot([], [], color=color, label=f"g = {gain:g}")
        axes[0, 2].plot(result.lags, result.expected_correlations[row], "--", color="black", linewidth=1.2)
    axes[0, 2].set(
        title=f"c  autocorrelation, N = {last.size}", xlabel=r"lag $\tau$", ylabel=r"$\Delta(\tau)$", ylim=(0, None)
    )
    # From above, as the curves lie.
    axes[0, 2].legend(*(part[::-1] for part in axes[0, 2].get_legend_handles_labels()))
    axes[1, 0].plot([0, 1, *result.theory_gains], [0, 0, *result.theory_variances], "--", color="black", linewidth=0.8)
    axes[1, 0].errorbar(
        result.gains,
        last.variances.mean(axis=0),
        last.variances.std(axis=0),
        fmt="o",
        color=SIZE_COLORS[3],
        markersize=3.5,
        capsize=2,
    )
    axes[1, 0].set(
        title=f"d  variance, N = {last.size}",
        xlabel="gain g",
        ylabel=r"$\Delta(0)$",
        xlim=(result.gains[0] - 0.1, None),
    )
    draw_approach(axes[1, 1], result, colors)
    for runs in result.runs:
        axes[1, 2].plot(
            np.full(len(runs.abscissae), runs.size),
            1 / runs.abscissae,
            "o",
            color=plotting.COLORS["grey"],
            markersize=2.5,
        )
    sizes = [runs.size for runs in result.runs]
    onsets = [1 / runs.abscissae for runs in result.runs]
    axes[1, 2].errorbar(
        sizes, [one.mean() for one in onsets], [one.std() for one in onsets], color=plotting.COLORS["black"], capsize=2
    )
    axes[1, 2].axhline(1, linestyle="--", color="black", linewidth=0.8)
    axes[1, 2].set(title="f  loss of stability of 0", xlabel="units N", ylabel=r"gain $1 / \max\,$Re $\mu(J)$")
    draw_sizes(axes[1, 2], sizes)
    return figure


def draw_traces(ax: Any, result: MeanFieldChaos) -> None:
    """Eight units below the onset, and above it, one drawn over the other."""
    for level, (gain, states, color) in enumerate(zip(result.trace_gains, result.traces, ("grey", "green"))):
        ax.plot(result.trace_times, states - 6.5 * level, color=plotting.COLORS[color], linewidth=0.7)
        ax.text(result.trace_times[-1], 0.6 - 3.3 * level, f"g = {gain:g}", ha="right", fontsize=7)
    ax.set(title=f"a  units, N = {result.runs[-1].size}", xlabel="time (time constants)", ylabel="$x_i$", yticks=[])


def draw_exponents(ax: Any, result: MeanFieldChaos) -> None:
    """Largest exponents over the gain, for each size."""
    for runs, color in zip(result.runs, SIZE_COLORS[-len(result.runs) :]):
        mean, spread = runs.exponents.mean(axis=0), runs.exponents.std(axis=0)
        ax.errorbar(result.gains, mean, spread, fmt="o", markersize=3, capsize=2, color=color, label=f"N = {runs.size}")
    below = [result.gains[0], 1]
    ax.plot(
        [*below, *result.theory_gains], [below[0] - 1, 0, *result.theory_exponents], "--", color="black", linewidth=0.8
    )
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set(title="b  largest exponent", xlabel="gain g", ylabel=r"$\lambda_1$ (nats per time unit)")
    ax.legend(loc="upper left", handlelength=1, borderaxespad=0)


def draw_approach(ax: Any, result: MeanFieldChaos, colors: dict[float, str]) -> None:
    """Largest exponents over the size at the shown gains."""
    sizes = [runs.size for runs in result.runs]
    for gain, color in colors.items():
        row = list(result.gains).index(gain)
        values = [runs.exponents[:, row] for runs in result.runs]
        for size, value in zip(sizes, values):
            ax.plot(np.full(len(value), size), value, "o", color=color, markersize=2.5, alpha=0.5)
        ax.errorbar(
            sizes, [value.mean() for value in values], [value.std() for value in values], color=color, capsize=2
        )
        ax.axhline(result.expected_exponents[row], linestyle="--", color=color, linewidth=0.8)
        ax.text(
            sizes[-1], result.expected_exponents[row], f"g = {gain:g}", color=color, fontsize=7, va="bottom", ha="right"
        )
    ax.margins(y=0.1)
    ax.set(title="e  approach to the theory", xlabel="units N", ylabel=r"$\lambda_1$")
    draw_sizes(ax, sizes)


def draw_sizes(ax: Any, sizes: list[int]) -> None:
    """A logarithmic axis with the sizes as ticks."""
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
