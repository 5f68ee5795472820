"""Lyapunov spectra of random networks: extensive chaos that dies of its own strength (Engelken, Wolf & Abbott 2023).

x' = W tanh(x) with Gaussian weights of gain g. Spectra of networks of different size fall on one curve; the attractor
dimension rises with g and falls again, as saturated units take directions away; the largest exponent tends to its
mean-field value as N grows.
"""

import dataclasses
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import root_scalar

import rnndyn as rd
from experiments._mean_field import gaussian_mean, slope
from experiments._settings import Inside, check, check_same_length
from rnndyn import plotting

CAPTION = """Extensive chaos in random networks (Engelken, Wolf & Abbott 2023).

x' = W tanh(x) with Gaussian weights of gain g.

- **a** mean spectra of five networks over the index as a fraction of N, a colour for each gain; solid and dotted, two
  sizes that fall on one another.
- **b** largest exponent over the gain for two sizes: dots, five networks; lines, means; dashed, mean-field theory;
  grey, zero.
- **c** Kaplan-Yorke dimension as a fraction of N, the same colours: it rises, then falls again.
- **d** largest exponent over 1 / N at two gains, means of five networks with standard errors; stars, the mean-field
  values.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result.

    Larger networks, in four minutes of one core: `--sizes 100 200 --num-steps 600 150 --num-seeds 5`.
    """

    gains: tuple[float, ...] = (1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
    sizes: tuple[int, ...] = (50, 100)
    num_steps: tuple[int, ...] = (600, 300)
    """For each size, after a transient of a third of it."""
    num_seeds: int = 5
    mean_field_gains: tuple[float, ...] = (1.5, 3.0)
    mean_field_sizes: tuple[int, ...] = (50, 100, 200, 400, 800)
    shared_size: int = 200
    """Networks up to this size share a compilation, in which the small ones are as costly as this one."""
    mean_field_steps: int = 600
    mean_field_seeds: int = 5
    euler_dt: Inside = 0.1
    euler_gain: float = 4.0

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "sizes", "num_steps")


SMOKE = Config(
    gains=(1.5, 4.0),
    sizes=(8, 8),
    num_steps=(90, 90),
    num_seeds=2,
    mean_field_sizes=(8, 12),
    mean_field_steps=60,
    mean_field_seeds=2,
)


class Network(eqx.Module):
    """x' = (1 - dt) x + dt W tanh(x); dt = 1 is the map x' = W tanh(x)."""

    weight: jax.Array
    dt: float = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        return (1 - self.dt) * x + self.dt * (self.weight @ jnp.tanh(x))


class Spectra(rd.Result):
    """All spectra of the study.

    - `sweeps`: for each size, the spectra over gain and seed.
    - `largest`: the largest exponents of the mean-field comparison over size, gain and seed, in groups of sizes.
    - `mean_field`: the largest exponent in the limit of large networks, for each of those gains.
    - `euler_mean`, `euler_expected`: mean exponent of the discretised flow, and ln(1 - dt) / dt.
    """

    sizes: tuple[int, ...]
    sweeps: tuple[rd.LyapunovSweep, ...]
    largest: tuple[rd.LyapunovSweep, ...]
    mean_field: np.ndarray
    curve_gains: np.ndarray
    curve: np.ndarray
    euler_mean: float
    euler_expected: float
    euler_defect: float

    @property
    def largest_sizes(self) -> np.ndarray:
        return np.concatenate([sweep.axis_values["size"] for sweep in self.largest])

    @property
    def largest_exponents(self) -> np.ndarray:
        """(size, gain, seed)."""
        return np.concatenate([sweep.exponents[..., 0] for sweep in self.largest])


def build(size: int, gain: jax.Array, seed: jax.Array) -> tuple[Network, jax.Array]:
    """One network and its initial state."""
    weight_key, state_key = jax.random.split(jax.random.key(seed))
    weight = gain * jax.random.normal(weight_key, (size, size)) / jnp.sqrt(size)
    return Network(weight), jax.random.normal(state_key, (size,))


@cache
def builder(size: int) -> partial[tuple[Network, jax.Array]]:
    """`build` of this size: the same object whenever it is asked for, so that equal sizes share a compilation."""
    return partial(build, size)


