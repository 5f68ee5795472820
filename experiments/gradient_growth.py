"""Gradients grow and vanish at the rate of the largest Lyapunov exponent (Mikhaeil et al. 2022, Pascanu et al. 2013).

Backpropagated vectors of random networks grow by lambda_1 per step: they explode in chaos and vanish in stable
networks. How far back a gradient reaches in vanilla, LSTM and GRU networks is set by the initialisation, and moved by
training on the delayed copy task.
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
from experiments._settings import CountOrZero, Seed, check
from rnndyn import plotting

CAPTION = """Gradients grow at the rate of the largest exponent (Mikhaeil et al. 2022).

- **a** log length of a backpropagated vector over the lag, one random network of each of three gains; dashed, slope λ₁.
- **b** such slopes over λ₁, five networks of each gain, same colours, with two standard errors both ways; grey,
  equality.
- **c** typical gradient over the lag in one vanilla (blue), GRU (green) and LSTM (orange) network, after training on
  the delayed copy (solid) and before (dotted).
- **d** the same at initialisation for one vanilla network, a colour for each initialiser.
"""

CELLS = {"vanilla": rd.VanillaCell, "GRU": rd.GRUCell, "LSTM": rd.LSTMCell}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    gains: tuple[float, ...] = (0.9, 2.0, 4.0)
    num_networks: int = 5
    """Random networks at each gain."""
    num_units: int = 100
    num_steps: int = 2000
    num_transient: CountOrZero = 1000
    trained_units: int = 32
    length: int = 3
    delay: int = 15
    num_updates: int = 1500
    batch_size: int = 64
    learning_rate: float = 5e-3
    max_lag: int = 60
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    gains=(0.9, 4.0),
    num_networks=2,
    num_units=10,
    num_steps=60,
    num_transient=20,
    trained_units=4,
    length=1,
    delay=2,
    num_updates=4,
    batch_size=4,
    max_lag=10,
)


class Growth(rd.Result):
    """Growth of the adjoints of one random network, against its largest exponent."""

    gain: float
    adjoint: float
    adjoint_stderr: float
    exponent: float
    exponent_stderr: float
    log_norms: np.ndarray


class Memory(rd.Result):
    """How a gradient falls with the lag in one network on the copy task."""

    cell: str
    initialisation: str
    stage: str
    horizon: float
    extrapolated: bool
    exponent: float
    log_gradient: np.ndarray
    accuracy: float


class GradientGrowth(rd.Result):
    """Both parts of the study."""

    growths: tuple[Growth, ...]
    memories: tuple[Memory, ...]


def compute(config: Config) -> GradientGrowth:
    """Adjoints of random networks, then memory horizons before and after training."""
    with jax.enable_x64(True):
        growths = tuple(
            adjoint_growth(gain, config.seed + network, config)
            for gain in config.gains
            for network in range(config.num_networks)
        )
    memories = []
    for name in CELLS:
        memories += before_and_after(name, config)
    memories += initialisations(config)
    return GradientGrowth(growths, tuple(memories))


class TanhMap(eqx.Module):
    """x' = W tanh(x)."""

    weight: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.weight @ jnp.tanh(x)


def adjoint_growth(gain: float, seed: int, config: Config) -> Growth:
    """The growth rate of the backpropagated vectors, and the largest exponent over the same steps."""
    weight_key, state_key, loss_key = jax.random.split(jax.random.key(seed), 3)
    size = config.num_units
    f = TanhMap(gain * jax.random.normal(weight_key, (size, size)) / jnp.sqrt(size))
    x0 = rd.trajectory(f, jax.random.normal(state_key, (size,)), 1, num_transient=config.num_transient)[-1]
    direction = jax.random.normal(loss_key, (size,))
    adjoint = rd.adjoints(f, x0, None, lambda states: direction @ states[-1], num_steps=config.num_steps)
    spectrum = rd.lyapunov_spectrum(f, x0, config.num_steps, num_exponents=1)
    return Growth(
        gain=gain,
        adjoint=float(adjoint.growth_rate),
        adjoint_stderr=float(adjoint.growth_rate_stderr),
        exponent=float(spectrum.exponents[0]),
        exponent_stderr=float(spectrum.stderr[0]),
        log_norms=np.asarray(adjoint.log_norms - adjoint.log_norms[-1]),
    )


def before_and_after(name: str, config: Config) -> list[Memory]:
    """One kind of cell on the delayed copy task: its memory at initialisation and after training."""
    key = jax.random.fold_in(jax.random.key(config.seed), list(CELLS).index(name))
    cell_key, readout_key, fit_key, test_key = jax.random.split(key, 4)
    num_symbols = 8
    cell = CELLS[name](num_symbols + 1, config.trained_units, key=cell_key)
    model = rd.RNN(cell, eqx.nn.Linear(config.trained_units, num_symbols, key=readout_key))
    options = {"length": config.length, "delay": config.delay, "num_symbols": num_symbols}
    trained = rd.fit(
        model,
        rd.training.over_trials(rd.training.softmax_cross_entropy),
        rd.tasks.batches("delayed_copy", config.batch_size, **options),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        key=fit_key,
    ).last_model
    trials = rd.tasks.batches("delayed_copy", 256, **options)(test_key)
    return [
        memory_of(stage_model, name, "default", stage, trials, config)
        for stage, stage_model in (("at initialisation", model), ("trained", trained))
    ]


