"""What holds a stimulus through a delay: fixed points, a slow drift or a trajectory (Orhan & Ma 2019).

Networks compare two stimuli that a delay separates (Romo et al. 1999). With a delay that varies from trial to trial
the network has to hold the first stimulus at any time; with one that is always the same, states may travel as long as
they arrive. Orhan & Ma find that variable delays favour persistent over sequential activity. Here it is measured, for
three kinds of cells, how far the state travels through the delay, whether one linear readout serves all of it, what
remains of the stimulus long after the delay, and how many places the states then end in.
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._delays import (
    RESPONSE_STEPS,
    STIMULUS_STEPS,
    DelayNetwork,
    best_without_memory,
    delay_states,
    delayed_discrimination,
    look,
)
from experiments._settings import Fraction, Seed, check, check_order, one_of
from experiments._training import train_networks
from rnndyn import plotting

CAPTION = """What holds a stimulus through a delay, by cell and by the delays of the training (Orhan & Ma 2019).

Networks say which of two stimuli is larger; the delay between them is always 20 steps (fixed) or 5 to 35 (variable).
Five networks of each cell and kind of delay.

- **a** share of right answers over the delay at test: full lines, variable training delays; dashed, fixed ones; means
  of the networks, bands, their range for variable delays; grey, the best answer without memory; dotted, the fixed
  delay.
- **b, c** one vanilla network after fixed and one after variable delays, first two principal components of the delay:
  lines, stimuli from violet (low) to yellow (high); black, where the states end when no second stimulus comes.
- **d** how well a linear readout of the stimulus, fitted in the middle of the delay, does at its end: dots, networks
  (filled, variable delays; what is below 0 is drawn there); bars, medians.
- **e** how far the state travels in the second half of the delay, in units of how far apart the stimuli are, over the
  number of places in which 21 stimuli end. Dots, the states have come to rest: one place, the memory was a transient;
  several, it has fixed points. Triangles, they still move, on cycles or tori.
"""

CELLS = {"vanilla": rd.VanillaCell, "GRU": rd.GRUCell, "LSTM": rd.LSTMCell}
DELAYS = ("fixed", "variable")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("vanilla", "GRU", "LSTM")
    num_units: tuple[int, ...] = (32, 20, 18)
    """Of each kind."""
    learning_rates: tuple[float, ...] = (4e-3, 1e-2, 1e-2)
    """Of each kind at the start; they fall to a hundredth along a cosine."""
    fixed_delay: int = 20
    least_delay: int = 5
    most_delay: int = 35
    """Of the variable ones, which are uniform."""
    difference: Fraction = 0.4
    """Between the two stimuli."""
    num_updates: int = 700
    batch_size: int = 32
    max_grad_norm: float = 1.0
    num_seeds: int = 5
    num_stimuli: int = 21
    """Values of the first stimulus for which the delay is looked at."""
    num_trials: int = 256
    """At each delay of the test."""
    test_delays: tuple[int, ...] = (2, 5, 10, 15, 20, 25, 35, 50, 70)
    num_long: int = 3000
    """Steps without a second stimulus after which states have ended somewhere."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "least_delay", "most_delay")
        check_order(self, "fixed_delay", "most_delay")
        for name in ("num_units", "learning_rates"):
            if len(getattr(self, name)) != len(self.cells):
                raise ValueError(f"{name}: allowed is one entry for each of the {len(self.cells)} cells.")


SMOKE = Config(
    cells=("GRU",),
    num_units=(4,),
    learning_rates=(1e-2,),
    fixed_delay=4,
    least_delay=2,
    most_delay=5,
    num_updates=3,
    batch_size=4,
    num_seeds=1,
    num_stimuli=5,
    num_trials=8,
    test_delays=(2, 4),
    num_long=20,
)


class WorkingMemory(rd.Result):
    """All networks of the study."""

    networks: tuple[DelayNetwork, ...]
    stimuli: np.ndarray
    test_delays: np.ndarray
    fixed_delay: int
    chance: float


def compute(config: Config) -> WorkingMemory:
    """Train every network and look at its delay."""
    networks = []
    for index in range(len(config.cells)):
        for delays in DELAYS:
            networks += train_and_look(index, delays, config)
    return WorkingMemory(
        networks=tuple(networks),
        stimuli=np.linspace(-1, 1, config.num_stimuli),
        test_delays=np.array(config.test_delays),
        fixed_delay=config.fixed_delay,
        chance=best_without_memory(config.difference),
    )