def build_among(drawn: int, kept: int, size: jax.Array, gain: jax.Array, seed: jax.Array) -> tuple[Network, jax.Array]:
    """The first `size` of `drawn` units, which see one another alone; more up to `kept` stay at 0.

    Networks of several sizes then share one compilation, which takes longer than their steps.
    """
    network, x0 = build(drawn, gain, seed)
    inside = jnp.arange(kept) < size
    weight = jnp.where(inside[:, None] & inside, network.weight[:kept, :kept] * jnp.sqrt(drawn / size), 0)
    return Network(weight), jnp.where(inside, x0[:kept], 0)


def compute(config: Config) -> Spectra:
    """Sweeps over gain and seed, the approach to the mean field, and the discretised flow."""
    axes = {"gain": np.array(config.gains), "seed": np.arange(config.num_seeds)}
    sweeps = tuple(
        rd.lyapunov_sweep(builder(size), axes, steps, num_transient=steps // 3)
        for size, steps in zip(config.sizes, config.num_steps)
    )
    largest = tuple(largest_exponents(sizes, config) for sizes in groups(config))
    curve_gains = np.linspace(1.05, max(config.gains), 60)
    euler = discretised_flow(config)
    return Spectra(
        sizes=config.sizes,
        sweeps=sweeps,
        largest=largest,
        mean_field=np.array([mean_field_exponent(gain) for gain in config.mean_field_gains]),
        curve_gains=curve_gains,
        curve=np.array([mean_field_exponent(gain) for gain in curve_gains]),
        euler_mean=float(euler.sum / config.sizes[0]),
        euler_expected=float(np.log(1 - config.euler_dt) / config.euler_dt),
        euler_defect=float(euler.sum_rule_defect),
    )


def groups(config: Config) -> list[list[int]]:
    """The sizes of the mean-field comparison, those together that share a compilation."""
    small = [size for size in config.mean_field_sizes if size <= config.shared_size]
    return [*([small] if small else []), *([size] for size in config.mean_field_sizes if size > config.shared_size)]


def largest_exponents(sizes: list[int], config: Config) -> rd.LyapunovSweep:
    """The largest exponents of networks of some sizes, at every gain and seed."""
    axes = {
        "size": np.array(sizes),
        "gain": np.array(config.mean_field_gains),
        "seed": np.arange(config.mean_field_seeds),
    }
    steps = config.mean_field_steps
    among = partial(build_among, max(config.mean_field_sizes), max(sizes))
    return rd.lyapunov_sweep(among, axes, steps, num_transient=steps // 3, num_exponents=1)


def discretised_flow(config: Config) -> rd.LyapunovSpectrum:
    """The spectrum of the Euler-discretised flow dx/dt = -x + W tanh(x), without self-connections."""
    with jax.enable_x64(True):
        network, x0 = build(config.sizes[0], jnp.asarray(config.euler_gain), jnp.asarray(0))
        network = Network(network.weight * (1 - jnp.eye(config.sizes[0])), config.euler_dt)
        steps = config.num_steps[0]
        return jax.device_get(rd.lyapunov_spectrum(network, x0, steps, num_transient=steps // 3, dt=config.euler_dt))


def mean_field_exponent(gain: float) -> float:
    """The largest exponent of x' = W tanh(x) as N grows (Molgedey, Schuchhardt & Schuster 1992).

    q = g^2 <tanh^2(sqrt(q) z)>,  lambda_1 = ln(g^2 <sech^4(sqrt(q) z)>) / 2, with z Gaussian.
    """
    # Over q, which takes the solution q = 0 away, this falls from g^2 - 1 to below 0.
    excess = lambda q: gain**2 * gaussian_mean(lambda x: np.tanh(x) ** 2, q) / q - 1
    q = root_scalar(excess, bracket=(1e-9, gain**2), xtol=1e-15, rtol=1e-14).root
    return float(0.5 * np.log(gain**2 * gaussian_mean(lambda x: slope(x) ** 2, q)))


def report(result: Spectra) -> str:
    """Exponents and dimensions over networks, beside the theory of large N where there is one."""
    lines = ["   N     g   lambda_1 (mean +- sd over networks)  mean field   dimension (mean +- sd)   sum rule defect"]
    for size, sweep in zip(result.sizes, result.sweeps):
        for row, gain in enumerate(sweep.axis_values["gain"]):
            first, dimension = sweep.exponents[row, :, 0], sweep.kaplan_yorke_dimension[row]
            lines.append(
                f"{size:4d}  {gain:4.1f}   {first.mean():7.3f} +- {first.std():.3f}{mean_field_exponent(gain):28.3f}"
                f"   {dimension.mean():8.1f} +- {dimension.std():4.1f}"
                f"   {np.max(np.abs(sweep.sum_rule_defect[row])):18.1e}"
            )
    lines.append("largest exponent as N grows (mean field: Molgedey, Schuchhardt & Schuster 1992, solved here):")
    gains = result.largest[0].axis_values["gain"]
    for size, exponents in zip(result.largest_sizes, result.largest_exponents):
        values = "   ".join(f"g = {gain:.1f}: {of_gain.mean():.4f}" for gain, of_gain in zip(gains, exponents))
        lines.append(f"  N = {size:4d}   {values}")
    lines.append("  mean field " + "   ".join(f"{value:14.4f}" for value in result.mean_field))
    lines.append(
        f"mean exponent of the discretised flow {result.euler_mean:.4f}, ln(1 - dt) / dt = {result.euler_expected:.4f}"
        f" (sum rule defect {result.euler_defect:.1e})"
    )
    return "\n".join(lines)


def plot(result: Spectra) -> Figure:
    """Spectra on one curve, exponent and dimension against gain, and the approach to the mean field."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.2), width_ratios=[1.2, 1, 1, 1])
    draw_spectra(axes[0], result)
    for size, sweep, color in zip(result.sizes, result.sweeps, ("blue", "orange")):
        plotting.plot_exponents_against(sweep, "gain", color=plotting.COLORS[color], label=f"N = {size}", ax=axes[1])
        dimension = sweep.kaplan_yorke_dimension / size
        gains = sweep.axis_values["gain"]
        axes[2].plot(
            np.repeat(gains, dimension.shape[1]),
            dimension.ravel(),
            "o",
            color=plotting.COLORS[color],
            markersize=2.5,
            alpha=0.5,
        )
        axes[2].plot(gains, dimension.mean(axis=1), color=plotting.COLORS[color])
    axes[1].plot(result.curve_gains, result.curve, "--", color="black", linewidth=0.8, label="mean field")
    axes[1].set(title="b  largest exponent", xlabel="gain g", ylabel=r"$\lambda_1$ (nats per step)")
    axes[1].set_ylim(top=1.75 * axes[1].get_ylim()[1])
    axes[1].legend(loc="upper left", borderaxespad=0.2, handlelength=1.2)
    axes[2].set(title="c  dimension", xlabel="gain g", ylabel=r"$D_{KY} / N$")
    draw_limit(axes[3], result)
    return figure


def draw_spectra(ax: Any, result: Spectra) -> None:
    """Spectra of both sizes against i / N: one curve for each gain."""
    gains = result.sweeps[0].axis_values["gain"]
    shown = np.unique(np.linspace(0, len(gains) - 1, 4).round().astype(int))
    for row, color in zip(shown, ("sky", "blue", "purple", "orange")):
        for sweep, style in zip(result.sweeps, ("-", ":")):
            mean = sweep.exponents[row].mean(axis=0)
            ax.plot(
                np.arange(1, len(mean) + 1) / len(mean),
                mean,
                style,
                color=plotting.COLORS[color],
                label=f"g = {gains[row]:g}" if style == "-" else None,
            )
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6)
    ax.set(title="a  spectra", xlabel="i / N", ylabel=r"$\lambda_i$ (nats per step)", ylim=(-6, 3.4))
    ax.legend(loc="upper right", ncol=2, handlelength=1, columnspacing=0.8)


def draw_limit(ax: Any, result: Spectra) -> None:
    """The largest exponent against 1 / N, and the mean-field value at 0."""
    inverse = 1 / result.largest_sizes
    for row, color in zip(range(len(result.mean_field)), ("blue", "orange")):
        values = result.largest_exponents[:, row]
        gain = result.largest[0].axis_values["gain"][row]
        ax.errorbar(
            inverse,
            values.mean(axis=1),
            values.std(axis=1) / np.sqrt(values.shape[1]),
            fmt="o-",
            markersize=3,
            color=plotting.COLORS[color],
            label=f"g = {gain:g}",
            capsize=2,
        )
        theory = "mean field" if row == 0 else None
        ax.plot(0, result.mean_field[row], "*", color="black", markersize=7, clip_on=False, zorder=5, label=theory)
    ax.set(title="d  large N", xlabel="1 / N", ylabel=r"$\lambda_1$")
    ax.legend()
