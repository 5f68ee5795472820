"""Low-rank networks: memories from overlap, and flows in latent space (Mastrogiuseppe & Ostojic 2018).

dx/dt = -x + (g J + m n^T / N) tanh(x), with Gaussian J of variance 1 / N. The overlap m.n / N is an eigenvalue beside
the disc of J (F. Schuessler et al. 2020), and from 1 on there are two stable states. Networks of rank one and two that
learn to hold bits are reduced to one and two latent variables, exactly (A. Dubreuil et al. 2022).
"""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._latent_networks import Latent, Training, train_latent
from experiments._mean_field import chaos_border, gaussian_mean, mean_field, slope, structured_kappa
from experiments._runge_kutta import RungeKutta
from experiments._settings import NotNegative, check, check_increasing
from rnndyn import plotting

CAPTION = """Low-rank networks and their theory (Mastrogiuseppe & Ostojic 2018).

dx/dt = -x + (g J + m nᵀ/N) tanh(x) with Gaussian J of variance 1/N and overlap m·n/N. Black lines: theory of
infinitely many units.

- **a** eigenvalues of g J + m nᵀ/N: one network with an overlap (blue; star, theory), and one whose n is correlated
  with J m instead (orange; crosses, theory); circle, radius g.
- **b** the outlier over the overlap (blue) and the real pair over the correlation (orange) in five networks, at the
  gain of **a**; lines, theory; grey, radius g.
- **c** latent variable κ = n·tanh(x)/N of the equilibria over the overlap, in five networks; filled, stable;
  line, theory.
- **d** |κ| of a run averaged over time (colour), over overlap and gain, mean over networks; triangles, largest exponent
  above 0; lines, theory: stationary at 0 (I), stationary and structured (II), chaotic and structured (III), chaotic
  around κ = 0 (IV).
- **e** networks of rank one that hold a bit: change of κ in one step, at zero input; a line for each network; dots,
  fixed points, filled where stable.
- **f** a network of rank two that holds two bits, in its latent plane: flow, nullclines, fixed points with their stable
  and unstable manifolds.
"""


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Everything that decides the result."""

    num_units: int = 300
    num_networks: int = 5
    eigenvalue_gain: float = 0.6
    overlaps: tuple[float, ...] = (0.9, 1.2, 1.5, 1.8, 2.1)
    """Overlaps of the eigenvalues and equilibria."""
    equilibrium_gain: NotNegative = 0.5
    phase_overlaps: tuple[float, ...] = (0.25, 0.75, 1.25, 1.75, 2.25, 2.75)
    phase_gains: tuple[float, ...] = (0.25, 0.75, 1.25, 1.75, 2.25, 2.75)
    transient: float = 50.0
    time: float = 75.0
    dt: float = 0.25

    def __post_init__(self) -> None:
        check(self)
        check_increasing(self, "overlaps", "phase_overlaps", "phase_gains")


SMOKE = Config(
    num_units=12,
    num_networks=1,
    overlaps=(1.5,),
    phase_overlaps=(0.5, 2.0),
    phase_gains=(0.5, 2.0),
    transient=5.0,
    time=10.0,
    trained_units=6,
    trained_networks=1,
    num_updates=4,
    batch_size=4,
    trial_steps=6,
)


class RankOne(eqx.Module):
    """dx/dt = -x + (g J + m n^T / N) tanh(x)."""

    weight: jax.Array | np.ndarray
    left: jax.Array | np.ndarray
    right: jax.Array | np.ndarray
    gain: jax.Array | np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        rates = jnp.tanh(x)
        return -x + self.gain * (self.weight @ rates) + self.left * (self.right @ rates) / x.size


class LowRankTheory(rd.Result):
    """Theory, random networks with a part of rank one, and trained networks.

    - `spectra`: eigenvalues of one network with overlap, and of one with correlation.
    - `outliers`, `pairs`: networks by overlaps: the largest real part, of either kind.
    - `kappas`, `are_stable`: of the equilibria, for each overlap of all networks.
    - `expected_kappas`: the theory on `curve_overlaps`.
    - `phase_kappas`, `phase_exponents`: networks by gains by overlaps.
    - `border_gains`, `chaos_border`, `order_border`: overlaps at which the structured state becomes stationary, and at
      which there is one.
    """

    eigenvalue_gain: float
    equilibrium_gain: float
    overlaps: np.ndarray
    spectra: np.ndarray
    outliers: np.ndarray
    pairs: np.ndarray
    kappas: tuple[np.ndarray, ...]
    are_stable: tuple[np.ndarray, ...]
    expected_kappas: np.ndarray
    curve_overlaps: np.ndarray
    curve_kappas: np.ndarray
    phase_overlaps: np.ndarray
    phase_gains: np.ndarray
    phase_kappas: np.ndarray
    phase_exponents: np.ndarray
    border_gains: np.ndarray
    chaos_border: np.ndarray
    order_border: np.ndarray
    trained: tuple[Latent, ...]


def compute(config: Config) -> LowRankTheory:
    """Eigenvalues, equilibria and runs beside the theory, and trained networks in their latent space."""
    drawn = [draw_parts(config, index) for index in range(config.num_networks)]
    spectra = np.array([[spectra_of(parts, overlap, config) for overlap in config.overlaps] for parts in drawn])
    kappas, are_stable = [], []
    for overlap in config.overlaps:
        found = [equilibria_of(parts, overlap, config) for parts in drawn]
        kappas.append(np.concatenate([kappa for kappa, _ in found]))
        are_stable.append(np.concatenate([stable for _, stable in found]))
    phases = [phase_runs(parts, config) for parts in drawn]
    curve = np.linspace(1, config.overlaps[-1] * 1.05, 60)
    border_gains = np.linspace(1.01, config.phase_gains[-1] * 1.1, 12)
    return LowRankTheory(
        eigenvalue_gain=config.eigenvalue_gain,
        equilibrium_gain=config.equilibrium_gain,
        overlaps=np.array(config.overlaps),
        spectra=spectra[0, -1],
        outliers=np.real(spectra[:, :, 0]).max(axis=-1),
        pairs=np.real(spectra[:, :, 1]).max(axis=-1),
        kappas=tuple(kappas),
        are_stable=tuple(are_stable),
        expected_kappas=np.array([structured_kappa(overlap, config.equilibrium_gain) for overlap in config.overlaps]),
        curve_overlaps=curve,
        curve_kappas=np.array([structured_kappa(overlap, config.equilibrium_gain) for overlap in curve]),
        phase_overlaps=np.array(config.phase_overlaps),
        phase_gains=np.array(config.phase_gains),
        phase_kappas=np.array([kappa for kappa, _ in phases]),
        phase_exponents=np.array([exponents for _, exponents in phases]),
        border_gains=border_gains,
        chaos_border=np.array([chaos_border(gain) for gain in border_gains]),
        order_border=np.array([1 / gaussian_mean(slope, mean_field(gain).variance) for gain in border_gains]),
        trained=tuple(train_latent(rank, config) for rank in (1, 2)),
    )


def draw_parts(config: Config, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """J, and two vectors of mean square 1 that are orthogonal to one another."""
    rng = np.random.default_rng([config.seed, index])
    size = config.num_units
    weight = rng.standard_normal((size, size)) / np.sqrt(size)
    left, rest = rng.standard_normal((2, size))
    left /= np.sqrt(np.mean(left**2))
    rest -= np.mean(rest * left) * left
    return weight, left, rest / np.sqrt(np.mean(rest**2))


def spectra_of(parts: tuple[np.ndarray, ...], strength: float, config: Config) -> np.ndarray:
    """Eigenvalues with n = strength m + a vector across, and with n = strength J m.

    1 = n^T (mu - g J)^-1 m / N gives mu = strength in the first case; in the second n.m / N tends to 0 and
    n^T J m / N to the strength, so that mu^2 = g strength.
    """
    weight, left, rest = parts
    size, gain = len(left), config.eigenvalue_gain
    rights = strength * left + rest, strength * weight @ left
    return np.array([np.linalg.eigvals(gain * weight + np.outer(left, right) / size) for right in rights])


def equilibria_of(parts: tuple[np.ndarray, ...], overlap: float, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The latent variable of all equilibria that are found, and which are stable."""
    weight, left, rest = parts
    right = overlap * left + rest
    field = RankOne(weight, left, right, np.asarray(config.equilibrium_gain))
    # From the state 0 and from either side; further rounds search for what chance starts find, at this size for long.
    starts = np.linspace(-2, 2, 3)[:, None] * left
    found = rd.find_equilibria(field, starts, max_rounds=1, progress=False)
    return np.tanh(found.points) @ right / len(left), found.is_stable


