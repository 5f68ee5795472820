"""Memories that a fixed-point search does not see: they are 2-cycles.

A vanilla network of 16 tanh units was trained on the 3-bit flip-flop with FixedPointFinder's own example script (Golub
& Sussillo 2018). Each of its memories flips between two states that the readout does not tell apart. All fixed points
are unstable, and a search for fixed points reports a network without memories; a search for cycles finds all eight.
Beside it stand networks trained here with the settings of the script: from these seeds they store fixed points, and
nothing in the outputs tells which kind of memory a network has.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, PositiveFraction, Seed, check
from rnndyn import plotting

CAPTION = """Memories that a fixed-point search does not see, because they are 2-cycles.

- **a** what a search for fixed points finds in a network trained with a published script: grey, states at the task;
  marks by the number of unstable directions, with counts. None is stable.
- **b** what is there: eight stable 2-cycles (blue, the two states joined).
- **c** multipliers of the fixed points; grey disc, the unit circle. Those at the far left flip.
- **d** one unit (orange) and the three outputs over time; grey ground, no input: the unit flips for ever, the outputs
  hold.
- **e** stable fixed points (black) and stable 2-cycles (blue) of this network and of others trained here.
"""

STORED = Path(__file__).parent.parent / "tests" / "data" / "flipflop_vanilla16.npz"
"""The network of the script, trained in PyTorch (see the README beside it)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_steps: int = 64
    pulse_probability: Fraction = 0.5
    """Of a pulse per bit and step, as in the script."""
    num_candidates: int = 128
    num_hold: int = 2000
    """Steps without input after which a state counts as remembered."""
    num_networks: int = 5
    """How many to train here."""
    learning_rate: float = 0.088
    """At the start, as in the script (1 / sqrt(128))."""
    num_updates: int = 800
    batch_size: int = 32
    final_fraction: PositiveFraction = 0.02
    """Of the learning rate, reached exponentially."""
    adam_epsilon: float = 1e-3
    """As in the script, which does not clip gradients either."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(num_steps=8, num_candidates=8, num_networks=1, num_updates=2, batch_size=4)


class HiddenMemories(rd.Result):
    """The stored network in full, and counts of those trained here.

    - `cycles`: fixed points and 2-cycles of the stored network.
    - `certificates`: proofs of its stable 2-cycles.
    - `landed_on_cycles`: the share of visited states that are on a stable 2-cycle after `num_hold` steps without input.
    - `states`: of its trials, `(B, T, N)`.
    - `example_states`, `example_outputs`: one trial whose input falls silent half way.
    - `losses`: validation mean squared errors of the networks trained here, `(M,)`.
    - `num_fixed`, `num_stable_fixed`, `num_cycles`, `num_stable_cycles`: found in each of them, `(M,)`.
    """

    cycles: rd.CycleSet
    certificates: tuple[rd.CycleCertificate, ...]
    landed_on_cycles: float
    states: np.ndarray
    example_states: np.ndarray
    example_outputs: np.ndarray
    losses: np.ndarray
    num_fixed: np.ndarray
    num_stable_fixed: np.ndarray
    num_cycles: np.ndarray
    num_stable_cycles: np.ndarray


def compute(config: Config) -> HiddenMemories:
    """Analyse the stored network, then train others and count what they have."""
    trial_key, candidate_key, train_key = jax.random.split(jax.random.key(config.seed), 3)
    task = {"num_bits": 3, "num_steps": config.num_steps, "pulse_probability": config.pulse_probability}
    trials = rd.tasks.batches("flip_flop", 64, **task)(trial_key)
    cell, readout = stored_network()
    f = rd.as_map(cell)
    states = np.asarray(jax.vmap(lambda inputs: rd.unroll(cell, inputs))(trials.inputs))
    candidates = rd.sample_candidates(states, config.num_candidates, key=candidate_key, noise=0.5)
    cycles: Any = rd.find_cycles(f, candidates, (1, 2), progress=False)
    stable = cycles[2].points[cycles[2].is_stable]
    silent = jnp.arange(config.num_steps) >= config.num_steps // 2
    example = rd.unroll(cell, jnp.where(silent[:, None], 0.0, trials.inputs[0]))
    trained = train(config, task, train_key)
    losses, counts = [], []
    for network in range(config.num_networks):
        fitted = trained.member(network)
        found: Any = rd.find_cycles(rd.as_map(fitted.model.cell), candidates, (1, 2), progress=False)
        losses.append(float(fitted.history.validation_losses[-1]))
        counts.append([c for part in found for c in (len(part), int(part.is_stable.sum()))])
    num_fixed, num_stable_fixed, num_cycles, num_stable_cycles = np.array(counts).T
    return HiddenMemories(
        cycles=cycles,
        certificates=tuple(rd.certify_cycle(f, points) for points in stable),
        landed_on_cycles=landed(f, states, stable, config.num_hold),
        states=states[:24],
        example_states=np.asarray(example),
        example_outputs=np.asarray(jax.vmap(readout)(example)),
        losses=np.array(losses),
        num_fixed=num_fixed,
        num_stable_fixed=num_stable_fixed,
        num_cycles=num_cycles,
        num_stable_cycles=num_stable_cycles,
    )


def stored_network() -> tuple[rd.VanillaCell, Any]:
    """Cell and readout of the stored network."""
    data = np.load(STORED)
    cell = rd.VanillaCell.from_weights(data["W_ih"], data["W_hh"], data["b"])
    weight, bias = jnp.asarray(data["W_out"]), jnp.asarray(data["b_out"])
    return cell, lambda state: weight @ state + bias


def train(config: Config, task: dict[str, Any], key: Any) -> Any:
    """An ensemble of networks trained as in the script."""
    model_key, fit_key = jax.random.split(key)
    return rd.fit_ensemble(
        eqx.filter_vmap(make_model)(jax.random.split(model_key, config.num_networks)),
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches("flip_flop", config.batch_size, **task),
        lambda rate: optax.adam(rate, eps=config.adam_epsilon),
        learning_rate=optax.exponential_decay(config.learning_rate, config.num_updates, config.final_fraction),
        num_steps=config.num_updates,
        validation=rd.tasks.batches("flip_flop", 128, **task),
        validate_every=max(config.num_updates // 4, 1),
        key=fit_key,
    )


def make_model(key: Any) -> rd.RNN:
    """A vanilla network of 16 units with a linear readout."""
    cell_key, readout_key = jax.random.split(key)
    return rd.RNN(rd.VanillaCell(3, 16, key=cell_key), eqx.nn.Linear(16, 3, key=readout_key))


def landed(f: Any, states: np.ndarray, cycles: np.ndarray, num_hold: int) -> float:
    """The share of states that lie on one of the cycles after so many steps."""
    if len(cycles) == 0:
        return 0.0
    ends = jax.jit(jax.vmap(lambda x: rd.trajectory(f, x, 1, num_transient=num_hold - 1)[-1]))(
        jnp.asarray(states[:, -1])
    )
    points = cycles.reshape(-1, cycles.shape[2])
    distances = np.min(np.max(np.abs(np.asarray(ends)[:, None] - points), axis=2), axis=1)
    # The network runs in float32: 1e-4 is far above its rounding, far below the distance of two memories.
    return float(np.mean(distances < 1e-4))


def report(result: HiddenMemories) -> str:
    """What is in the stored network, what was proved, and what others have."""
    proved = sum(certificate.certified and certificate.num_unstable == 0 for certificate in result.certificates)
    lines = [
        str(result.cycles),
        f"{proved} of {len(result.certificates)} stable 2-cycles proved to exist and to be stable",
        f"without input {100 * result.landed_on_cycles:.0f} % of the visited states settle on one of them",
        "networks trained here",
        "validation MSE  fixed points (stable)  2-cycles (stable)",
    ]
    for row in range(len(result.losses)):
        lines.append(
            f"{result.losses[row]:14.2e}  "
            f"{result.num_fixed[row]:12d} ({result.num_stable_fixed[row]:6d})  "
            f"{result.num_cycles[row]:8d} ({result.num_stable_cycles[row]:6d})"
        )
    return "\n".join(lines)


def plot(result: HiddenMemories) -> Figure:
    """What a fixed-point search sees, what is there, why, how it looks in time, and other networks."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.3))
    grid = figure.add_gridspec(2, 6, height_ratios=[1.15, 1])
    projection = plotting.principal_components(result.states, 2)
    draw_search(figure.add_subplot(grid[0, :2]), result, projection)
    draw_memories(figure.add_subplot(grid[0, 2:4]), result, projection)
    draw_multipliers(figure.add_subplot(grid[0, 4:]), result)
    draw_time(figure.add_subplot(grid[1, :4]), result)
    draw_networks(figure.add_subplot(grid[1, 4:]), result)
    return figure


