"""Gradient flossing: Lyapunov exponents pushed to zero before training (Engelken 2023).

A random network whose first exponents are strongly negative forgets, and one whose exponents are pushed to zero through
the differentiable spectrum does not. Whether that decides over learning is tried on the delayed copy task, with and
without flossing, on several seeds.
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

- **a** mean square of the first exponents over the updates of flossing, one line for each seed; dotted, 0.005, a
  small loss.
- **b** the spectrum before (blue) and after (orange): mean over seeds, band as wide as their standard deviation;
  grey, zero.
- **c** validation loss on the delayed copy over training, without flossing (blue) and with (orange), one line for
  each seed; dotted, the loss of guessing.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 32
    gain: float = 0.6
    """Of the Gaussian recurrent weights; well below 1 the network forgets fast."""
    num_exponents: int = 8
    floss_updates: int = 400
    floss_steps: int = 60
    floss_rate: float = 5e-3
    length: int = 2
    delay: int = 20
    num_symbols: int = 4
    num_updates: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    num_seeds: int = 4
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "num_exponents", "num_units")


SMOKE = Config(
    num_units=6, num_exponents=2, floss_updates=4, floss_steps=8, delay=2, num_updates=4, batch_size=4, num_seeds=2
)


class Flossing(rd.Result):
    """Exponents before and after, and learning with and without; leading axes (variant, seed), plain first."""

    floss_losses: np.ndarray
    before: np.ndarray
    after: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    chance: float


def compute(config: Config) -> Flossing:
    """Floss one copy of each network, then train both copies alike."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    plain = [make_model(key, config) for key in keys]
    flossed, before, after, floss_losses = [], [], [], []
    for model, key in zip(plain, keys):
        better, history = floss_model(model, key, config)
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
        chance=float(np.log(config.num_symbols)),
    )


def make_model(key: Any, config: Config) -> rd.RNN:
    """A vanilla network that forgets fast."""
    cell_key, readout_key = jax.random.split(key)
    cell = rd.VanillaCell(
        config.num_symbols + 1, config.num_units, weight_hh_init=rd.initializers.gaussian(config.gain), key=cell_key
    )
    return rd.RNN(cell, eqx.nn.Linear(config.num_units, config.num_symbols, key=readout_key))


def floss_model(model: rd.RNN, key: Any, config: Config) -> tuple[rd.RNN, np.ndarray]:
    """The model with its first exponents pushed to zero, and the losses on the way."""
    result = rd.floss(
        rd.as_driven_map(model.cell),
        jnp.zeros(config.num_units),
        config.floss_updates,
        config.floss_steps,
        config.num_exponents,
        inputs=stream(key, config.floss_steps + 20, config),
        num_transient=20,
        optimizer=optax.adam(config.floss_rate),
    )
    return eqx.tree_at(lambda m: m.cell, model, result.f.cell), np.asarray(result.history.losses)


def exponents_of(model: rd.RNN, key: Any, config: Config) -> np.ndarray:
    """All exponents under the drive of the task."""
    num_steps, num_transient = 5 * config.floss_steps, 20
    spectrum = rd.lyapunov_spectrum(
        rd.as_driven_map(model.cell),
        jnp.zeros(config.num_units),
        num_steps,
        inputs=stream(jax.random.fold_in(key, 7), num_steps + num_transient, config),
        num_transient=num_transient,
    )
    return np.asarray(spectrum.exponents)


