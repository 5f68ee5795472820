"""Exposure bias: a network that learned from true inputs, left to its own outputs (Bengio 2015, Hess et al. 2023).

Piecewise-linear networks learn the Lorenz system from noisy samples while their state is drawn towards the data:
wholly (teacher forcing), at random steps that get rarer (scheduled sampling), by a fraction alpha (generalised teacher
forcing), or not at all. All are judged alike: by the error of one step, by how long a free run stays with the true
trajectory, in Lyapunov times, and by the largest Lyapunov exponent of what they have learned.
"""

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, NotNegative, Seed, check, check_order
from rnndyn import plotting

CAPTION = """Left to its own outputs (Bengio et al. 2015; Hess et al. 2023).

Piecewise-linear networks learn the Lorenz system from noisy samples, five of them each way. In the median free runs
last longest with a forcing between none and teacher forcing, as Hess et al. find, though the ranges of the networks
overlap. None of these small networks is a faithful copy: they are lost after few Lyapunov times, and their largest
exponents scatter (d).

- **a** share of free runs that are still with the true trajectory, over time in Lyapunov times: grey, trained free
  running; pink, dashed, scheduled sampling; orange, teacher forcing; blue, generalised teacher forcing.
- **b, c, d** over the strength of forcing α, and for scheduled sampling (s.s., pink): error of one step, with the
  noise dotted; time until a free run is lost; largest exponent of the learned system, with that of the Lorenz system
  dotted, and how many lie beyond the axis. Light dots, networks; dark, medians; grey vertical line, the α below which
  gradients may explode.
"""

LYAPUNOV = 0.9056
"""Largest exponent of the Lorenz system per unit time (Sprott 2003, Chaos and Time-Series Analysis)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dt: float = 0.05
    """Time between samples."""
    noise: NotNegative = 0.05
    """Standard deviation of the noise on every sample, in standard deviations of the trajectory."""
    num_samples: int = 4000
    num_hidden: int = 50
    """ReLUs of the shallow piecewise-linear network, whose state has the three variables."""
    strengths: tuple[Fraction, ...] = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
    """Values of alpha; 0 is free running, 1 teacher forcing."""
    window: int = 60
    """Samples of a training sequence."""
    num_updates: int = 1000
    batch_size: int = 16
    learning_rate: float = 5e-3
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    num_networks: int = 5
    """Networks trained each way, from different weights."""
    num_starts: int = 100
    """Free runs of each network."""
    num_free: int = 300
    tolerance: float = 0.4
    """Distance from the true trajectory at which a free run counts as lost, in standard deviations."""
    num_exponent_steps: int = 4000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "window", "num_samples")


SMOKE = Config(
    num_samples=400, num_hidden=6, strengths=(0.0, 1.0), window=8, num_updates=3, batch_size=4, num_networks=2,
    num_starts=4, num_free=12, num_exponent_steps=60,
)  # fmt: skip


class ExposureBias(rd.Result):
    """One row for each strength of forcing, and a last one for scheduled sampling; one column for each network."""

    strengths: np.ndarray
    critical: float
    """1 - exp(-lambda dt): below it the gradient can grow along a chaotic trajectory."""
    one_step: np.ndarray
    """Root mean square error of one step from a true state, in standard deviations."""
    noise_floor: float
    """The noise of the samples."""
    lost_after: np.ndarray
    """Median time until a free run is lost, in Lyapunov times."""
    all_lost_after: np.ndarray
    """The same for every free run, those of all networks of a row together."""
    exponents: np.ndarray
    """Largest Lyapunov exponent of the networks, per unit time; NaN where the run does not stay finite."""
    best_strength: float


class NoisyWindows(eqx.Module):
    """Stretches of the noisy samples from random places, with the strength of forcing for each step."""

    samples: jax.Array
    strength: jax.Array
    """NaN for scheduled sampling."""
    window: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __call__(self, key: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        place_key, force_key = jax.random.split(key)
        places = jax.random.randint(place_key, (self.batch_size,), 0, len(self.samples) - self.window)
        cut = lambda place: jax.lax.dynamic_slice_in_dim(self.samples, place, self.window + 1)
        draws = jax.random.uniform(force_key, (self.batch_size, self.window))
        return jax.vmap(cut)(places), jnp.full((self.batch_size,), self.strength), draws


def compute(config: Config) -> ExposureBias:
    """Train networks in every way, and let them run."""
    data_key, noise_key, model_key, fit_key, start_key = jax.random.split(jax.random.key(config.seed), 5)
    truth = lorenz(config.num_samples + config.num_free + 2000, config.dt, data_key)
    samples, test = truth[: config.num_samples], truth[config.num_samples :]
    noisy = samples + config.noise * jax.random.normal(noise_key, samples.shape)
    models = eqx.filter_vmap(lambda key: make(config, key))(jax.random.split(model_key, config.num_networks))
    schedule = rd.training.inverse_sigmoid_decay(config.num_updates / 2)
    loss = rd.training.with_step(Loss(schedule))
    starts = jax.random.choice(start_key, len(test) - config.num_free - 1, (config.num_starts,), replace=False)
    one_step, lost, exponents = [], [], []
    for strength in (*config.strengths, np.nan):
        batches = NoisyWindows(noisy, jnp.asarray(strength), config.window, config.batch_size)
        with warnings.catch_warnings():
            # A network that diverged in training is judged as it was before; the numbers show what it is worth.
            warnings.filterwarnings("ignore", "Training diverged")
            trained = rd.fit_ensemble(
                models,
                loss,
                batches,
                optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01)),
                num_steps=config.num_updates,
                max_grad_norm=config.max_grad_norm,
                carry=0,
                key=fit_key,
            ).last_models
        errors, times = judge(trained, test, starts, config)
        one_step.append(errors)
        lost.append(times * config.dt * LYAPUNOV)
        exponents.append(largest_exponents(trained, test[0], config))
    medians = np.median(lost, axis=2)
    best = int(np.argmax(np.median(medians[:-1], axis=1)))
    return ExposureBias(
        strengths=np.array(config.strengths),
        critical=float(1 - np.exp(-LYAPUNOV * config.dt)),
        one_step=np.array(one_step),
        noise_floor=config.noise,
        lost_after=medians,
        all_lost_after=np.reshape(lost, (len(lost), -1)),
        exponents=np.array(exponents),
        best_strength=config.strengths[best],
    )


def lorenz(num_samples: int, dt: float, key: Any) -> jax.Array:
    """The Lorenz system on its attractor, each variable with mean 0 and standard deviation 1."""
    field = lambda x: jnp.stack([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])
    start = jnp.ones(3) + 0.1 * jax.random.normal(key, (3,))
    states = rd.trajectory(rd.time_map(field, dt), start, num_samples, num_transient=500)
    return (states - states.mean(axis=0)) / states.std(axis=0)


def make(config: Config, key: Any) -> rd.RNN:
    """A shallow piecewise-linear network whose state is its output."""
    cell = rd.PiecewiseLinearCell(
        0, 3, num_hidden=config.num_hidden, hidden_bias_init=rd.initializers.uniform(2.0), key=key
    )
    return rd.RNN(cell, identity_readout())


def identity_readout() -> eqx.nn.Linear:
    """The three variables themselves."""
    readout = eqx.nn.Linear(3, 3, use_bias=False, key=jax.random.key(0))
    return eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(3))


@dataclasses.dataclass(frozen=True)
class Loss:
    """The squared error of the outputs, with the state forced by the strength of the batch."""

    schedule: Any

    def __call__(self, model: rd.RNN, batch: Any, step: Any) -> jax.Array:
        sequences, strengths, draws = batch
        # The readout stays what it is: the state is the output.
        model = eqx.tree_at(lambda m: m.readout, model, identity_readout())
        forced_at_random = (draws < self.schedule(step)).astype(sequences.dtype)
        alphas = jnp.where(jnp.isnan(strengths)[:, None], forced_at_random, strengths[:, None])

        def one(sequence: jax.Array, alpha: jax.Array) -> jax.Array:
            outputs = rd.training.generalized_teacher_forcing(model, sequence[1:], alpha, state=sequence[0])
            return rd.training.mean_squared_error(outputs, sequence[1:])

        return jnp.mean(jax.vmap(one)(sequences, alphas))


def judge(models: Any, test: jax.Array, starts: jax.Array, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The error of one step (E,), and the steps until each free run is lost (E, K)."""
    predicted, runs = free(models.cell, test, starts, config.num_free)
    errors = np.sqrt(np.mean((np.asarray(predicted) - np.asarray(test[1:])) ** 2, axis=(1, 2)))
    true = np.stack([np.asarray(test[i + 1 : i + 1 + config.num_free]) for i in np.asarray(starts)])
    distance = np.sqrt(np.mean((np.asarray(runs) - true) ** 2, axis=-1))
    is_lost = ~(distance <= config.tolerance)
    times = np.where(is_lost.any(axis=-1), is_lost.argmax(axis=-1), config.num_free)
    return errors, times