def phase_runs(parts: tuple[np.ndarray, ...], config: Config) -> tuple[np.ndarray, np.ndarray]:
    """|kappa| averaged over time and the largest exponent, gains by overlaps."""
    weight, left, rest = (jnp.asarray(part, jnp.float32) for part in parts)
    return jax.device_get(_phase_runs(weight, left, rest, config))


@partial(jax.jit, static_argnames="config")
def _phase_runs(weight: jax.Array, left: jax.Array, rest: jax.Array, config: Config) -> tuple[jax.Array, jax.Array]:
    # All gains and overlaps of a network share J, so that a step of them is one product of matrices.
    def run(gain: jax.Array, overlap: jax.Array) -> tuple[jax.Array, jax.Array]:
        right = overlap * left + rest
        advance = RungeKutta(RankOne(weight, left, right, gain), config.dt)
        num_transient = round(config.transient / config.dt)

        # One direction in the tangent space is all that is needed, and that is one scan to compile.
        def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            x, direction = carry
            x_next, pushed = jax.jvp(advance, (x,), (direction,))
            size = jnp.linalg.norm(pushed)
            return (x_next, pushed / size), jnp.stack([jnp.tanh(x) @ right / left.size, jnp.log(size) / config.dt])

        # Near the structured state, if there is one; else it is left.
        start = (left + rest, rest / jnp.linalg.norm(rest))
        course = jax.lax.scan(step, start, length=num_transient + round(config.time / config.dt))[1][num_transient:]
        kappa, exponent = course.mean(axis=0)
        return jnp.abs(kappa), exponent

    overlaps = jnp.asarray(config.phase_overlaps, weight.dtype)
    gains = jnp.asarray(config.phase_gains, weight.dtype)
    return jax.vmap(lambda gain: jax.vmap(lambda overlap: run(gain, overlap))(overlaps))(gains)