def train_and_look(index: int, delays: str, config: Config) -> list[DelayNetwork]:
    """The networks of one cell and one kind of delay, trained side by side."""
    name, size = config.cells[index], config.num_units[index]
    key = jax.random.fold_in(jax.random.key(config.seed), index)
    model_key, fit_key, trial_key = jax.random.split(key, 3)
    # Members start from the same weights and see the same stimuli whatever the delays are.
    is_fixed = delays == "fixed"
    span = {
        "least_delay": config.fixed_delay if is_fixed else config.least_delay,
        "most_delay": config.fixed_delay if is_fixed else config.most_delay,
        "longest": config.most_delay,
        "difference": config.difference,
    }
    trained = train_networks(
        delayed_discrimination,
        span,
        lambda key: CELLS[name](2, size, key=key),
        1,
        (model_key, fit_key),
        num_networks=config.num_seeds,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rates[index],
        max_grad_norm=config.max_grad_norm,
        num_validation=None,
    )
    accuracies = np.asarray(test(trained.models, config, trial_key))
    states, ends, after = (
        np.asarray(a, float)
        for a in delay_states(trained.models, config.num_stimuli, config.fixed_delay, config.num_long)
    )
    return [
        look(name, delays, seed, accuracies[:, seed], states[seed], ends[seed], after[seed], config.fixed_delay)
        for seed in range(config.num_seeds)
    ]


def test(models: Any, config: Config, key: Any) -> np.ndarray:
    """The share of right answers at each delay of each network of an ensemble, (delay, network)."""
    shares = []
    for delay in config.test_delays:
        span = {"least_delay": delay, "most_delay": delay, "longest": max(config.test_delays)}
        make = rd.tasks.batches(delayed_discrimination, config.num_trials, difference=config.difference, **span)
        trials = make(key)
        last = 2 * STIMULUS_STEPS + delay + RESPONSE_STEPS - 1
        answers = np.asarray(answer(models, trials.inputs))[:, :, last, 0]
        shares.append(np.mean(np.sign(answers) == np.asarray(trials.targets)[:, last, 0], axis=1))
    return np.array(shares)


@eqx.filter_jit
def answer(models: Any, inputs: jax.Array) -> jax.Array:
    """The outputs (network, trial, step, 1) of an ensemble."""
    return eqx.filter_vmap(lambda model: jax.vmap(model)(inputs))(models)


def report(result: WorkingMemory) -> str:
    """Medians over the networks of each cell and kind of delay."""
    at = int(np.argmin(np.abs(result.test_delays - result.fixed_delay)))
    lines = [
        f"medians over networks; answers without memory: {result.chance:.2f} right at best",
        "                   right at delay        readout of the stimulus, R^2        travel    places in which",
        f"cell     delays    {result.test_delays[at]:<8d} {result.test_delays[-1]:<12d} at the end  of half way"
        "  in the end  /spread   states end (* still move)",
    ]
    for cell, delays in kinds(result):
        group = members(result, cell, delays)
        median = lambda pick, group=group: float(np.median([pick(n) for n in group]))
        ends = [f"{n.num_ends}{'*' if moves(n) else ''}" for n in sorted(group, key=lambda n: n.num_ends)]
        lines.append(
            f"{cell:<8} {delays:<9} {median(lambda n: n.accuracies[at]):<8.2f} "
            f"{median(lambda n: n.accuracies[-1]):<12.2f} {median(lambda n: n.own_score):<11.2f} "
            f"{median(lambda n: n.late_score):<13.2f} {median(lambda n: n.long_score):<11.2f} "
            f"{median(lambda n: n.travel):<9.2f} {', '.join(ends)}"
        )
    lines.append(
        "Orhan & Ma 2019 (Nature Neuroscience 22, 275-283): variable delays make activity in the delay more "
        "persistent, fixed ones more sequential; their tasks are others, and their networks larger, of ReLUs."
    )
    return "\n".join(lines)


def moves(network: DelayNetwork) -> bool:
    """Whether the states still move long after the delay."""
    return network.end_speed > 1e-3


def kinds(result: WorkingMemory) -> list[tuple[str, str]]:
    """Every cell with every kind of delay, in order."""
    return list(dict.fromkeys((network.cell, network.delays) for network in result.networks))


def members(result: WorkingMemory, cell: str, delays: str) -> list[DelayNetwork]:
    """The networks of one cell and kind of delay."""
    return [network for network in result.networks if (network.cell, network.delays) == (cell, delays)]


def plot(result: WorkingMemory) -> Figure:
    """Answers over the delay, two portraits, the readout that stays or not, and travel against what remains."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.9))
    grid = figure.add_gridspec(2, 6)
    draw_accuracies(figure.add_subplot(grid[0, :2]), result)
    first = result.networks[0].cell
    for column, delays in enumerate(DELAYS):
        network = members(result, first, delays)[0]
        draw_portrait(figure.add_subplot(grid[0, 2 + 2 * column : 4 + 2 * column]), network, result)
    draw_scores(figure.add_subplot(grid[1, :3]), result)
    draw_travel(figure.add_subplot(grid[1, 3:]), result)
    return figure


def draw_accuracies(ax: Any, result: WorkingMemory) -> None:
    """Right answers over the delay of the test."""
    for cell, delays in kinds(result):
        values = np.array([network.accuracies for network in members(result, cell, delays)])
        color = plotting.CELL_COLORS[cell]
        is_fixed = delays == "fixed"
        style = {"color": color, "linestyle": "--" if is_fixed else "-", "linewidth": 1.1}
        ax.plot(result.test_delays, values.mean(axis=0), label=None if is_fixed else cell, **style)
        if not is_fixed:
            ax.fill_between(
                result.test_delays, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0
            )
    ax.axhline(result.chance, color=plotting.COLORS["grey"], linewidth=0.8)
    ax.axvline(result.fixed_delay, color="black", linestyle=":", linewidth=0.8)
    ax.set(title="a  right answers", xlabel="delay at test (steps)", ylabel="share", ylim=(0.4, 1.02))
    ax.legend(loc="lower right")


def draw_portrait(ax: Any, network: DelayNetwork, result: WorkingMemory) -> None:
    """States of one network through the delay, and where they end."""
    projection = plotting.principal_components(network.states, 2)
    colors = plt.colormaps["viridis"]((result.stimuli + 1) / 2)
    for path, color in zip(projection(network.states), colors):
        ax.plot(*path.T, color=color, linewidth=0.8)
        ax.plot(*path[0], "o", color=color, markersize=2)
    ax.plot(*projection(network.ends).T, "o", color="black", markersize=4, zorder=3, label="ends")
    letter = "bc"[DELAYS.index(network.delays)]
    ax.set(title=f"{letter}  {network.cell}, {network.delays} delay", xticks=[], yticks=[])
    ax.set(xlabel=projection.label(0), ylabel=projection.label(1))
    ax.legend(loc="best")


def draw_scores(ax: Any, result: WorkingMemory) -> None:
    """How an early readout does late, by cell and kind of delay."""
    names = []
    for place, (cell, delays) in enumerate(kinds(result)):
        values = [network.late_score for network in members(result, cell, delays)]
        color = plotting.CELL_COLORS[cell]
        face = color if delays == "variable" else "white"
        jitter = np.linspace(-0.15, 0.15, len(values))
        ax.plot(place + jitter, values, "o", color=color, markerfacecolor=face, markersize=4)
        ax.plot([place - 0.28, place + 0.28], [np.median(values)] * 2, color="black", linewidth=1.3)
        names.append(f"{cell}\n{delays}")
    ax.set_xticks(range(len(names)), names, fontsize=6.5)
    ax.set(title="d  fitted half way, read at the end", ylabel="$R^2$", ylim=(-0.05, 1.05))


def draw_travel(ax: Any, result: WorkingMemory) -> None:
    """Travel in the delay over the number of ends."""
    rng = np.random.default_rng(0)
    for cell, delays in kinds(result):
        group = members(result, cell, delays)
        color = plotting.CELL_COLORS[cell]
        # Networks with equally many ends beside each other.
        face = color if delays == "variable" else "white"
        for network in group:
            place = network.num_ends * (1 + rng.uniform(-0.06, 0.06))
            marker = "^" if moves(network) else "o"
            ax.loglog(place, network.travel, marker, color=color, markerfacecolor=face, markersize=4.5)
        if delays == "variable":
            ax.plot([], [], "o", color=color, markersize=4.5, label=cell)
    most = max(2, max(network.num_ends for network in result.networks))
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20) if tick <= most]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(title="e  travel and what remains", xlabel="places in which states end", ylabel="travel / spread of stimuli")
    ax.legend(title="filled: variable delays", title_fontsize=7, loc="upper center")
