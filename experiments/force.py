"""FORCE learning makes chaotic networks oscillate to order (Sussillo & Abbott 2009).

dx/dt = -x + g J tanh(x) + w_f z, z = w.tanh(x). While w learns by recursive least squares the output is fed back, so
that the target drives the network out of its chaos; afterwards the network goes round by itself. Whether it does so on
a stable limit cycle is measured: exponents before and after, the cycle itself and its leading Floquet multipliers.
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
from experiments._settings import Inside, Seed, check
from rnndyn import plotting

CAPTION = """FORCE learning (Sussillo & Abbott 2009).

Five random networks with feedback from their readout, trained on a sine and on a sum of four sines. Time in time
constants of a unit. Not all networks of this size are chaotic before, nor all cycles stable after: a network whose
cycle is unstable goes round near it.

- **a, b** output of one network by itself after training (colour), and the target (dashed).
- **c** length of the change of the readout in an update, over the time of training, smoothed; a line for each network.
- **d** largest exponents before training (black) and after, colours as in **c**; dots, networks; bars, two standard
  errors.
- **e** leading Floquet multipliers of the limit cycles of all networks, same colours; 1 is that of the cycle's own
  direction; circle, modulus 1.
"""

AMPLITUDES = {"sine": (1.0,), "sum of sines": (1.0, 0.5, 0.3, 0.6)}
"""Of the harmonics of each target."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result. Networks of the paper's size: `--num-units 1000`."""

    num_units: int = 500
    num_networks: int = 5
    gain: float = 1.5
    period: float = 30.0
    dt: Inside = 0.1
    training_time: float = 960.0
    alpha: float = 1.0
    update_every: int = 2
    num_exponents: int = 4
    exponent_time: float = 300.0
    num_multipliers: int = 6
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    num_units=20,
    num_networks=1,
    period=5.0,
    training_time=20.0,
    num_exponents=2,
    exponent_time=10.0,
    num_multipliers=2,
)


class Returns(eqx.Module):
    """(x, T) -> (where x is after T, T + how far x is along the flow from a plane): fixed where an orbit closes.

    The orbit of (x, T) closes, and x lies on the plane, at fixed points alone; the second keeps the phase.
    """

    weight: jax.Array
    middle: jax.Array
    normal: jax.Array
    num_steps: int = eqx.field(static=True)

    def __call__(self, state: jax.Array) -> jax.Array:
        x, period = state[:-1], state[-1]
        end = after(self.weight, x, period, self.num_steps)
        return jnp.concatenate([end, (period + self.normal @ (x - self.middle))[None]])


class Flow(eqx.Module):
    """Where a state is after a fixed time."""

    weight: jax.Array
    period: jax.Array
    num_steps: int = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return after(self.weight, x, self.period, self.num_steps)