def report(result: LowRankTheory) -> str:
    """Outliers, latent variables and fixed points beside the theory."""
    gain = result.eigenvalue_gain
    lines = [
        f"outliers at g = {gain:g}, mean +- sd over {len(result.outliers)} networks, beside theory of N = infinity:",
        "the overlap itself, and sqrt(g c) for n = c J m (by resummation, as in Schuessler et al. 2020)",
        "overlap, c   outlier             theory   pair                theory",
    ]
    for column, overlap in enumerate(result.overlaps):
        outlier, pair = result.outliers[:, column], result.pairs[:, column]
        lines.append(
            f"{overlap:10.2f}   {outlier.mean():6.3f} +- {outlier.std():5.3f}   {overlap:8.3f}   "
            f"{pair.mean():6.3f} +- {pair.std():5.3f}   {max(np.sqrt(gain * overlap), gain):8.3f}"
        )
    lines.append(
        f"equilibria at g = {result.equilibrium_gain:g}: |kappa| of the stable ones other than 0, and the theory"
    )
    for overlap, kappa, stable, expected in zip(
        result.overlaps, result.kappas, result.are_stable, result.expected_kappas
    ):
        sizes = np.abs(kappa[stable])
        told = f"{sizes.mean():.3f} +- {sizes.std():.3f}" if len(sizes) else "none"
        lines.append(f"{overlap:10.2f}   {told}   {expected:.3f}   ({len(kappa)} equilibria, {stable.sum()} stable)")
    lines.append("runs: |kappa| over gain (rows) and overlap, mean over networks; * chaotic in most of them, and in")
    lines.append("brackets the theory where the structured state is stationary")
    lines.append("     g   " + " ".join(f"{overlap:14.2f} " for overlap in result.phase_overlaps))
    for row, phase_gain in enumerate(result.phase_gains):
        cells = []
        for column, overlap in enumerate(result.phase_overlaps):
            value = result.phase_kappas[:, row, column].mean()
            chaotic = np.mean(result.phase_exponents[:, row, column] > 0) > 0.5
            stationary = overlap > 1 and (phase_gain <= 1 or overlap > chaos_border(phase_gain))
            theory = f"({structured_kappa(overlap, phase_gain):5.3f})" if stationary else " " * 7
            cells.append(f"{value:6.3f}{'*' if chaotic else ' '}{theory}")
        lines.append(f"{phase_gain:6.2f}   " + " ".join(cells))
    for latent in result.trained:
        counts = ", ".join(f"{len(points)} ({points.is_stable.sum()} stable)" for points in latent.points)
        lines += [
            f"rank {latent.rank}, as many bits: validation MSE {latent.losses.min():.4f} to {latent.losses.max():.4f}",
            f"  fixed points of the latent map (ideal {3**latent.rank}, {2**latent.rank} stable): {counts}",
            f"  lifted to the network: residuals, and characteristic polynomials apart, {latent.defect:.1e} at most",
        ]
    return "\n".join(lines)


def plot(result: LowRankTheory) -> Figure:
    """Eigenvalues, memories, phases, and trained networks in their latent space."""
    figure, axes = plt.subplots(2, 3, figsize=(plotting.PAGE_WIDTH, 4.6))
    draw_eigenvalues(axes[0, 0], result)
    draw_outliers(axes[0, 1], result)
    draw_memories(axes[0, 2], result)
    draw_phases(axes[1, 0], result)
    one, two = result.trained
    draw_line(axes[1, 1], one)
    latent = rd.latent_map(rd.LowRankCell.from_weights(np.zeros((len(two.bias), 0)), two.left, two.right, two.bias))
    reach = 1.3 * np.max(np.abs(two.points[0].points), axis=0, initial=1e-2)
    plotting.plot_phase_portrait(latent, -reach, reach, fixed_points=two.points[0], num_arrows=13, ax=axes[1, 2])
    axes[1, 2].set(title="f  rank two, two bits", xlabel=r"$\kappa_1$", ylabel=r"$\kappa_2$")
    return figure


def draw_eigenvalues(ax: Any, result: LowRankTheory) -> None:
    """The disc and what lies beside it, of one network of each kind."""
    gain, strength = result.eigenvalue_gain, result.overlaps[-1]
    circle = gain * np.exp(2j * np.pi * np.linspace(0, 1, 200))
    ax.plot(circle.real, circle.imag, color=plotting.COLORS["black"], linewidth=0.8)
    for values, color, size in zip(result.spectra, ("blue", "orange"), (3.2, 1.4)):
        ax.plot(values.real, values.imag, "o", color=plotting.COLORS[color], markersize=size, markeredgewidth=0)
    ax.plot(strength, 0, "*", color="black", markersize=8, markerfacecolor="none", markeredgewidth=0.8)
    root = np.sqrt(gain * strength)
    ax.plot([-root, root], [0, 0], "x", color="black", markersize=7, markeredgewidth=0.8)
    ax.set(title="a  eigenvalues", xlabel="real part", ylabel="imaginary part")
    ax.margins(0.1)
    ax.set_aspect("equal", adjustable="datalim")


