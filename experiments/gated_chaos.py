"""Gated networks without input can be chaotic; the chaos-free cell cannot (Laurent & von Brecht 2016).

An LSTM and a GRU of two units each, without input and bias, wander on strange attractors. The same GRU weights with
the reset gate applied after the recurrent product (as PyTorch and Equinox do) settle down instead. Every state of the
chaos-free network goes to zero.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import CountOrZero, Seed, check, check_order
from rnndyn import plotting

CAPTION = """Chaos in LSTM and GRU, and a cell without it (Laurent & von Brecht 2016).

Two units, no input, no bias.

- **a, b, c** the attractor of an LSTM, of a GRU with the reset gate before the recurrent product, and of the same GRU
  weights with it after; colour, how much a small perturbation grows there in one step (red) or shrinks (blue), in
  nats; in the title the largest exponent.
- **d** chaos-free network: the largest |h| over all starts, by step, until rounding. It goes to
  zero.
"""

# Rows: input, forget, cell and output gate.
LSTM_WEIGHTS = [[-1, -4], [-3, -2], [-2, 6], [0, -6], [-1, -6], [6, -9], [4, 1], [-9, -7]]
# Rows: reset, update and candidate.
GRU_WEIGHTS = [[0, 1], [1, 0], [0, 1], [1, 1], [-5, -8], [8, 5]]
# By a NumPy loop of ours: Laurent & von Brecht (2016) give the weights and show the attractors, but no exponents.
REFERENCE = {
    "LSTM": (0.1702, -0.3849, -1.677, -4.625),
    "GRU, reset before": (0.069,),
    "GRU, reset after": (-0.223,),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_steps: int = 100_000
    num_transient: CountOrZero = 2_000
    num_shown: int = 12_000
    """States of each attractor to draw."""
    num_starts: int = 200
    """Initial states of the chaos-free network."""
    decay_steps: int = 400
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "num_shown", "num_steps")


SMOKE = Config(num_steps=400, num_transient=100, num_shown=100, num_starts=4, decay_steps=20)


class Attractor(rd.Result):
    """One network without input: its exponents, verdicts and states."""

    name: str
    exponents: np.ndarray
    stderr: np.ndarray
    dimension: float
    zero_one: float
    states: np.ndarray
    growth: np.ndarray


class GatedChaos(rd.Result):
    """The three gated networks, and how the chaos-free one decays."""

    attractors: tuple[Attractor, ...]
    decay: np.ndarray


def compute(config: Config) -> GatedChaos:
    """Exponents and local exponents of the gated networks, and the decay of the chaos-free one."""
    nothing = np.zeros((8, 0))
    cells = {
        "LSTM": rd.LSTMCell.from_weights(nothing, np.array(LSTM_WEIGHTS, float), np.zeros(8)),
        "GRU, reset before": rd.GRUCell.from_weights(
            nothing[:6], np.array(GRU_WEIGHTS, float), np.zeros(6), reset="before"
        ),
        "GRU, reset after": rd.GRUCell.from_weights(
            nothing[:6], np.array(GRU_WEIGHTS, float), np.zeros(6), np.zeros(2)
        ),
    }
    with jax.enable_x64(True):
        attractors = tuple(analyse(name, jax.tree.map(to_float64, cell), config) for name, cell in cells.items())
        free = rd.ChaosFreeCell(0, 2, weight_hh_init=rd.initializers.gaussian(8.0), key=jax.random.key(config.seed))
        starts = jax.random.uniform(jax.random.key(config.seed + 1), (config.num_starts, 2), minval=-1, maxval=1)
        f = rd.as_map(jax.tree.map(to_float64, free))
        paths = jax.vmap(lambda x: rd.trajectory(f, x, config.decay_steps))(starts)
    return GatedChaos(attractors, np.max(np.abs(np.asarray(paths)), axis=(0, 2)))


def to_float64(leaf: Any) -> Any:
    """Arrays in the precision of the analysis."""
    return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


def analyse(name: str, cell: Any, config: Config) -> Attractor:
    """One network from the state 1/2 in every entry."""
    f = rd.as_map(cell)
    x0 = jnp.full(f.state_size, 0.5)
    spectrum = rd.lyapunov_spectrum(f, x0, config.num_steps, num_transient=config.num_transient)
    local = rd.local_exponents(f, x0, config.num_shown, num_transient=config.num_transient)
    test = rd.zero_one_test(np.asarray(local.states)[: min(config.num_shown, 4000), 0])
    return Attractor(
        name=name,
        exponents=np.asarray(spectrum.exponents),
        stderr=np.asarray(spectrum.stderr),
        dimension=float(spectrum.kaplan_yorke_dimension),
        zero_one=float(test.statistic),
        states=np.asarray(local.states)[:, :2],
        growth=np.asarray(local.exponents)[:, 0],
    )


def report(result: GatedChaos) -> str:
    """Exponents beside the reference, with the independent 0-1 test."""
    lines = ["network             exponent    +-        NumPy loop  (nats per step)"]
    for attractor in result.attractors:
        known = REFERENCE[attractor.name]
        for i, (value, error) in enumerate(zip(attractor.exponents, attractor.stderr)):
            name = attractor.name if i == 0 else ""
            reference = f"{known[i]:9.4f}" if i < len(known) else ""
            lines.append(f"{name:<18} {value:9.4f}   {error:7.1e}  {reference}")
        lines.append(
            f"                   Kaplan-Yorke dimension {attractor.dimension:.3f}, 0-1 test {attractor.zero_one:.2f} "
            f"({'chaotic' if attractor.zero_one > 0.5 else 'regular'})"
        )
    steps = len(result.decay)
    lines.append(
        f"chaos-free network: largest |h| over all starts after {steps} steps {result.decay[-1]:.1e} (goes to 0)"
    )
    return "\n".join(lines)


def plot(result: GatedChaos) -> Figure:
    """The attractors coloured by where they stretch, and the decay of the chaos-free network."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.2), width_ratios=[1, 1, 1, 0.9])
    limit = 2.0
    for letter, ax, attractor in zip("abc", axes, result.attractors):
        size = 12 if attractor.exponents[0] < 0 else 0.8
        image = ax.scatter(
            *attractor.states.T,
            c=attractor.growth,
            cmap="coolwarm",
            vmin=-limit,
            vmax=limit,
            s=size,
            linewidth=0,
            rasterized=True,
        )
        ax.set(xlabel="$h_1$", ylabel="$h_2$")
        ax.set_title(f"{letter}  {attractor.name}\n" + rf"$\lambda_1 = {attractor.exponents[0]:.3f}$")
    figure.colorbar(image, ax=axes[:3], label="growth in one step (nats)", shrink=0.9, pad=0.01)
    # Down to the rounding of states of order one: what follows is the same line, to no use.
    shown = result.decay > 1e-16
    axes[3].semilogy(np.arange(1, len(result.decay) + 1)[shown], result.decay[shown])
    axes[3].set(title="d  chaos-free\n", xlabel="step", ylabel="largest |h| of all starts")
    axes[3].set_yticks([1.0, 1e-5, 1e-10, 1e-15])
    return figure
