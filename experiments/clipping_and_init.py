"""Which gain, clipping threshold and learning rate train a vanilla network, and what lambda_1 says beforehand.

Networks of one structure are trained by plain gradient descent on delayed recall over a grid of the gain of their
recurrent weight, the threshold of the gradient's norm, and the learning rate. Clipping widens the learning rates that
work, and lets chaotic networks be trained; it does nothing for a gain so small that gradients vanish (Pascanu et al.
2013; Bengio et al. 1994).
"""

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import PositiveFraction, PositiveOrInf, Seed, check
from rnndyn import plotting

CAPTION = """Which gain, threshold and learning rate train (Pascanu et al. 2013).

- **a** λ₁ at initialisation while reading trials, over the gain of the recurrent weight: dots, networks; line, their
  median; dashed, zero. Between -0.01 and 0.01 it is zero as far as 1000 steps tell.
- **b, c, d** share of symbols recalled after training (colour bar), mean over five seeds, over gain and learning rate,
  with gradients clipped at 0.1, at 1, and not; ×, training met numbers that are not finite.
"""

RESOLUTION = 0.01
"""Exponents closer to zero than this count as zero: over T = 1000 steps a vector that neither grows nor shrinks in the
end still changes its length by a few nats."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    gains: tuple[float, ...] = (0.4, 0.7, 0.9, 1.1, 1.4, 1.8, 2.5, 4.0)
    thresholds: tuple[PositiveOrInf, ...] = (0.1, 1.0, float("inf"))
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    num_seeds: int = 5
    num_units: int = 20
    num_symbols: int = 4
    delay: int = 10
    num_updates: int = 500
    batch_size: int = 16
    success: PositiveFraction = 0.9
    """The share of symbols recalled that counts as success."""
    num_steps: int = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    gains=(0.5, 2.0),
    thresholds=(1.0, float("inf")),
    learning_rates=(0.1, 1.0),
    num_seeds=1,
    num_units=4,
    num_symbols=2,
    delay=1,
    num_updates=3,
    batch_size=4,
    num_steps=30,
)


class ClippingAndInit(rd.Result):
    """Recall after training over the grid, and the exponents before it."""

    gains: np.ndarray
    thresholds: np.ndarray
    learning_rates: np.ndarray
    exponents: np.ndarray
    """lambda_1 at initialisation, driven by trials, (gains, seeds)."""
    accuracies: np.ndarray
    """Share of symbols recalled, (gains, thresholds, learning rates, seeds); 0 where training diverged."""
    diverged: np.ndarray
    """Whether training met a number that is not finite, of the same shape."""
    largest_norms: np.ndarray
    """The largest norm of a gradient before clipping, of the same shape; inf where it was not finite."""
    success: float


def compute(config: Config) -> ClippingAndInit:
    """The exponents, then all trainings of the grid side by side."""
    make_key, train_key, test_key = jax.random.split(jax.random.key(config.seed), 3)
    seeds = jax.random.split(make_key, config.num_seeds)
    gains = jnp.repeat(jnp.array(config.gains), config.num_seeds)
    models = eqx.filter_vmap(lambda key, gain: make_network(key, gain, config))(
        jnp.tile(seeds, len(config.gains)), gains
    )
    exponents = largest_exponents(models.cell, test_key, config)
    axes = [range(len(axis)) for axis in (config.gains, config.thresholds, config.learning_rates, seeds)]
    grid = np.array(list(itertools.product(*axes)))
    member = grid[:, 0] * config.num_seeds + grid[:, 3]
    found = train(
        jax.tree.map(lambda leaf: leaf[member] if eqx.is_array(leaf) else leaf, models),
        jnp.array(config.thresholds)[grid[:, 1]],
        jnp.array(config.learning_rates)[grid[:, 2]],
        jax.random.split(train_key, config.num_seeds)[grid[:, 3]],
        test_key,
        config,
    )
    accuracies, diverged, norms = (np.asarray(values).reshape([len(axis) for axis in axes]) for values in found)
    return ClippingAndInit(
        gains=np.array(config.gains),
        thresholds=np.array(config.thresholds),
        learning_rates=np.array(config.learning_rates),
        exponents=exponents,
        accuracies=np.where(diverged, 0, accuracies),
        diverged=diverged,
        largest_norms=np.where(np.isfinite(norms), norms, np.inf),
        success=config.success,
    )


def make_network(key: jax.Array, gain: jax.Array, config: Config) -> rd.RNN:
    """A tanh network with a Gaussian recurrent weight of standard deviation gain / sqrt(N)."""
    cell_key, readout_key = jax.random.split(key)
    cell = rd.VanillaCell(
        config.num_symbols + 1,
        config.num_units,
        weight_hh_init=rd.initializers.gaussian(1.0),
        bias_init=rd.initializers.zeros(),
        key=cell_key,
    )
    cell = eqx.tree_at(lambda c: c.weight_hh, cell, gain * cell.weight_hh)
    return rd.RNN(cell, eqx.nn.Linear(config.num_units, config.num_symbols, key=readout_key))


def trials_of(config: Config, batch_size: int) -> Any:
    """Trials of delayed recall: one symbol, a delay, a cue."""
    options = {"length": 1, "delay": config.delay, "num_symbols": config.num_symbols}
    return rd.tasks.batches("delayed_copy", batch_size, **options)


def largest_exponents(cells: Any, key: jax.Array, config: Config) -> np.ndarray:
    """lambda_1 of every network while it reads trials, in float64, (gains, seeds)."""
    num_trials = -(-config.num_steps // (config.delay + 2))
    inputs = trials_of(config, num_trials)(key).inputs
    with jax.enable_x64(True):
        rows = jnp.asarray(inputs.reshape(-1, inputs.shape[-1])[: config.num_steps], jnp.float64)
        cells = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, cells)
        one = lambda cell: (
            rd.max_lyapunov_exponent(
                rd.as_driven_map(cell), jnp.zeros(config.num_units), config.num_steps, inputs=rows
            ).exponent
        )
        return np.asarray(eqx.filter_jit(eqx.filter_vmap(one))(cells)).reshape(len(config.gains), config.num_seeds)


@eqx.filter_jit
def train(
    models: Any, thresholds: jax.Array, rates: jax.Array, keys: jax.Array, test_key: jax.Array, config: Config
) -> tuple[jax.Array, ...]:
    """Plain gradient descent with a clipped norm, all settings side by side: accuracy, divergence, largest norm."""
    loss = rd.training.over_trials(rd.training.softmax_cross_entropy)
    batches, test = trials_of(config, config.batch_size), trials_of(config, 256)(test_key)

    def one(model, threshold, rate, key):
        parameters, static = eqx.partition(model, eqx.is_inexact_array)

        def step(carry, i):
            parameters, largest = carry
            batch = batches(jax.random.fold_in(key, i))
            gradient = jax.grad(lambda p: loss(eqx.combine(p, static), batch))(parameters)
            norm = optax.tree.norm(gradient)
            scale = rate * jnp.where(norm > threshold, threshold / norm, 1)
            parameters = jax.tree.map(lambda p, g: p - scale * g, parameters, gradient)
            return (parameters, jnp.maximum(largest, norm)), None

        (parameters, largest), _ = jax.lax.scan(step, (parameters, jnp.array(0.0)), jnp.arange(config.num_updates))
        outputs = jax.vmap(eqx.combine(parameters, static))(test.inputs)
        right = jnp.argmax(outputs, axis=-1) == jnp.argmax(test.targets, axis=-1)
        finite = jnp.all(jnp.isfinite(outputs))
        return jnp.sum(right * test.mask) / jnp.sum(test.mask), ~finite, largest

    return eqx.filter_vmap(one)(models, thresholds, rates, keys)


def report(result: ClippingAndInit) -> str:
    """Success over the grid, beside lambda_1, and what clipping changes."""
    succeeded = result.accuracies >= result.success
    rates = "".join(f"{rate:7g}" for rate in result.learning_rates)
    lines = [f"share of seeds that recall {result.success:.0%} of the symbols, by learning rate"]
    for j, threshold in enumerate(result.thresholds):
        lines.append(f"threshold {threshold:g}")
        lines.append(f"  gain   lambda_1   learning rate{rates}   diverged   median largest |gradient|")
        for i, gain in enumerate(result.gains):
            cells = "".join(f"{share:7.2f}" for share in succeeded[i, j].mean(axis=-1))
            lines.append(
                f"  {gain:4.1f}   {np.median(result.exponents[i]):8.3f}                {cells}   "
                f"{result.diverged[i, j].mean():8.2f}   {np.median(result.largest_norms[i, j]):10.3g}"
            )
    lines.append("by threshold: " + "; ".join(summary(result, j) for j in range(len(result.thresholds))))
    lines.append(
        "theory: gradients explode only where lambda_1 > 0, or where training takes it there; clipping bounds the step "
        "and so allows larger learning rates (Pascanu et al. 2013); it cannot bring back what has vanished (Bengio et "
        "al. 1994)"
    )
    return "\n".join(lines)


def summary(result: ClippingAndInit, threshold: int) -> str:
    """How much of the grid succeeds where lambda_1 is below, at and above zero."""
    succeeded = result.accuracies[:, threshold] >= result.success
    exponents = np.broadcast_to(result.exponents[:, None, :], succeeded.shape)
    wheres = (exponents < -RESOLUTION, abs(exponents) <= RESOLUTION, exponents > RESOLUTION)
    shares = [f"{succeeded[where].mean():.2f}" if where.any() else "-" for where in wheres]
    return (
        f"{result.thresholds[threshold]:g}: {shares[0]} of runs with lambda_1 < 0, {shares[1]} at 0 (within "
        f"{RESOLUTION:g}), {shares[2]} with lambda_1 > 0"
    )


def plot(result: ClippingAndInit) -> Figure:
    """lambda_1 over the gain, and recall over gain and learning rate for every threshold."""
    num = len(result.thresholds)
    figure, axes = plt.subplots(1, 1 + num, figsize=(plotting.PAGE_WIDTH, 2.1))
    places = np.arange(len(result.gains))
    first = axes[0]
    first.plot(places, result.exponents, ".", color=plotting.COLORS["sky"], markersize=4)
    first.plot(places, np.median(result.exponents, axis=1), color=plotting.COLORS["blue"])
    first.axhline(0, color=plotting.COLORS["grey"], linewidth=0.7, linestyle="--")
    first.set(title="a  before training", xlabel="gain $g$", ylabel=r"$\lambda_1$ (nats/step)")
    draw_gains(first, result.gains)
    image = None
    for j, axis in enumerate(axes[1:]):
        image = axis.imshow(
            result.accuracies[:, j].mean(axis=-1).T, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="cividis"
        )
        threshold = result.thresholds[j]
        name = f"clipped at {threshold:g}" if np.isfinite(threshold) else "not clipped"
        axis.set(title=f"{'bcdefgh'[j]}  {name}", xlabel="gain $g$")
        draw_gains(axis, result.gains)
        rates = [f"{rate:g}" for rate in result.learning_rates] if j == 0 else []
        axis.set_yticks(np.arange(len(result.learning_rates)) if j == 0 else [], rates)
        for spine in axis.spines.values():
            spine.set_visible(False)
        lost = result.diverged[:, j].mean(axis=-1).T
        for y, x in np.argwhere(lost > 0):
            axis.text(x, y, "×", ha="center", va="center", color="white", fontsize=7)
    axes[1].set_ylabel("learning rate")
    assert image is not None
    figure.colorbar(image, ax=axes[1:], label="share recalled", pad=0.01, fraction=0.04)
    return figure


def draw_gains(axis: Any, gains: np.ndarray) -> None:
    """A tick for every gain; a number at every second one, which is what there is room for."""
    axis.set_xticks(np.arange(len(gains)), [f"{gain:g}" if i % 2 == 0 else "" for i, gain in enumerate(gains)])