def draw_search(ax: Any, result: HiddenMemories, projection: Any) -> None:
    """Fixed points only."""
    fixed = result.cycles[1]
    draw_states(ax, result, projection)
    for count in np.unique(fixed.num_unstable):
        rows = fixed.num_unstable == count
        kind = min(int(count), 4)
        ax.plot(
            *projection(fixed.points[rows, 0]).T[:2],
            plotting.STABILITY_MARKERS[kind],
            color=plotting.STABILITY_COLORS[kind],
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=f"{count} ({rows.sum()})" if count else f"stable ({rows.sum()})",
        )
    ax.set(title="a  a search for fixed points")
    ax.legend(
        title="unstable directions (points)",
        title_fontsize=6.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncol=4,
        columnspacing=0.8,
        handletextpad=0.1,
    )


def draw_memories(ax: Any, result: HiddenMemories, projection: Any) -> None:
    """The stable 2-cycles: two points each, joined."""
    cycles = result.cycles[2]
    draw_states(ax, result, projection)
    for number, points in enumerate(projection(cycles.points[cycles.is_stable])):
        ax.plot(
            *points.T[:2],
            "o-",
            color=plotting.COLORS["blue"],
            linewidth=1.2,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            # Along the third component, which is not drawn, they lie in pairs one behind the other.
            label=f"stable 2-cycles ({cycles.is_stable.sum()}, in pairs)" if number == 0 else None,
        )
    ax.set(title="b  what is there")
    if cycles.is_stable.any():
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))


def draw_states(ax: Any, result: HiddenMemories, projection: Any) -> None:
    """Visited states, and the names of the axes."""
    ax.plot(*projection(result.states).reshape(-1, 2).T, ".", color="#C8C8C8", markersize=1, zorder=0)
    ax.set(xlabel=projection.label(0), ylabel=projection.label(1), xticks=[], yticks=[])


def draw_multipliers(ax: Any, result: HiddenMemories) -> None:
    """Multipliers of all fixed points: beyond -1 on the left."""
    plotting.plot_multipliers(result.cycles[1].multipliers.ravel(), ax=ax)
    ax.set(title="c  multipliers, fixed points", xlabel=r"Re $\mu$", ylabel=r"Im $\mu$")


def draw_time(ax: Any, result: HiddenMemories) -> None:
    """Two units and the outputs in one trial: the units flip, the outputs hold."""
    time = np.arange(len(result.example_outputs))
    half = len(time) // 2
    spread = np.std(np.diff(result.example_states[half:], axis=0), axis=0)
    unit = int(np.argmax(spread))
    ax.axvspan(half - 0.5, time[-1], color="#F2F2F2", zorder=0, linewidth=0)
    ax.text(half + 0.3, 1.28, "no input", fontsize=7, va="center")
    ax.plot(time, result.example_states[:, unit], color=plotting.COLORS["orange"], linewidth=0.8, label="one unit")
    for bit, name in enumerate(("blue", "green", "purple")[: result.example_outputs.shape[1]]):
        style = {"color": plotting.COLORS[name], "linestyle": ("-", "--", ":")[bit]}
        ax.plot(time, result.example_outputs[:, bit], label=f"output {bit + 1}", **style)
    ax.set(title="d  a unit flips, the outputs hold", xlabel="step $t$", ylabel="state, outputs", ylim=(-1.4, 1.5))
    ax.set_xlim(0, time[-1])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncol=4)


def draw_networks(ax: Any, result: HiddenMemories) -> None:
    """Stable fixed points and stable 2-cycles of the stored network and of those trained here."""
    rows = np.arange(1 + len(result.losses))
    fixed = [result.cycles[1].is_stable.sum(), *result.num_stable_fixed]
    cycles = [result.cycles[2].is_stable.sum(), *result.num_stable_cycles]
    ax.barh(rows - 0.2, fixed, height=0.36, color=plotting.COLORS["black"], label="fixed points")
    ax.barh(rows + 0.2, cycles, height=0.36, color=plotting.COLORS["blue"], label="2-cycles")
    ax.set_yticks(rows, ["script", *[f"here {row}" for row in rows[1:]]])
    ax.set(title="e  stable, by network", xlabel="number")
    ax.invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.24), ncol=2)