def stream(key: Any, num_steps: int, config: Config) -> jax.Array:
    """Trials of the task, one after the other."""
    options = {"length": config.length, "delay": config.delay, "num_symbols": config.num_symbols}
    trial_length = 2 * config.length + config.delay
    trials = rd.tasks.batches("delayed_copy", -(-num_steps // trial_length), **options)(key)
    return trials.inputs.reshape(-1, config.num_symbols + 1)[:num_steps]


def train(models: list[rd.RNN], config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validation losses over training, and the share of right symbols at the end, for every seed."""
    arrays = [eqx.filter(model, eqx.is_array) for model in models]
    rest = eqx.filter(models[0], eqx.is_array, inverse=True)
    stacked = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest)
    options = {"length": config.length, "delay": config.delay, "num_symbols": config.num_symbols}
    fit_key, test_key = jax.random.split(jax.random.key(config.seed + 1))
    trained = rd.fit_ensemble(
        stacked,
        rd.training.over_trials(rd.training.softmax_cross_entropy),
        rd.tasks.batches("delayed_copy", config.batch_size, **options),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        validation=rd.tasks.batches("delayed_copy", 256, **options),
        validate_every=max(config.num_updates // 24, 1),
        key=fit_key,
    )
    trials = rd.tasks.batches("delayed_copy", 512, **options)(test_key)
    curves = [history.validation_losses for history in trained.histories]
    accuracies = []
    for seed in range(len(models)):
        outputs = eqx.filter_jit(eqx.filter_vmap(trained.member(seed).last_model))(trials.inputs)
        right = jnp.argmax(outputs, axis=-1) == jnp.argmax(trials.targets, axis=-1)
        accuracies.append(float(jnp.sum(right * trials.mask) / jnp.sum(trials.mask)))
    return trained.histories[0].validation_steps, np.array(curves), np.array(accuracies)


def report(result: Flossing) -> str:
    """What flossing did to the exponents, and whether it decided over learning."""
    count = result.floss_losses.shape[1]
    first = result.floss_losses[:, 0].mean()
    last = result.floss_losses[:, -10:].mean()
    names = ("without flossing", "with flossing")
    lines = [
        f"mean squared exponent of the first ones: {first:.3f} -> {last:.5f} in {count} updates (wanted: < 0.005)",
        f"largest exponent before {result.before[:, 0].mean():.3f}, after {result.after[:, 0].mean():.3f}",
        f"                    symbols right (each seed)          final loss (chance {result.chance:.3f})",
    ]
    for name, accuracy, losses in zip(names, result.accuracies, result.losses):
        shares = "  ".join(f"{value:.2f}" for value in accuracy)
        lines.append(f"{name:<18}  {shares:<33}  {losses[:, -1].mean():.3f}")
    learned = (result.accuracies > 0.9).mean(axis=1)
    lines.append(
        f"seeds that learned the task (> 90 % right): {learned[0]:.0%} without, {learned[1]:.0%} with flossing"
    )
    return "\n".join(lines)


def plot(result: Flossing) -> Figure:
    """The loss of flossing, spectra before and after, and learning curves."""
    figure, axes = plt.subplots(1, 3, figsize=(plotting.PAGE_WIDTH, 2.3))
    for losses in result.floss_losses:
        axes[0].semilogy(np.arange(1, len(losses) + 1), losses, color=plotting.COLORS["orange"], alpha=0.7)
    axes[0].axhline(0.005, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[0].set(title="a  flossing", xlabel="update", ylabel=r"mean $\lambda_i^2$ of the first ones")
    for spectra, color, name in ((result.before, "blue", "before"), (result.after, "orange", "after")):
        plotting.plot_spectrum(
            spectra.mean(axis=0), spectra.std(axis=0) / 2, color=plotting.COLORS[color], label=name, ax=axes[1]
        )
    axes[1].set(title="b  exponents")
    axes[1].legend()
    for curves, color, name in zip(result.losses, ("blue", "orange"), ("without flossing", "with flossing")):
        for i, curve in enumerate(curves):
            axes[2].plot(result.steps, curve, color=plotting.COLORS[color], alpha=0.8, label=name if i == 0 else None)
    axes[2].axhline(result.chance, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[2].set(title="c  delayed copy", xlabel="update", ylabel="validation loss (nats)", ylim=(0, None))
    axes[2].legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure
