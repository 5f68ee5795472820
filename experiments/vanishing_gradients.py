"""Why gradients vanish: activation, initialisation and cell set the largest Lyapunov exponent, which sets the decay.

The gradient of a loss at the last step is carried back over a long drive by trials of a recall task, for vanilla
networks of four activations and five initialisations and for gated cells, before and after training. It falls (or
grows) with the lag at the rate of the largest Lyapunov exponent, measured forwards in tangent space. Units that are
saturated or dead are counted (Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013; Le, Jaitly & Hinton 2015).
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import CountOrZero, Seed, check, one_of
from rnndyn import plotting

CAPTION = """Activation, initialisation and cell set the decay (Hochreiter 1991; Pascanu et al. 2013).

One network of each kind. Solid lines and filled marks: at initialisation. Dotted lines and open marks: trained.

- **a, b, c** log size of the gradient over the lag, for activations, initialisers (tanh), and cells, each with its
  colours.
- **d** slopes of these lines over the largest Lyapunov exponent, which is measured forwards; colours by activation or
  cell, squares, gated cells; grey, equality.
"""

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
INITIALISATIONS = ("uniform", "Gaussian", "He", "orthogonal", "identity")
GATED = {"LSTM": ("uniform", "forget bias 1", "chrono"), "GRU": ("uniform", "chrono")}
KINDS = (*ACTIVATIONS, *GATED)
STAGES = ("at initialisation", "trained")
SATURATED = 0.1
"""A unit is saturated at a step when its slope is below this share of the largest slope of its activation."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    kinds: tuple[Annotated[str, one_of(KINDS)], ...] = KINDS
    """Activations of vanilla networks, and gated cells."""
    num_units: int = 32
    num_symbols: int = 4
    delay: int = 10
    num_updates: int = 300
    batch_size: int = 32
    learning_rate: float = 3e-3
    num_steps: int = 1500
    num_transient: CountOrZero = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    kinds=("tanh", "GRU"), num_units=4, num_symbols=2, delay=1, num_updates=2, batch_size=4, num_steps=60,
    num_transient=6,
)  # fmt: skip


class Network(rd.Result):
    """One network at one stage."""

    cell: str
    initialisation: str
    stage: str
    accuracy: float
    """Share of symbols recalled."""
    slope: float
    """Mean growth of ln |dL/dx| per step of lag."""
    exponent: float
    """The largest Lyapunov exponent over the same steps."""
    log_gradient: np.ndarray
    """ln |dL/dx| at every lag, relative to lag 0."""
    saturated: float
    """Share of units and steps with a slope below a tenth of the largest; gated cells: of the keeping gate."""
    dead: float
    """Share of units that are saturated at every step."""


class VanishingGradients(rd.Result):
    """All networks."""

    networks: tuple[Network, ...]


def compute(config: Config) -> VanishingGradients:
    """Build, train and measure the networks, family by family: those of one structure run side by side."""
    networks = []
    for name in config.kinds:
        networks += family(name, config)
    return VanishingGradients(tuple(networks))


