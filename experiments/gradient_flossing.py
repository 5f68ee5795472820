"""Gradient flossing: Lyapunov exponents pushed to zero before training (Engelken 2023).

A network whose exponents are negative forgets, and one whose first exponents are pushed to zero through the
differentiable spectrum does not. Whether that decides over learning is tried on the paper's task, the exclusive or of
two bits that lie half a delay and a delay back in a random stream, with the paper's 80 units, with and without
flossing, on several seeds. The example of the paper's code (R. Engelken, GradientFlossing, README) has these units,
delays, batches and rate too, but flosses 75 exponents in 500 updates, and then trains on streams of 300 steps for 3000
updates by cross-entropy, with further flossing on the way. Settings here are smaller, and the error is a square.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Seed, check, check_order
from rnndyn import plotting

CAPTION = """Exponents pushed to zero before training (Engelken 2023).

Tanh networks of 80 units learn the exclusive or of two bits that lie a half and a whole delay back, with the same
initial weights without flossing (blue) and with (orange).

- **a** mean square of the flossed exponents over the updates of flossing, one line for each seed; dotted, 0.005, a
  small loss.
- **b** the spectrum before (blue) and after (orange): mean over seeds, band as wide as their standard deviation;
  grey, zero.
- **c** validation error over training, from the first look on; one line for each seed; thick, medians; dotted, that of
  guessing.
- **d** share of right bits after training; lines join the two networks of one seed; dotted, guessing.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 80
    gain: float = 1.0
    """Of the Gaussian recurrent weights."""
    num_exponents: int = 20
    """How many are flossed."""
    floss_updates: int = 60
    floss_steps: int = 55
    floss_rate: float = 3e-3
    delay: int = 20
    """Steps back to the older of the two bits; the other is half as far."""
    num_steps: int = 100
    """Of a stream."""
    num_updates: int = 800
    batch_size: int = 16
    learning_rate: float = 1e-3
    num_seeds: int = 5
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "num_exponents", "num_units")
        check_order(self, "delay", "num_steps", strict=True)
        if self.delay % 2:
            raise ValueError(f"delay: got {self.delay}; allowed is an even number.")


SMOKE = Config(
    num_units=6, num_exponents=2, floss_updates=4, floss_steps=8, delay=2, num_steps=8, num_updates=4, batch_size=4,
    num_seeds=2,
)  # fmt: skip


class Flossing(rd.Result):
    """Exponents before and after, and learning with and without; leading axes (variant, seed), plain first."""

    floss_losses: np.ndarray
    before: np.ndarray
    after: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    chance: float
    """The mean squared error of answering 1/2."""


def compute(config: Config) -> Flossing:
    """Floss one copy of each network, then train both copies alike."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    plain = [make_model(key, config) for key in keys]
    flossed, before, after, floss_losses = [], [], [], []
    optimizer = optax.adam(config.floss_rate)  # one, so that all networks share a compilation
    for model, key in zip(plain, keys):
        better, history = floss_model(model, key, optimizer, config)
        flossed.append(better)
        floss_losses.append(history)
        before.append(exponents_of(model, key, config))
        after.append(exponents_of(better, key, config))
    losses, accuracies, steps = [], [], None
    for models in (plain, flossed):
        steps, curve, accuracy = train(models, config)
        losses.append(curve)
        accuracies.append(accuracy)
    return Flossing(
        floss_losses=np.array(floss_losses),
        before=np.array(before),
        after=np.array(after),
        steps=np.asarray(steps),
        losses=np.array(losses),
        accuracies=np.array(accuracies),
        chance=0.25,
    )


def make_model(key: Any, config: Config) -> rd.RNN:
    """A vanilla network with Gaussian recurrent weights."""
    cell_key, readout_key = jax.random.split(key)
    cell = rd.VanillaCell(
        1,
        config.num_units,
        weight_hh_init=rd.initializers.gaussian(config.gain),
        # Of variance 1, as the paper's: the bits drive each unit as strongly as the others do.
        weight_ih_init=rd.initializers.uniform(np.sqrt(3)),
        key=cell_key,
    )
    return rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))


def floss_model(model: rd.RNN, key: Any, optimizer: Any, config: Config) -> tuple[rd.RNN, np.ndarray]:
    """The model with its first exponents pushed to zero, and the losses on the way."""
    num_transient = 30
    result = rd.floss(
        rd.as_driven_map(model.cell),
        jnp.zeros(config.num_units),
        config.floss_updates,
        config.floss_steps,
        config.num_exponents,
        inputs=bits(key, (config.floss_steps + num_transient, 1)),
        num_transient=num_transient,
        optimizer=optimizer,
    )
    return eqx.tree_at(lambda m: m.cell, model, result.f.cell), np.asarray(result.history.losses)


def exponents_of(model: rd.RNN, key: Any, config: Config) -> np.ndarray:
    """All exponents under the drive of the task."""
    num_steps, num_transient = 5 * config.floss_steps, 30
    spectrum = rd.lyapunov_spectrum(
        rd.as_driven_map(model.cell),
        jnp.zeros(config.num_units),
        num_steps,
        inputs=bits(jax.random.fold_in(key, 7), (num_steps + num_transient, 1)),
        num_transient=num_transient,
    )
    return np.asarray(spectrum.exponents)


def bits(key: Any, shape: tuple[int, ...]) -> jax.Array:
    """Zeros and ones with equal chances."""
    return jax.random.bernoulli(key, 0.5, shape).astype(float)


@dataclasses.dataclass(frozen=True)
class DelayedXor:
    """Trials of y_t = |x_(t - d/2) - x_(t - d)| for random bits x; it counts from step d on."""

    delay: int
    num_steps: int
    batch_size: int

    def __call__(self, key: Any) -> rd.tasks.Trial:
        x = bits(key, (self.batch_size, self.num_steps))
        counts = jnp.broadcast_to((jnp.arange(self.num_steps) >= self.delay).astype(x.dtype), x.shape)
        y = jnp.abs(jnp.roll(x, self.delay // 2, axis=1) - jnp.roll(x, self.delay, axis=1))
        return rd.tasks.Trial(x[..., None], (counts * y)[..., None], counts)


def train(models: list[rd.RNN], config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validation losses over training, and the share of right bits at the end, for every seed."""
    arrays = [eqx.filter(model, eqx.is_array) for model in models]
    rest = eqx.filter(models[0], eqx.is_array, inverse=True)
    stacked = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest)
    fit_key, validation_key, test_key = jax.random.split(jax.random.key(config.seed + 1), 3)
    trials = lambda batch_size: DelayedXor(config.delay, config.num_steps, batch_size)
    trained = rd.fit_ensemble(
        stacked,
        rd.training.over_trials(rd.training.mean_squared_error),
        trials(config.batch_size),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        validation=trials(128)(validation_key),
        validate_every=max(config.num_updates // 20, 1),
        key=fit_key,
    )
    test = trials(256)(test_key)
    curves = [history.validation_losses for history in trained.histories]
    outputs = run(trained.last_models, test.inputs)
    right = (outputs > 0.5) == (test.targets > 0.5)
    accuracies = jnp.sum(right[..., 0] * test.mask, axis=(1, 2)) / jnp.sum(test.mask)
    return trained.histories[0].validation_steps, np.array(curves), np.asarray(accuracies)


@eqx.filter_jit
def run(models: rd.RNN, inputs: jax.Array) -> jax.Array:
    """Outputs of every network for the same inputs, (seeds, B, T, 1)."""
    return eqx.filter_vmap(lambda model: jax.vmap(model)(inputs))(models)


def report(result: Flossing) -> str:
    """What flossing did to the exponents, and whether it decided over learning."""
    count = result.floss_losses.shape[1]
    first = result.floss_losses[:, 0].mean()
    last = result.floss_losses[:, -10:].mean()
    lines = [
        f"mean squared exponent of the flossed ones: {first:.3f} -> {last:.5f} in {count} updates (wanted: < 0.005)",
        f"largest exponent before {result.before[:, 0].mean():.3f}, after {result.after[:, 0].mean():.3f}",
        f"{'':18}  {'bits right (each seed)':<38}  median final error (guessing: {result.chance:.3f})",
    ]
    for name, accuracy, losses in zip(("without flossing", "with flossing"), result.accuracies, result.losses):
        shares = "  ".join(f"{value:.2f}" for value in accuracy)
        lines.append(f"{name:<18}  {shares:<38}  {np.median(losses[:, -1]):.3f}")
    better = np.sum(result.accuracies[1] > result.accuracies[0])
    learned = (result.accuracies > 0.9).mean(axis=1)
    lines.append(
        f"seeds that learned the task (> 90 % right): {learned[0]:.0%} without, {learned[1]:.0%} with flossing; better "
        f"with flossing: {better} of {result.accuracies.shape[1]}"
    )
    return "\n".join(lines)


def plot(result: Flossing) -> Figure:
    """The loss of flossing, spectra before and after, learning curves, and what was learned in the end."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.3), width_ratios=[1, 1, 1.2, 0.7])
    colors, names = ("blue", "orange"), ("without flossing", "with flossing")
    for losses in result.floss_losses:
        axes[0].semilogy(np.arange(1, len(losses) + 1), losses, color=plotting.COLORS["orange"], alpha=0.7)
    axes[0].axhline(0.005, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[0].set(title="a  flossing", xlabel="update", ylabel=r"mean $\lambda_i^2$ of the flossed ones")
    for spectra, color in ((result.before, "blue"), (result.after, "orange")):
        plotting.plot_spectrum(
            spectra.mean(axis=0), spectra.std(axis=0) / 2, color=plotting.COLORS[color], label=None, ax=axes[1]
        )
    axes[1].set(title="b  exponents")
    for curves, color, name in zip(result.losses, colors, names):
        # What the random readout errs at the start would take all of the axis.
        steps, curves = result.steps[1:], curves[:, 1:]
        axes[2].plot(steps, curves.T, color=plotting.COLORS[color], alpha=0.45, linewidth=0.7)
        axes[2].plot(steps, np.median(curves, axis=0), color=plotting.COLORS[color], linewidth=1.8, label=name)
    axes[2].axhline(result.chance, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[2].set(title="c  delayed exclusive or", xlabel="update", ylabel="validation MSE", ylim=(0, None))
    shift = np.linspace(-0.12, 0.12, result.accuracies.shape[1])
    for pair, by in zip(result.accuracies.T, shift):
        axes[3].plot([by, 1 + by], pair, color=plotting.COLORS["grey"], linewidth=0.8, zorder=0)
    for place, (values, color) in enumerate(zip(result.accuracies, colors)):
        axes[3].plot(place + shift, values, "o", color=plotting.COLORS[color], markersize=4)
    axes[3].axhline(0.5, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[3].set_xticks([0, 1], ["without", "with"])
    axes[3].set(title="d  learned", ylabel="share of bits right", xlim=(-0.4, 1.4), ylim=(0.45, 1.02))
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