def initialisations(config: Config) -> list[Memory]:
    """Untrained vanilla networks: which initialisation gives which horizon."""
    made = {
        "uniform 1/sqrt(N)": None,
        "Glorot": rd.initializers.glorot_uniform(),
        "orthogonal": rd.initializers.orthogonal(),
        "Gaussian g = 1.5": rd.initializers.gaussian(1.5),
    }
    cell_key, readout_key, test_key = jax.random.split(jax.random.key(config.seed + 1), 3)
    options = {"length": config.length, "delay": config.delay, "num_symbols": 8}
    trials = rd.tasks.batches("delayed_copy", 256, **options)(test_key)
    memories = []
    for name, init in made.items():
        cell = rd.VanillaCell(9, config.trained_units, weight_hh_init=init, key=cell_key)
        model = rd.RNN(cell, eqx.nn.Linear(config.trained_units, 8, key=readout_key))
        memories.append(memory_of(model, "vanilla", name, "initialisations", trials, config))
    return memories


def memory_of(model: Any, cell: str, initialisation: str, stage: str, trials: Any, config: Config) -> Memory:
    """The fall of gradients with the lag while the network reads trials, and its share of right symbols."""
    g = rd.as_driven_map(model.cell)
    stream = trials.inputs.reshape(-1, trials.inputs.shape[-1])
    num_transient = config.max_lag
    num_steps = min(len(stream) - num_transient, 8 * config.max_lag)
    memory = rd.memory_horizon(
        g,
        jnp.zeros(g.state_size),
        num_steps,
        config.max_lag,
        key=jax.random.key(config.seed),
        inputs=stream[: num_transient + num_steps],
        num_transient=num_transient,
    )
    outputs = eqx.filter_jit(eqx.filter_vmap(model))(trials.inputs)
    right = jnp.argmax(outputs, axis=-1) == jnp.argmax(trials.targets, axis=-1)
    return Memory(
        cell=cell,
        initialisation=initialisation,
        stage=stage,
        horizon=float(memory.horizon),
        extrapolated=bool(memory.extrapolated),
        exponent=float(memory.exponent),
        log_gradient=np.asarray(memory.log_gradient),
        accuracy=float(jnp.sum(right * trials.mask) / jnp.sum(trials.mask)),
    )


def report(result: GradientGrowth) -> str:
    """Growth rates beside the exponents, and the horizons."""
    lines = ["   g   adjoint growth    lambda_1          difference / stderr"]
    for growth in result.growths:
        apart = (growth.adjoint - growth.exponent) / np.hypot(growth.adjoint_stderr, growth.exponent_stderr)
        lines.append(
            f"{growth.gain:4.1f}   {growth.adjoint:6.3f} +- {growth.adjoint_stderr:.3f}   {growth.exponent:6.3f} +- "
            f"{growth.exponent_stderr:.3f}   {apart:8.1f}"
        )
    lines.append("below: one network of each kind and initialisation")
    lines.append("cell      initialisation      stage              symbols right   horizon (steps)   exponent")
    for memory in result.memories:
        horizon = f"{memory.horizon:.1f}{' (extrapolated)' if memory.extrapolated else ''}"
        lines.append(
            f"{memory.cell:<9} {memory.initialisation:<19} {memory.stage:<18} {memory.accuracy:13.2f}   {horizon:<17} "
            f"{memory.exponent:8.3f}"
        )
    return "\n".join(lines)


def plot(result: GradientGrowth) -> Figure:
    """Adjoints of random networks, and gradients against the lag before and after training."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.2), width_ratios=[1.1, 0.9, 1, 1])
    gains = list(dict.fromkeys(growth.gain for growth in result.growths))
    colors = dict(zip(gains, ("sky", "purple", "black")))
    for growth in result.growths:
        color = colors[growth.gain]
        lags = np.arange(len(growth.log_norms))
        if growth.gain in gains:  # the first of its gain
            gains.remove(growth.gain)
            axes[0].plot(lags, growth.log_norms[::-1], color=plotting.COLORS[color], label=f"g = {growth.gain:g}")
            axes[0].plot(lags, growth.exponent * lags, "--", color=plotting.COLORS["yellow"], linewidth=0.9)
        axes[1].errorbar(
            growth.exponent,
            growth.adjoint,
            2 * growth.adjoint_stderr,
            2 * growth.exponent_stderr,
            "o",
            color=plotting.COLORS[color],
            markersize=3,
        )
    axes[0].set(title="a  adjoints", xlabel="lag (steps)", ylabel=r"ln $|dL/dx_{T-\tau}|$")
    axes[0].legend()
    low, high = axes[1].get_xlim()
    axes[1].plot([low, high], [low, high], color=plotting.COLORS["grey"], linewidth=0.8, zorder=0)
    axes[1].set(title="b  rates", xlabel=r"$\lambda_1$", ylabel="adjoint growth per step")
    for kind in CELLS:
        for memory in result.memories:
            if memory.cell == kind and memory.stage != "initialisations":
                style = ":" if memory.stage == "at initialisation" else "-"
                axes[2].plot(
                    memory.log_gradient, style, color=plotting.CELL_COLORS[kind], label=kind if style == "-" else None
                )
    axes[2].set(title="c  training (dots: before)", xlabel="lag (steps)", ylabel="ln typical gradient")
    axes[2].legend()
    started = [memory for memory in result.memories if memory.stage == "initialisations"]
    for memory, color in zip(started, ("sky", "yellow", "black", "purple")):
        axes[3].plot(memory.log_gradient, color=plotting.COLORS[color], label=memory.initialisation)
    axes[3].set(title="d  initialisation", xlabel="lag (steps)", ylabel="ln typical gradient")
    axes[3].set_ylim(bottom=1.6 * axes[3].get_ylim()[0])  # room for the legend under the curves
    axes[3].legend(fontsize=6, loc="lower left")
    return figure