@eqx.filter_jit
def free(cells: Any, test: jax.Array, starts: jax.Array, num_free: int) -> tuple[jax.Array, jax.Array]:
    """One step from every true state (E, T, 3), and runs from some of them (E, K, num_free, 3)."""
    step = lambda cell: jax.vmap(lambda x: cell(x, jnp.zeros(0)))(test[:-1])
    runs = lambda cell: jax.vmap(lambda i: rd.trajectory(rd.as_map(cell), test[i], num_free))(starts)
    return eqx.filter_vmap(step)(cells), eqx.filter_vmap(runs)(cells)


def largest_exponents(models: Any, start: jax.Array, config: Config) -> np.ndarray:
    """The largest Lyapunov exponent of every network on its own, per unit time."""
    values = np.asarray(measure_exponents(models.cell, start, config.num_exponent_steps, config.dt), float)
    return np.where(np.isfinite(values), values, np.nan)


@eqx.filter_jit
def measure_exponents(cells: Any, start: jax.Array, num_steps: int, dt: float) -> jax.Array:
    """The largest Lyapunov exponent of every network (E,), whether finite or not."""
    largest = lambda cell: rd.lyapunov_spectrum(
        rd.as_map(cell), start, num_steps, num_exponents=1, num_transient=200, dt=dt
    ).exponents[0]
    return eqx.filter_vmap(largest)(cells)


def rows(result: ExposureBias) -> list[tuple[str, int]]:
    """The names of the ways to train, with their rows."""
    names = {0.0: "free running", 1.0: "teacher forcing"}
    ways = [(names.get(a, f"generalised, α = {a:g}"), i) for i, a in enumerate(result.strengths)]
    return [*ways, ("scheduled sampling", len(ways))]


def report(result: ExposureBias) -> str:
    """One line for each way to train; medians over the networks."""
    lines = [
        f"{'trained by':<24} one-step error   lost after / Lyapunov times   largest exponent (Lorenz {LYAPUNOV:.3f})"
    ]
    for name, row in rows(result):
        lost = result.lost_after[row]
        lines.append(
            f"{name:<24} {np.median(result.one_step[row]):10.4f} {np.median(lost):16.2f} ± {np.ptp(lost) / 2:.2f}"
            f" {np.nanmedian(result.exponents[row]):20.3f}"
        )
    lines.append(
        f"noise of the samples {result.noise_floor:.3f}; 1 - exp(-lambda dt) = {result.critical:.3f}; best strength "
        f"{result.best_strength:g}"
    )
    return "\n".join(lines)


def plot(result: ExposureBias) -> Figure:
    """How long free runs last, and the three measures against the strength of forcing."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.2), width_ratios=[1.25, 1, 1, 1])
    draw_survival(axes[0], result)
    draw_measure(axes[1], result, result.one_step, "error of one step / s.d.", "b  one step")
    axes[1].set_yscale("log")
    axes[1].set_yticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
    axes[1].minorticks_off()
    axes[1].axhline(result.noise_floor, color=plotting.COLORS["grey"], linewidth=0.8, linestyle=":")
    axes[1].annotate("noise", (0.03, result.noise_floor), xycoords=("axes fraction", "data"), va="top",
                     xytext=(0, -2), textcoords="offset points", fontsize=6.5, color="0.35")  # fmt: skip
    draw_measure(axes[2], result, result.lost_after, "lost after / Lyapunov times", "c  free run")
    axes[2].set_ylim(0, None)
    draw_measure(axes[3], result, result.exponents, r"$\lambda_1$ / time", "d  exponent")
    axes[3].axhline(LYAPUNOV, color="black", linewidth=0.8, linestyle=":")
    # Networks that only decay have exponents far below; what matters is near the truth.
    lowest, highest = -1.5, 2.5
    axes[3].set_ylim(lowest, highest)
    outside = int(np.sum((result.exponents < lowest) | (result.exponents > highest)))
    if outside:
        axes[3].text(0.97, 0.03, f"{outside} not shown", transform=axes[3].transAxes, ha="right", fontsize=6.5)
    return figure


def draw_survival(axes: Any, result: ExposureBias) -> None:
    """The share of free runs that are still with the true trajectory."""
    best = int(np.flatnonzero(result.strengths == result.best_strength)[0])
    shown = {
        "free running": (int(np.argmin(result.strengths)), "grey"),
        "scheduled sampling": (len(result.strengths), "purple"),
        "teacher forcing": (int(np.argmax(result.strengths)), "orange"),
        f"generalised, $\\alpha$ = {result.best_strength:g}": (best, "blue"),
    }
    for name, (row, color) in shown.items():
        times = np.sort(result.all_lost_after[row])
        share = 1 - np.arange(1, len(times) + 1) / len(times)
        # Some readers see this colour as the grey one.
        style = {"color": plotting.COLORS[color], "linestyle": "--" if color == "purple" else "-"}
        axes.step(np.append(0, times), np.append(1, share), where="post", label=name, **style)
    axes.set(xlim=(0, 5), ylim=(0, 1.5), xlabel="time / Lyapunov times", ylabel="free runs not yet lost")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.legend(loc="upper right", fontsize=6.5, borderaxespad=0)
    axes.set_title("a  free runs")


def draw_measure(axes: Any, result: ExposureBias, values: np.ndarray, label: str, title: str) -> None:
    """A measure against alpha: every network as a dot, medians as a line; scheduled sampling apart."""
    # Zero has no place on a logarithmic axis.
    lowest, apart = np.min(result.strengths[result.strengths > 0]) / 2, 3.2
    x = np.where(result.strengths > 0, result.strengths, lowest)
    for network in values.T:
        axes.plot(x, network[:-1], ".", color=plotting.COLORS["sky"], markersize=3)
        axes.plot([apart], network[-1:], ".", color=plotting.COLORS["purple"], markersize=3)
    axes.plot(x, np.nanmedian(values[:-1], axis=1), "o-", color=plotting.COLORS["blue"], markersize=3)
    axes.plot([apart], [np.nanmedian(values[-1])], "s", color=plotting.COLORS["purple"], markersize=4)
    axes.axvline(result.critical, color=plotting.COLORS["grey"], linewidth=0.8)
    axes.set(xscale="log", xlabel=r"strength of forcing $\alpha$", ylabel=label, xlim=(lowest / 1.5, 5))
    axes.set_xticks([lowest, 0.1, 1, apart], ["0", "0.1", "1", "s.s."])
    axes.minorticks_off()
    axes.set_title(title)
