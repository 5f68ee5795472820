"""A ring attractor integrates velocity; perturbed, it is a slow ring with few fixed points (Sagodi et al. 2024).

dx/dt = -x + W tanh(x) with W_ij = (2 J / N) cos(theta_i - theta_j) has a ring of equilibria, one for each heading. A
velocity input turns the bump at just that velocity. Noise makes it diffuse. Any perturbation of the weights leaves a
few fixed points of the ring or none, but while it is small the ring persists as an invariant circle on which all is
slow (N. Fenichel 1971), so that memory fails at a rate which is linear in the perturbation.
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
from experiments._ring import Perturbed, Ring, heading, null_vectors, perturb, ring_radius, turns
from experiments._runge_kutta import RungeKutta
from experiments._settings import Seed, check, check_increasing
from rnndyn import plotting

CAPTION = """A ring attractor, and what perturbations leave of it (Sagodi et al. 2024).

dx/dt = -x + W tanh(x) with cosine weights W; one unit of time is the time constant of a unit.

- **a** real parts of the leading eigenvalues at equilibria along the ring: along it (blue), across it (orange), and the
  others (grey); filled, exact weights; hollow, one perturbed network at its fixed points.
- **b** heading that is read out (colours: size of the perturbation) and integral of the velocity input (dashed).
- **c** mean square angle of noisy runs over time; dashed, theory.
- **d** drift along the ring of one perturbed network, and its theory of first order (dashed); dots, fixed
  points on the ring, filled where stable.
- **e** largest speed along the ring over the size of random perturbations; dots, networks, five of each size; dashed,
  theory of first order, median.
- **f** fixed points found on the ring over the size of perturbations, networks side by side. Dots, what fits a circle:
  as many stable ones as saddles, or none and a drift one way round; crosses, what does not.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 40
    strength: float = 2.0
    """J, above 1: the ring then has a radius above 0."""
    sizes: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Of perturbations: the spectral radius of the random weights that are added, for many units."""
    num_networks: int = 5
    shown: float = 0.03
    """The perturbation of the panels that show one network."""
    num_angles: int = 384
    """Starts along the ring: fixed points may lie close together, soon after they arose in pairs."""
    relaxation: float = 15.0
    """Time after which starts have come to the ring."""
    noise: float = 0.1
    """Of each unit, per square root of time."""
    num_noisy: int = 200
    noisy_time: float = 100.0
    dt: float = 0.1
    integration_time: float = 100.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_increasing(self, "sizes")
        if self.strength <= 1:
            raise ValueError(f"strength: got {self.strength}; allowed is a number above 1, or there is no ring.")
        if self.shown not in self.sizes:
            raise ValueError(f"shown: got {self.shown}; allowed is one of sizes, {self.sizes}.")


SMOKE = Config(
    num_units=8,
    sizes=(0.03, 1.0),
    num_networks=1,
    num_angles=8,
    relaxation=3.0,
    num_noisy=4,
    noisy_time=5.0,
    integration_time=5.0,
)


class RingAttractor(rd.Result):
    """The exact ring, its integration and diffusion, and perturbed networks.

    - `defect`: how fast the exact ring moves anywhere on it, at most.
    - `ring_angles`, `ring_eigenvalues`: equilibria along the ring.
    - `integral`, `headings`: of the velocity input, and what networks read out, for `shown_sizes` of perturbations.
    - `spreads`, `spread_stderr`: mean square angle of noisy runs; `diffusion`: its slope by theory.
    """

    radius: float
    defect: float
    ring_angles: np.ndarray
    ring_eigenvalues: np.ndarray
    times: np.ndarray
    integral: np.ndarray
    shown_sizes: np.ndarray
    headings: np.ndarray
    spreads: np.ndarray
    spread_stderr: np.ndarray
    diffusion: float
    shown: float
    perturbed: tuple[Perturbed, ...]


def compute(config: Config) -> RingAttractor:
    """The exact ring, what it does with velocity and noise, and perturbed networks."""
    with jax.enable_x64(True):
        angles = 2 * np.pi * np.arange(config.num_units) / config.num_units
        apart = angles[:, None] - angles
        scale = 2 * config.strength / config.num_units
        ring = Ring(jnp.asarray(scale * np.cos(apart)), jnp.asarray(scale * np.sin(apart)))
        radius = ring_radius(config.strength, angles)
        ring_angles = 2 * np.pi * np.arange(config.num_angles) / config.num_angles
        states = radius * np.cos(angles - ring_angles[:, None])
        jacobians = np.asarray(jax.jit(jax.vmap(jax.jacfwd(ring)))(states))
        noises = [
            np.random.default_rng([config.seed, index]).standard_normal((config.num_units,) * 2)
            / np.sqrt(config.num_units)
            for index in range(config.num_networks)
        ]
        shown_sizes = np.array([0, config.shown, config.sizes[-2 if len(config.sizes) > 2 else -1]])
        networks = [Ring(ring.weight + size * noises[0], ring.turn) for size in shown_sizes]
        velocities = random_velocities(config)
        spreads, stderr = diffuse(ring, states[0], config)
        return RingAttractor(
            radius=radius,
            defect=float(np.max(np.abs(jax.vmap(ring)(jnp.asarray(states))))),
            ring_angles=ring_angles,
            ring_eigenvalues=np.array([np.sort(np.linalg.eigvals(one).real)[::-1] for one in jacobians]),
            times=np.arange(1, len(velocities) + 1) * config.dt,
            integral=np.cumsum(velocities) * config.dt,
            shown_sizes=shown_sizes,
            headings=np.array([np.unwrap(integrate(network, states[0], velocities, config)) for network in networks]),
            spreads=spreads,
            spread_stderr=stderr,
            # Of each unit comes noise^2 dt, and of the noise of all units the part along the left null vector.
            diffusion=float(config.noise**2 * np.sum(null_vectors(states[:1], angles, ring_angles[:1]) ** 2)),
            shown=config.shown,
            perturbed=tuple(
                perturb(ring, size, noise, states, ring_angles, config.relaxation, config.dt)
                for size in config.sizes
                for noise in noises
            ),
        )


def random_velocities(config: Config) -> np.ndarray:
    """Velocities of standard deviation 1/2 and correlation time 5, one for each step."""
    rng = np.random.default_rng([config.seed, 1000])
    keep = np.exp(-config.dt / 5)
    velocity = np.zeros(round(config.integration_time / config.dt))
    for step in range(1, len(velocity)):
        velocity[step] = keep * velocity[step - 1] + np.sqrt(1 - keep**2) * 0.5 * rng.standard_normal()
    return velocity


@eqx.filter_jit
def integrate(network: Ring, x0: Any, velocities: Any, config: Config) -> jax.Array:
    """The heading of a network that is turned at these velocities."""
    return jax.vmap(heading)(rd.trajectory(RungeKutta(network, config.dt), x0, len(velocities), inputs=velocities))


def diffuse(ring: Ring, x0: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Mean square angle of noisy runs over time, and its standard error."""
    size, steps = config.num_units, round(config.noisy_time / config.dt)
    # Its private noise is sqrt(2 dt) times its parameter in each step.
    cell = rd.LeakyCell.from_weights(
        np.zeros((size, 0)),
        np.asarray(ring.weight),
        np.zeros(size),
        dt=config.dt,
        tau=1.0,
        state_variable="current",
        noise=config.noise / np.sqrt(2),
    )
    run = lambda key: jax.vmap(heading)(rd.unroll(cell, jnp.zeros((steps, 0)), state=jnp.asarray(x0), key=key))
    headings = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(config.seed), config.num_noisy)))
    squares = np.unwrap(headings, axis=1) ** 2
    return squares.mean(axis=0), squares.std(axis=0) / np.sqrt(config.num_noisy)