def after(weight: jax.Array, x: jax.Array, time: jax.Array, num_steps: int) -> jax.Array:
    """Equal steps of Euler, as the network was trained with, but of a length that may be differentiated."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + time / num_steps * velocity(weight, x), None

    return jax.lax.scan(step, x, None, length=num_steps)[0]


def velocity(weight: jax.Array, x: jax.Array) -> jax.Array:
    """dx/dt of the closed loop."""
    return -x + weight @ jnp.tanh(x)


class Trained(rd.Result):
    """One network and target: training, and the network by itself.

    - `times`, `wanted`, `output`: after training, the target and the output.
    - `weight_changes`: at each update.
    - `training_error`, `error`: root of the mean square, in the last quarter of training and by itself.
    - `exponents`, `stderr`: of the network by itself.
    - `period`, `residual`, `multipliers`: of the limit cycle; no numbers where none was found.
    """

    target: str
    times: np.ndarray
    wanted: np.ndarray
    output: np.ndarray
    weight_changes: np.ndarray
    training_error: float
    error: float
    exponents: np.ndarray
    stderr: np.ndarray
    period: float
    residual: float
    multipliers: np.ndarray


class Force(rd.Result):
    """All networks, before and after learning each target.

    - `before`, `before_stderr`: networks by exponents.
    - `trained`: targets by networks.
    """

    before: np.ndarray
    before_stderr: np.ndarray
    wanted_period: float
    trained: tuple[tuple[Trained, ...], ...]


def compute(config: Config) -> Force:
    """Exponents before, and for each target training, exponents, and the limit cycle."""
    drawn = [draw_network(config, index) for index in range(config.num_networks)]
    with jax.enable_x64(True):
        before = [exponents_of(weight, x0, config) for weight, _, x0 in drawn]
        trained = tuple(tuple(learn(name, *parts, config) for parts in drawn) for name in AMPLITUDES)
    return Force(
        np.array([one.exponents for one in before]), np.array([one.stderr for one in before]), config.period, trained
    )


def draw_network(config: Config, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """g J, the weights of the feedback, and a state to start from."""
    rng = np.random.default_rng([config.seed, index])
    size = config.num_units
    weight = config.gain * rng.standard_normal((size, size)) / np.sqrt(size)
    return weight, rng.uniform(-1, 1, (size, 1)), rng.standard_normal(size)


def exponents_of(weight: np.ndarray, x0: np.ndarray, config: Config) -> rd.LyapunovSpectrum:
    """The largest exponents per time constant, after as long a transient."""
    steps = round(config.exponent_time / config.dt)
    step = euler(weight, config)
    return rd.lyapunov_spectrum(
        step, x0, steps, num_exponents=config.num_exponents, num_transient=steps // 2, dt=config.dt
    )


def euler(weight: np.ndarray, config: Config) -> Any:
    """The network without input as the map that was trained."""
    size = len(weight)
    return rd.as_map(
        rd.LeakyCell.from_weights(
            np.zeros((size, 0)), weight, np.zeros(size), dt=config.dt, tau=1.0, state_variable="current"
        )
    )


def learn(name: str, weight: np.ndarray, feedback: np.ndarray, x0: np.ndarray, config: Config) -> Trained:
    """FORCE learning of one target, then the network by itself."""
    cell = rd.LeakyCell.from_weights(
        feedback, weight, np.zeros(len(weight)), dt=config.dt, tau=1.0, state_variable="current"
    )
    times = np.arange(round(config.training_time / config.dt)) * config.dt
    training = rd.training.force(
        cell, wave(name, times, config)[:, None], state=x0, alpha=config.alpha, update_every=config.update_every
    )
    closed = weight + feedback @ np.asarray(training.weight)
    state = np.asarray(training.final_state)
    shown = np.arange(round(3 * config.period / config.dt)) * config.dt
    states = np.asarray(rd.trajectory(euler(closed, config), state, len(shown)))
    output = np.tanh(states) @ np.asarray(training.weight)[0]
    # The first of the states is one step after the last of training.
    wanted = wave(name, times[-1] + config.dt + shown, config)
    spectrum = exponents_of(closed, state, config)
    errors = np.asarray(training.errors)[:, 0]
    period, residual, multipliers = limit_cycle(closed, np.asarray(spectrum.final_state), config)
    return Trained(
        target=name,
        times=shown,
        wanted=wanted,
        output=output,
        weight_changes=np.asarray(training.weight_changes),
        training_error=float(np.sqrt(np.mean(errors[-len(errors) // 4 :] ** 2))),
        error=float(np.sqrt(np.mean((output - wanted) ** 2))),
        exponents=np.asarray(spectrum.exponents),
        stderr=np.asarray(spectrum.stderr),
        period=period,
        residual=residual,
        multipliers=multipliers,
    )


def wave(name: str, times: np.ndarray, config: Config) -> np.ndarray:
    """A target over time."""
    amplitudes = np.array(AMPLITUDES[name])
    harmonics = np.arange(1, len(amplitudes) + 1)
    return np.sin(2 * np.pi * times[:, None] * harmonics / config.period) @ amplitudes


def limit_cycle(weight: np.ndarray, x: np.ndarray, config: Config) -> tuple[float, float, np.ndarray]:
    """Period, residual and leading Floquet multipliers of the closed orbit near a state; no numbers without one.

    Newton's method on `Returns` without its Jacobian, then Arnoldi's over the period: for so many units the derivative
    over a period, which `rd.find_limit_cycle` takes as a whole, is long in coming. Over a period go as many steps as in
    training, a little longer or shorter ones, so that the orbit closes at a step.
    """
    steps = round(config.period / config.dt)
    along = np.asarray(velocity(jnp.asarray(weight), jnp.asarray(x)))
    returns = Returns(jnp.asarray(weight), jnp.asarray(x), jnp.asarray(along / np.linalg.norm(along)), steps)
    found = rd.find_large_fixed_point(returns, np.append(x, config.period), num_multipliers=0, tol=1e-10)
    period, missing = found.point[-1], np.full(config.num_multipliers, np.nan + 0j)
    # Over no time at all every state returns.
    if not found.converged or abs(period / config.period - 1) > 0.5:
        return float("nan"), found.residual, missing
    flow = Flow(jnp.asarray(weight), jnp.asarray(period), steps)
    once = rd.find_large_fixed_point(flow, found.point[:-1], num_multipliers=config.num_multipliers, tol=1e-8)
    return float(period), once.residual, np.concatenate([once.multipliers, missing])[: config.num_multipliers]


def strongest(one: Trained) -> float:
    """The largest modulus of the multipliers but the one of the cycle's own direction, which is 1."""
    others = np.delete(one.multipliers, np.argmin(np.abs(one.multipliers - 1)))
    return float(np.max(np.abs(others)))


def report(result: Force) -> str:
    """Errors, exponents and limit cycles."""
    told = lambda values, errors: "  ".join(f"{v:7.4f} +- {e:.4f}" for v, e in zip(values, errors))
    lines = ["largest exponents before (per time constant), a line for each network:"]
    lines += [f"  {told(*one)}" for one in zip(result.before, result.before_stderr)]
    for networks in result.trained:
        lines += [
            f"{networks[0].target}, target of period {result.wanted_period:g}; for each network the RMS error in the "
            "last quarter of training and alone,",
            "period and residual of the limit cycle, largest modulus of its multipliers but 1, and exponents",
        ]
        lines += [
            f"  {one.training_error:.4f}  {one.error:.4f}   {one.period:.4f}  {one.residual:.0e}  {strongest(one):.4f}"
            f"   {told(one.exponents, one.stderr)}"
            for one in networks
        ]
    return "\n".join(lines)


def plot(result: Force) -> Figure:
    """Outputs, training, exponents and multipliers."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.0))
    grid = figure.add_gridspec(2, 6)
    colors = [plotting.COLORS[name] for name in ("blue", "orange")]
    panels = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
    for letter, ax, networks, color in zip("ab", panels, result.trained, colors):
        one = networks[0]
        ax.plot(one.times, one.output, color=color)
        ax.plot(one.times, one.wanted, "--", color="black", linewidth=0.8)
        ax.set(title=f"{letter}  {one.target}", xlabel="time after training", ylabel="output z")
    learning, exponents, circle = (figure.add_subplot(grid[1, 2 * i : 2 * i + 2]) for i in range(3))
    index = np.arange(1, result.before.shape[1] + 1)
    draw_exponents(exponents, index - 0.22, result.before, result.before_stderr, "black")
    for networks, color, shift in zip(result.trained, colors, (0.0, 0.22)):
        for one in networks:
            made = one.weight_changes[one.weight_changes > 0]
            width = max(len(made) // 60, 1)
            smooth = made[: len(made) // width * width].reshape(-1, width).mean(axis=1)
            label = one.target if one is networks[0] else None
            learning.semilogy(np.linspace(0, 1, len(smooth)), smooth, color=color, linewidth=0.7, label=label)
            circle.plot(np.real(one.multipliers), np.imag(one.multipliers), "o", color=color, markersize=2.5)
        values, errors = np.array([one.exponents for one in networks]), np.array([one.stderr for one in networks])
        draw_exponents(exponents, index + shift, values, errors, color)
    learning.set(title="c  learning", xlabel="part of training", ylabel=r"$|\Delta w|$ in an update")
    learning.legend()
    exponents.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    exponents.set(title="d  exponents", xlabel="i", ylabel=r"$\lambda_i$ (nats per time constant)")
    exponents.set_xticks(index)
    around = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    circle.plot(np.real(around), np.imag(around), color=plotting.COLORS["grey"], linewidth=0.8, zorder=0)
    circle.set(title="e  Floquet multipliers", xlabel="real part", ylabel="imaginary part")
    circle.set_aspect("equal")
    return figure


def draw_exponents(ax: Any, places: np.ndarray, values: np.ndarray, stderr: np.ndarray, color: str) -> None:
    """Exponents of several networks side by side."""
    for one, errors, shift in zip(values, stderr, np.linspace(-0.07, 0.07, len(values)) if len(values) > 1 else [0]):
        ax.errorbar(places + shift, one, 2 * errors, fmt="o", color=color, markersize=1.5, elinewidth=0.6, capsize=0)
