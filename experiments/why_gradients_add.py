"""Why gradients are added over time steps: one weight is used at every step, and one step may carry the whole sum.

A pulse of +1 or -1 comes at one step of a noisy sequence, and its sign is asked for at the end. Every step has its own
copy of the weights in the unrolled network; the gradient of a shared weight is the sum of the gradients of its copies.
On this task one term, that of the step with the pulse, makes up most of it for the input weight: truncated
backpropagation that stops short of that step has the wrong gradient, and hardly ever learns (Werbos 1990; Williams &
Peng 1990).
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
from experiments._settings import NotNegative, Seed, check, check_order
from rnndyn import plotting

CAPTION = """The gradient is a sum over steps (Werbos 1990; Williams & Peng 1990).

A pulse comes at one step of a noisy sequence, and its sign is asked for at the end.

- **a** one trial: grey bars, the input, with the pulse at -1; pink, the length of dL/dx at each step, relative to its
  largest.
- **b** the share of each step in the gradient of the input weight (blue), the recurrent weight (orange), the bias
  (green); dotted, the step of the pulse.
- **c** what is missing of each gradient, in the same colours, when backpropagation stops after a window of k steps;
  dotted, the window that reaches the pulse.
- **d** share of signs right after training with window k: dots, six seeds; line, median; dashed, guessing.
"""

WEIGHTS = {"cell.weight_ih": r"$W_{ih}$", "cell.weight_hh": r"$W_{hh}$", "cell.bias": r"$b$"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 8
    num_steps: int = 30
    pulse_step: int = 8
    noise: NotNegative = 0.3
    num_trials: int = 256
    windows: tuple[int, ...] = (1, 5, 10, 15, 18, 20, 21, 22, 23, 24, 26, 30)
    num_seeds: int = 6
    num_updates: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-2
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "pulse_step", "num_steps", strict=True)
        check_order(self, "windows", "num_steps")


SMOKE = Config(
    num_units=3, num_steps=6, pulse_step=2, num_trials=4, windows=(1, 6), num_seeds=2, num_updates=3, batch_size=4
)


class WhyGradientsAdd(rd.Result):
    """The terms of the gradient, and what training with some of them missing gives."""

    inputs: np.ndarray
    """One trial, (T,)."""
    adjoint_norms: np.ndarray
    """Mean norm of dL/dx_t over trials, (T + 1,)."""
    shares: dict[str, np.ndarray]
    """How far the contribution of each step goes along the gradient, averaged over trials first, (T,)."""
    relative_errors: dict[str, np.ndarray]
    """|missing| / |full| with a window of 1, ..., T steps, (T,)."""
    cosines: dict[str, np.ndarray]
    """The cosine between truncated and full gradient, (T,)."""
    error_of_sum: float
    """Largest relative difference between the sum of the contributions and `jax.grad`."""
    error_of_copies: float
    """Largest relative difference between a contribution and the gradient of that step's own copy of the weights."""
    error_of_window: float
    """Largest relative difference between `bptt(window=)` and the partial sum of contributions."""
    pulse_step: int
    windows: np.ndarray
    accuracies: np.ndarray
    """Share of signs right after training with each window, (windows, seeds)."""


def compute(config: Config) -> WhyGradientsAdd:
    """The terms of one gradient in float64, then networks trained with windows of different lengths."""
    with jax.enable_x64(True):
        terms = gradient_terms(config)
    accuracies = train_with_windows(config)
    return WhyGradientsAdd(
        **terms, pulse_step=config.pulse_step, windows=np.array(config.windows), accuracies=accuracies
    )


def make_network(key: jax.Array, config: Config) -> rd.RNN:
    """A tanh network with an orthogonal recurrent weight, whose gradients neither vanish nor explode at once."""
    cell_key, readout_key = jax.random.split(key)
    cell = rd.VanillaCell(
        1,
        config.num_units,
        weight_hh_init=rd.initializers.orthogonal(),
        bias_init=rd.initializers.zeros(),
        key=cell_key,
    )
    return rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))


class PulseTrials(eqx.Module):
    """Trials of the task: inputs (B, T, 1), and whether the pulse was positive (B,)."""

    config: Config = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __call__(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise_key, sign_key = jax.random.split(key)
        positive = jax.random.bernoulli(sign_key, 0.5, (self.batch_size,)).astype(float)
        noise = self.config.noise * jax.random.normal(noise_key, (self.batch_size, self.config.num_steps))
        return noise.at[:, self.config.pulse_step].set(2 * positive - 1)[..., None], positive


def cross_entropy(output: jax.Array, positive: jax.Array) -> jax.Array:
    """In nats, from the log-odds."""
    return optax.sigmoid_binary_cross_entropy(output[0], positive)


def gradient_terms(config: Config) -> dict[str, Any]:
    """The contributions of every step to the gradient of the mean loss over trials, checked in three ways."""
    network_key, trial_key = jax.random.split(jax.random.key(config.seed))
    model = make_network(network_key, config)
    inputs, positive = PulseTrials(config, config.num_trials)(trial_key)
    last = jnp.zeros(config.num_steps).at[-1].set(1)
    targets = jnp.broadcast_to(positive[:, None], inputs.shape[:2])
    window = max(1, config.num_steps // 2)

    def one(u, y):
        return rd.bptt(model.cell, model.readout, u, y, cross_entropy, weights=last, window=window, stride=1)

    found = jax.vmap(one)(inputs, targets)
    # Means over trials: the gradient of the mean loss, step by step.
    terms = {name: np.asarray(found.contributions[name].mean(axis=0)) for name in WEIGHTS}
    gradient = {name: term.sum(axis=0) for name, term in terms.items()}

    by_grad = eqx.filter_grad(lambda m: jnp.mean(jax.vmap(cross_entropy)(jax.vmap(m.last)(inputs), positive)))(model)
    by_copy = gradient_of_copies(model, inputs, positive)
    names = {name: name.removeprefix("cell.") for name in WEIGHTS}
    # With the loss at the end alone, a window of k steps leaves the last k contributions.
    partial = {name: np.cumsum(term[::-1], axis=0) for name, term in terms.items()}
    size = {name: np.linalg.norm(gradient[name]) for name in WEIGHTS}
    flat = {name: sums.reshape(len(sums), -1) for name, sums in partial.items()}
    return {
        "inputs": np.asarray(inputs[0, :, 0]),
        "adjoint_norms": np.asarray(jnp.linalg.norm(found.adjoints, axis=2).mean(axis=0)),
        "shares": {n: t.reshape(len(t), -1) @ gradient[n].ravel() / size[n] ** 2 for n, t in terms.items()},
        "relative_errors": {n: np.linalg.norm(flat[n] - gradient[n].ravel(), axis=1) / size[n] for n in WEIGHTS},
        "cosines": {n: flat[n] @ gradient[n].ravel() / (np.linalg.norm(flat[n], axis=1) * size[n]) for n in WEIGHTS},
        "error_of_sum": max(np.linalg.norm(getattr(by_grad.cell, names[n]) - gradient[n]) / size[n] for n in WEIGHTS),
        "error_of_copies": max(np.linalg.norm(getattr(by_copy, names[n]) - terms[n]) / size[n] for n in WEIGHTS),
        "error_of_window": max(
            np.linalg.norm(found.truncated.gradient[n].mean(axis=0) - partial[n][window - 1]) / size[n]  # pyright: ignore[reportOptionalMemberAccess]
            for n in WEIGHTS
        ),
    }


def gradient_of_copies(model: rd.RNN, inputs: jax.Array, positive: jax.Array) -> rd.VanillaCell:
    """The gradient of the mean loss when every step has its own copy of the cell, leaves (T, ...), by autodiff."""
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (inputs.shape[1], *leaf.shape)), model.cell)

    def loss(copies):
        def run(u):
            step = lambda x, row: (row[0](x, row[1]), None)
            return model.readout(jax.lax.scan(step, model.cell.initial_state(), (copies, u))[0])

        return jnp.mean(jax.vmap(cross_entropy)(jax.vmap(run)(inputs), positive))

    return eqx.filter_jit(eqx.filter_grad(loss))(copies)


class Windowed(eqx.Module):
    """A network whose last output is differentiated over the last `window` steps only."""

    network: rd.RNN
    window: jax.Array

    def __call__(self, inputs: jax.Array) -> jax.Array:
        num_steps = inputs.shape[0]

        def step(x, row):
            t, u = row
            x = jnp.where(t == num_steps - self.window, jax.lax.stop_gradient(x), x)
            return self.network.cell(x, u), None

        x, _ = jax.lax.scan(step, self.network.start(), (jnp.arange(num_steps), inputs))
        return self.network.readout(x)


def mean_cross_entropy(model: Windowed, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The loss of a batch."""
    inputs, positive = batch
    return jnp.mean(jax.vmap(cross_entropy)(jax.vmap(model)(inputs), positive))


def train_with_windows(config: Config) -> np.ndarray:
    """The share of signs right in new trials, (windows, seeds); seeds share their initial network across windows."""
    init_key, fit_key, test_key = jax.random.split(jax.random.key(config.seed + 1), 3)
    num_windows, num_seeds = len(config.windows), config.num_seeds
    keys = jnp.tile(jax.random.split(init_key, num_seeds), num_windows)
    windows = jnp.repeat(jnp.array(config.windows), num_seeds)
    make = lambda key, window: Windowed(make_network(key, config), window)
    models = eqx.filter_jit(eqx.filter_vmap(make))(keys, windows)
    trained = rd.fit_ensemble(
        models,
        mean_cross_entropy,
        PulseTrials(config, config.batch_size),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        key=fit_key,
    ).last_models
    inputs, positive = eqx.filter_jit(PulseTrials(config, 1024))(test_key)
    outputs = eqx.filter_jit(eqx.filter_vmap(lambda model: jax.vmap(model)(inputs)))(trained)[..., 0]
    right = np.mean((outputs > 0) == (positive > 0.5), axis=1)
    return right.reshape(num_windows, num_seeds)


def report(result: WhyGradientsAdd) -> str:
    """The three identities, the share of the step with the pulse, and accuracy against the window."""
    reach = len(result.inputs) - result.pulse_step
    lines = [
        "relative difference                                     measured   expected (rounding)",
        f"sum of contributions and jax.grad                       {result.error_of_sum:8.1e}   < 1e-10",
        f"contribution and gradient of the step's own copy        {result.error_of_copies:8.1e}   < 1e-10",
        f"truncated gradient and sum of the last contributions    {result.error_of_window:8.1e}   < 1e-10",
        f"share of the gradient from the step with the pulse (step {result.pulse_step}; an even split is "
        f"{1 / len(result.inputs):.3f})",
    ]
    for name, shares in result.shares.items():
        largest = int(np.argmax(shares))
        short, enough = result.cosines[name][reach - 2 : reach]
        lines.append(
            f"  {name:<16} {shares[result.pulse_step]:6.3f}   (largest: step {largest}, {shares[largest]:.3f})   "
            f"cosine one step short of it {short:6.3f}, with it {enough:.3f}"
        )
    lines.append(f"signs right after training (the pulse is {reach} steps before the end)")
    lines.append("  window (steps)  " + "".join(f"{window:6d}" for window in result.windows))
    lines.append("  median          " + "".join(f"{value:6.2f}" for value in np.median(result.accuracies, axis=1)))
    lines.append("  worst seed      " + "".join(f"{value:6.2f}" for value in np.min(result.accuracies, axis=1)))
    return "\n".join(lines)


def plot(result: WhyGradientsAdd) -> Figure:
    """The trial and its adjoints, the share of every step, what a window leaves out, and what it costs."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.1))
    num_steps = len(result.inputs)
    steps, reach = np.arange(num_steps), num_steps - result.pulse_step
    colors = dict(zip(WEIGHTS, ("blue", "orange", "green")))
    axes[0].bar(steps, result.inputs, color=plotting.COLORS["grey"], width=0.8, label="input $u_t$")
    scale = result.adjoint_norms.max()
    axes[0].plot(
        np.arange(num_steps + 1) - 1,
        result.adjoint_norms / scale,
        color=plotting.COLORS["purple"],
        label="$|dL/dx_t|$ / max",
    )
    low, high = min(0, result.inputs.min()), 1.0
    axes[0].set(title="a  one trial", xlabel="step $t$", ylabel="input, adjoint", ylim=(low - 0.1, high + 0.75))
    axes[0].legend(loc="upper center")
    for name, label in WEIGHTS.items():
        axes[1].plot(steps, result.shares[name], "o-", color=plotting.COLORS[colors[name]], markersize=2, label=label)
    axes[1].axvline(result.pulse_step, color="black", linewidth=0.6, linestyle=":")
    axes[1].set(title="b  terms of the sum", xlabel="step $t$", ylabel=r"share of $dL/d\theta$")
    axes[1].legend()
    for name, label in WEIGHTS.items():
        color = plotting.COLORS[colors[name]]
        axes[2].plot(1 + steps, result.relative_errors[name], "o-", color=color, markersize=2, label=label)
    axes[2].axvline(reach, color="black", linewidth=0.6, linestyle=":")
    axes[2].set(title="c  left out", xlabel="window $k$ (steps)", ylabel="|missing| / |full|", ylim=(0, None))
    axes[3].plot(
        result.windows, np.median(result.accuracies, axis=1), "-", color=plotting.COLORS["blue"], label="median"
    )
    for seed in range(result.accuracies.shape[1]):
        axes[3].plot(
            result.windows,
            result.accuracies[:, seed],
            "o",
            color=plotting.COLORS["sky"],
            markersize=2,
            label="one seed" if seed == 0 else None,
        )
    axes[3].axvline(reach, color="black", linewidth=0.6, linestyle=":")
    axes[3].axhline(0.5, color=plotting.COLORS["grey"], linewidth=0.8, linestyle="--")
    axes[3].set(title="d  after training", xlabel="window $k$ (steps)", ylabel="share of signs right")
    axes[3].set(ylim=(min(0.45, result.accuracies.min() - 0.03), 1.03))
    axes[3].legend(loc="upper left")
    return figure