def report(result: RingAttractor) -> str:
    """The ring beside its closed forms, and what perturbations leave of it."""
    rates = result.ring_eigenvalues
    last = len(result.spreads) - 1
    times = (result.times[1] - result.times[0]) * (last + 1)
    lines = [
        f"exact ring of radius {result.radius:.4f}: speed on it at most {result.defect:.1e}; eigenvalues along it "
        f"0 within {np.max(np.abs(rates[:, 0])):.1e},",
        f"  across it {rates[:, 1].max():.4f}, all others -1 (within {np.max(np.abs(rates[:, 2:] + 1)):.1e})",
        f"velocity input: heading and integral differ by at most "
        f"{np.max(np.abs(result.headings[0] - result.integral)):.1e} rad in {result.times[-1]:.0f} time constants; "
        + ", ".join(
            f"{np.max(np.abs(heads - result.integral)):.2f} rad with perturbation {size:g}"
            for size, heads in zip(result.shown_sizes[1:], result.headings[1:])
        ),
        f"noise: mean square angle after {times:.0f} time constants {result.spreads[-1]:.4f} +- "
        f"{result.spread_stderr[-1]:.4f}, theory {result.diffusion * times:.4f}",
        "random weights of spectral radius e added: largest speed, median of the networks, and theory of first order;",
        "for each network the changes of sign of the drift along the ring, by the theory and as measured, and fixed",
        "points found, stable/saddles/others (what lies close together by the first order may be gone by the second):",
        "      e     speed    theory   signs: theory, measured; points found",
    ]
    for size in dict.fromkeys(one.size for one in result.perturbed):
        group = [one for one in result.perturbed if one.size == size]
        counts = "   ".join(
            f"{np.sum(turns(one.expected))}, {np.sum(turns(one.drifts))}; {np.sum(one.num_unstable == 0)}/"
            f"{np.sum(one.num_unstable == 1)}/{np.sum(one.num_unstable > 1)}"
            for one in group
        )
        measured = np.median([np.max(np.abs(one.drifts)) for one in group])
        expected = np.median([np.max(np.abs(one.expected)) for one in group])
        lines.append(f"{size:7.3f}   {measured:7.5f}   {expected:7.5f}   {counts}")
    return "\n".join(lines)


def plot(result: RingAttractor) -> Figure:
    """The exact ring, integration and diffusion, and perturbations."""
    figure, axes = plt.subplots(2, 3, figsize=(plotting.PAGE_WIDTH, 4.4))
    shown = next(one for one in result.perturbed if one.size == result.shown)
    draw_eigenvalues(axes[0, 0], result, shown)
    colors = [plotting.COLORS[name] for name in ("blue", "green", "orange")]
    for size, heads, color in zip(result.shown_sizes, result.headings, colors):
        axes[0, 1].plot(result.times, heads, color=color, label=f"e = {size:g}")
    axes[0, 1].plot(result.times, result.integral, "--", color="black", linewidth=0.8)
    axes[0, 1].set(title="b  path integration", xlabel="time", ylabel="heading (rad)")
    axes[0, 1].legend()
    times = np.arange(1, len(result.spreads) + 1) * (result.times[1] - result.times[0])
    axes[0, 2].fill_between(
        times,
        result.spreads - 2 * result.spread_stderr,
        result.spreads + 2 * result.spread_stderr,
        color=plotting.COLORS["blue"],
        alpha=0.25,
        linewidth=0,
    )
    axes[0, 2].plot(times, result.spreads, color=plotting.COLORS["blue"], label=r"runs ($\pm$ 2 s.e.)")
    axes[0, 2].plot(times, result.diffusion * times, "--", color="black", linewidth=0.8, label="theory")
    axes[0, 2].set(title="c  diffusion", xlabel="time", ylabel=r"mean square angle (rad$^2$)")
    axes[0, 2].legend()
    draw_drift(axes[1, 0], result, shown)
    draw_speeds(axes[1, 1], result)
    draw_counts(axes[1, 2], result)
    return figure


def draw_eigenvalues(ax: Any, result: RingAttractor, shown: Perturbed) -> None:
    """Real parts of eigenvalues along the ring, exact and perturbed."""
    names = ("blue", "orange", "grey", "grey")
    for column, name in enumerate(names[: shown.eigenvalues.shape[1]]):
        color = plotting.COLORS[name]
        ax.plot(result.ring_angles, result.ring_eigenvalues[:, column], ".", color=color, markersize=2.5)
        ax.plot(
            shown.point_angles, shown.eigenvalues[:, column], "o", color=color, markerfacecolor="white", markersize=4
        )
    ax.set(title="a  eigenvalues on the ring", xlabel="heading (rad)", ylabel="real part (per time constant)")
    ax.set_xticks([0, np.pi, 2 * np.pi], ["0", r"$\pi$", r"2$\pi$"])


def draw_drift(ax: Any, result: RingAttractor, shown: Perturbed) -> None:
    """Drift along the ring of one perturbed network."""
    ax.plot(result.ring_angles, shown.expected, "--", color="black", linewidth=0.8, label="first order")
    ax.plot(shown.angles, shown.drifts, "-", color=plotting.COLORS["green"], label="network")
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    for angle, number in zip(shown.point_angles, shown.num_unstable):
        face = plotting.COLORS["green"] if number == 0 else "white"
        ax.plot(angle, 0, "o", color=plotting.COLORS["green"], markerfacecolor=face, markersize=4.5)
    ax.set(title=f"d  drift, e = {shown.size:g}", xlabel="heading (rad)", ylabel="speed (rad per time)")
    ax.set_xticks([0, np.pi, 2 * np.pi], ["0", r"$\pi$", r"2$\pi$"])
    # Room for the legend above the lines.
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))
    ax.legend(loc="upper center", ncol=2)


def draw_speeds(ax: Any, result: RingAttractor) -> None:
    """The largest speed along the ring over the size of the perturbation."""
    sizes = np.array([one.size for one in result.perturbed])
    ax.plot(
        sizes,
        [np.max(np.abs(one.drifts)) for one in result.perturbed],
        "o",
        color=plotting.COLORS["green"],
        markersize=3,
    )
    expected = np.array([np.max(np.abs(one.expected)) for one in result.perturbed])
    groups = np.unique(sizes)
    ax.plot(groups, [np.median(expected[sizes == size]) for size in groups], "--", color="black", linewidth=0.8)
    ax.set(title="e  drift of the memory", xlabel="size e of the perturbation", ylabel="largest speed (rad per time)")
    ax.set(xscale="log", yscale="log")


def draw_counts(ax: Any, result: RingAttractor) -> None:
    """Fixed points on the ring over the size of the perturbation."""
    groups = list(dict.fromkeys(one.size for one in result.perturbed))
    for size in groups:
        group = [one for one in result.perturbed if one.size == size]
        # Side by side, so that equal counts do not cover one another.
        for one, shift in zip(group, np.linspace(-0.3, 0.3, len(group)) if len(group) > 1 else [0]):
            marker, color = ("o", "green") if one.persists else ("x", "orange")
            place = groups.index(size) + shift
            ax.plot(place, len(one.num_unstable), marker, color=plotting.COLORS[color], markersize=4)
    ax.set_xticks(range(len(groups)), [f"{size:g}" for size in groups])
    ax.set(title="f  fixed points", xlabel="size e of the perturbation", ylabel="number found")
    # None at all is drawn whole too.
    ax.set_ylim(-0.07 * ax.get_ylim()[1], None)