def draw_outliers(ax: Any, result: LowRankTheory) -> None:
    """Outliers over the strength of the part of rank one."""
    gain = result.eigenvalue_gain
    for values, color, label in zip((result.outliers, result.pairs), ("blue", "orange"), ("overlap", "correlation")):
        for of_network in values:
            ax.plot(result.overlaps, of_network, "o", color=plotting.COLORS[color], markersize=3, label=label)
            label = None
    strengths = np.linspace(result.overlaps[0] * 0.9, result.overlaps[-1] * 1.05, 50)
    ax.plot(strengths, strengths, color="black", linewidth=0.8)
    ax.plot(strengths, np.sqrt(gain * strengths), color="black", linewidth=0.8)
    ax.axhline(gain, color=plotting.COLORS["grey"], linewidth=0.8)
    ax.set(title="b  outliers", xlabel="overlap, or correlation", ylabel="largest real part")
    ax.legend(loc="upper left")


def draw_memories(ax: Any, result: LowRankTheory) -> None:
    """Equilibria over the overlap."""
    ax.plot(result.curve_overlaps, result.curve_kappas, color="black", linewidth=0.8)
    ax.plot(result.curve_overlaps, -result.curve_kappas, color="black", linewidth=0.8)
    ax.axhline(0, color="black", linewidth=0.8)
    for overlap, kappa, stable in zip(result.overlaps, result.kappas, result.are_stable):
        for value, fill in zip(kappa, stable):
            face = plotting.COLORS["blue"] if fill else "white"
            ax.plot(overlap, value, "o", color=plotting.COLORS["blue"], markerfacecolor=face, markersize=3.5)
    ax.set(title=f"c  memories, g = {result.equilibrium_gain:g}", xlabel="overlap", ylabel=r"$\kappa$")


def draw_phases(ax: Any, result: LowRankTheory) -> None:
    """Latent variable and chaos of runs, and the borders of the theory."""
    overlaps, gains = np.meshgrid(result.phase_overlaps, result.phase_gains)
    kappas, exponents = result.phase_kappas.mean(axis=0), result.phase_exponents.mean(axis=0)
    for chosen, marker in ((exponents <= 0, "o"), (exponents > 0, "^")):
        image = ax.scatter(
            overlaps[chosen],
            gains[chosen],
            c=kappas[chosen],
            vmin=0,
            vmax=kappas.max(),
            marker=marker,
            s=22,
            edgecolor="black",
            linewidth=0.4,
        )
    ax.plot([1, 1], [0, 1], color="black")
    ax.plot([0, 1], [1, 1], color="black")
    for border in (result.order_border, result.chaos_border):
        ax.plot([1, *border], [1, *result.border_gains], color="black")
    limits = result.phase_overlaps[-1] * 1.1, result.phase_gains[-1] * 1.1
    ax.set(title="d  phases", xlabel="overlap", ylabel="gain g", xlim=(0, limits[0]), ylim=(0, limits[1]))
    for name, place in (("I", (0.5, 0.5)), ("II", (2.0, 0.5)), ("III", (2.5, 2.0)), ("IV", (0.5, 2.0))):
        ax.text(*place, name, fontweight="bold", ha="center", va="center")
    ax.figure.colorbar(image, ax=ax, label=r"mean $|\kappa|$", shrink=0.9)


def draw_line(ax: Any, latent: Latent) -> None:
    """The change of the one latent variable, and its fixed points."""
    color = plotting.COLORS["blue"]
    for grid, change, points in zip(latent.grid, latent.changes, latent.points):
        # Which sign is which, and its scale, are free: latent variables in units of the largest fixed point.
        scale = np.max(np.abs(points.points), initial=1e-9)
        shown = np.abs(grid / scale) <= 1.5
        ax.plot(grid[shown] / scale, change[shown] / scale, color=color, linewidth=0.8)
        for point, stable in zip(points.points[:, 0] / scale, points.is_stable):
            ax.plot(point, 0, "o", color=color, markerfacecolor=color if stable else "white", markersize=4)
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set(title="e  rank one, one bit", xlabel=r"$\kappa$ / largest fixed point", ylabel=r"$\Delta\kappa$ per step")