def family(name: str, config: Config) -> list[Network]:
    """All initialisations of one activation or gated cell, before and after training."""
    initialisations = GATED.get(name, INITIALISATIONS)
    keys = jax.random.split(jax.random.key(config.seed), 4)
    made = [make_network(name, initialisation, keys[0], config) for initialisation in initialisations]
    models = stack(made)
    task = {"length": 1, "delay": config.delay, "num_symbols": config.num_symbols}
    trained = rd.fit_ensemble(
        models,
        rd.training.over_trials(rd.training.softmax_cross_entropy),
        rd.tasks.batches("delayed_copy", config.batch_size, **task),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        key=keys[1],
    ).last_models
    num_members = len(made)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]) if eqx.is_array(a) else a, models, trained)
    trial_length = config.delay + 2
    num_trials = -(-(config.num_steps + config.num_transient) // trial_length)
    trials = rd.tasks.batches("delayed_copy", num_trials, **task)(keys[2])
    outputs = eqx.filter_jit(eqx.filter_vmap(lambda model: jax.vmap(model)(trials.inputs)))(both)
    right = jnp.argmax(outputs, axis=-1) == jnp.argmax(trials.targets, axis=-1)
    accuracies = jnp.sum(right * trials.mask, axis=(1, 2)) / jnp.sum(trials.mask)
    stream = trials.inputs.reshape(-1, trials.inputs.shape[-1])[: config.num_steps + config.num_transient]
    with jax.enable_x64(True):
        cells = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, both.cell)
        measured = measure(cells, jnp.asarray(stream, jnp.float64), keys[3], config.num_transient)
    slopes, exponents, curves, saturated, dead = (np.asarray(values) for values in measured)
    return [
        Network(
            cell=name,
            initialisation=initialisations[i % num_members],
            stage=STAGES[i // num_members],
            accuracy=float(accuracies[i]),
            slope=float(slopes[i]),
            exponent=float(exponents[i]),
            log_gradient=curves[i],
            saturated=float(saturated[i]),
            dead=float(dead[i]),
        )
        for i in range(2 * num_members)
    ]


def make_network(name: str, initialisation: str, key: jax.Array, config: Config) -> rd.RNN:
    """One network; those of one family share their keys and so differ by what the initialisation says only."""
    cell_key, readout_key = jax.random.split(key)
    width, size = config.num_symbols + 1, config.num_units
    init = rd.initializers
    if name == "LSTM":
        # Every gate's bias, so that the longest memory is about the delay.
        bias = {"uniform": None, "forget bias 1": init.forget_gate_bias(1.0), "chrono": init.chrono(config.delay + 4)}
        cell = rd.LSTMCell(width, size, bias_init=bias[initialisation], key=cell_key)
    elif name == "GRU":
        bias = {"uniform": None, "chrono": init.chrono(config.delay + 4, "gru")}
        cell = rd.GRUCell(width, size, bias_init=bias[initialisation], key=cell_key)
    else:
        recurrent = {
            "uniform": None,
            "Gaussian": init.gaussian(1.0),
            "He": init.gaussian(np.sqrt(2)),
            "orthogonal": init.orthogonal(),
            "identity": init.identity(),
        }
        cell = rd.VanillaCell(
            width,
            size,
            activation=name,
            weight_hh_init=recurrent[initialisation],
            bias_init=init.zeros(),
            key=cell_key,
        )
    return rd.RNN(cell, eqx.nn.Linear(size, config.num_symbols, key=readout_key))


def stack(models: list[Any]) -> Any:
    """Models of one structure as one, each array with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *models)


class LossAtTheEnd(eqx.Module):
    """A linear loss of the last state."""

    direction: jax.Array

    def __call__(self, states: jax.Array) -> jax.Array:
        return self.direction @ states[-1]


@eqx.filter_jit
def measure(cells: Any, stream: jax.Array, key: jax.Array, num_transient: int) -> tuple[jax.Array, ...]:
    """Slope, exponent, ln gradient against the lag, saturated and dead shares of every network."""

    def one(cell):
        g = rd.as_driven_map(cell)
        x0 = g.flatten(cell.initial_state())
        x0 = rd.trajectory(g, x0, 1, inputs=stream[:num_transient], num_transient=num_transient - 1)[0]
        rows = stream[num_transient:]
        direction = jax.random.normal(key, x0.shape, x0.dtype)
        adjoints = rd.adjoints(g, x0, rows, LossAtTheEnd(direction / jnp.linalg.norm(direction)))
        exponent = rd.max_lyapunov_exponent(g, x0, len(rows), inputs=rows).exponent
        logs = adjoints.log_norms
        slope = (logs[0] - logs[-1]) / len(rows)
        flat = relative_slopes(cell, g, adjoints.states[:-1], rows) < SATURATED
        return slope, exponent, logs[::-1] - logs[-1], jnp.mean(flat), jnp.mean(jnp.all(flat, axis=0))

    return eqx.filter_vmap(one)(cells)


def relative_slopes(cell: Any, g: Any, states: jax.Array, inputs: jax.Array) -> jax.Array:
    """The slope of every unit at every step over the largest slope there is, (T, H); of the keeping gate if gated."""
    if isinstance(cell, rd.VanillaCell):
        outputs = jnp.concatenate([states[1:], g(states[-1], inputs[-1])[None]])
        return {
            "tanh": 1 - outputs**2,
            "relu": (outputs > 0).astype(outputs.dtype),
            "sigmoid": 4 * outputs * (1 - outputs),
            "identity": jnp.ones_like(outputs),
        }[str(cell.activation)]
    hidden = states[:, : cell.hidden_size]
    # The forget gate of an LSTM and the update gate of a GRU are the second block of rows alike.
    block = slice(cell.hidden_size, 2 * cell.hidden_size)
    gate = jax.nn.sigmoid(inputs @ cell.weight_ih[block].T + hidden @ cell.weight_hh[block].T + cell.bias[block])
    return 4 * gate * (1 - gate)


def report(result: VanishingGradients) -> str:
    """Slopes beside exponents, with the counts of saturated and dead units, and what theory says of the slope."""
    lines = [
        "cell      initialisation  stage              slope    lambda_1   differ    recalled  saturated  dead",
    ]
    for network in result.networks:
        differ = f"{abs(network.slope / network.exponent - 1):7.1%}" if resolved(network) else "      -"
        lines.append(
            f"{network.cell:<9} {network.initialisation:<15} {network.stage:<18} {network.slope:7.4f}  "
            f"{network.exponent:8.4f}  {differ}   {network.accuracy:6.2f}    {network.saturated:6.2f}   "
            f"{network.dead:6.2f}"
        )
    shown = [network for network in result.networks if resolved(network)]
    near = [abs(network.slope / network.exponent - 1) <= 0.05 for network in shown]
    num_steps = len(result.networks[0].log_gradient) - 1
    # The two ends of the sequence add a few nats to either measure: 5 % of the growth when that is some tens of nats.
    ends = [abs(n.slope - n.exponent) * num_steps for n in result.networks if np.isfinite(n.exponent)]
    long = [is_near for network, is_near in zip(shown, near) if abs(network.exponent) * num_steps > 60]
    lines += [
        f"slope within 5 % of lambda_1: {sum(long)} of {len(long)} networks with |lambda_1| T > 60, "
        f"{sum(near)} of {len(near)} with |lambda_1| T > 20 (T = {num_steps})",
        f"largest difference over all T steps, of all networks: {max(ends, default=0):.1f} nats (the ends of the "
        "sequence); -inf: every path back meets a step at which all its units are off",
        "theory: identity cell, orthogonal or identity weight: slope 0 exactly (Saxe et al. 2014);",
        "        sigmoid: slope at most ln(1/4) + ln sigma_max, so it vanishes unless the weight is large (Hochreiter "
        "1991);",
        "        IRNN (relu, identity): gradients neither vanish nor explode at initialisation (Le et al. 2015).",
    ]
    return "\n".join(lines)


def resolved(network: Network) -> bool:
    """Whether growth over the sequence is large against the ends, which are of order one."""
    growth = abs(network.exponent) * (len(network.log_gradient) - 1)
    return bool(np.isfinite(growth) and growth > 20)


def plot(result: VanishingGradients) -> Figure:
    """Gradients against the lag by activation, initialisation and cell; slopes against exponents."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.45), width_ratios=[1, 1, 1, 1.05])
    reach = min(60, len(result.networks[0].log_gradient) - 1)
    find = {(n.cell, n.initialisation, n.stage): n for n in result.networks}

    def draw(axis, chosen, colors):
        for (cell, initialisation, label), color in zip(chosen, colors, strict=True):
            if (cell, initialisation, STAGES[0]) not in find:
                continue
            for stage, style in zip(STAGES, ("-", ":")):
                network = find[cell, initialisation, stage]
                axis.plot(
                    network.log_gradient[: reach + 1],
                    style,
                    color=color,
                    label=label if style == "-" else None,
                )
        axis.set(xlabel="lag $\\tau$ (steps)", ylim=(-60, 15))
        axis.legend(fontsize=6, loc="lower left", handlelength=1.0, borderaxespad=0.2, labelspacing=0.3)

    # tanh and the gated cells have the colours of all figures; the others, and the initialisers, what is left of them.
    cells = dict(zip(ACTIVATIONS, [plotting.COLORS[c] for c in ("blue", "purple", "sky", "black")], strict=True))
    cells |= {name: plotting.CELL_COLORS[name] for name in GATED}
    draw(axes[0], [(a, "orthogonal", a) for a in ACTIVATIONS], [cells[a] for a in ACTIVATIONS])
    others = [plotting.COLORS[c] for c in ("blue", "yellow", "black", "sky", "purple")]
    draw(axes[1], [("tanh", i, i) for i in INITIALISATIONS], others)
    gated = [("LSTM", "uniform", "LSTM"), ("LSTM", "chrono", "LSTM, chrono"), ("GRU", "uniform", "GRU")]
    kinds = ("vanilla", "LSTM", "LSTM, chrono", "GRU")
    draw(axes[2], [("tanh", "uniform", "tanh"), *gated], [plotting.CELL_COLORS[kind] for kind in kinds])
    axes[0].set(title="a  activation", ylabel=r"ln $|dL/dx_{T-\tau}|$")
    axes[1].set(title="b  initialisation")
    axes[2].set(title="c  cell")
    for network in result.networks:
        filled = network.stage == STAGES[0]
        color = cells[network.cell]
        axes[3].plot(
            network.exponent,
            network.slope,
            "s" if network.cell in GATED else "o",
            color=color,
            markersize=3,
            markerfacecolor=color if filled else "white",
            label=network.cell if filled and network.initialisation == "uniform" else None,
        )
    low, high = axes[3].get_xlim()
    axes[3].plot([low, high], [low, high], color=plotting.COLORS["grey"], linewidth=0.8, zorder=0)
    axes[3].set(title="d  slopes", xlabel=r"$\lambda_1$ (nats/step)", ylabel="slope (nats/step)")
    axes[3].legend(fontsize=6, handlelength=0.8, labelspacing=0.3)
    figure.supxlabel("lines and filled marks: at initialisation; dots and open marks: trained", fontsize=7)
    return figure
