"""The fixed points of networks trained on the 3-bit flip-flop (Sussillo & Barak 2013).

Three kinds of networks learn to hold three bits. The textbook portrait is a cube: 8 stable memories at its corners, 12
saddles with one unstable direction on its edges, 6 with two on its faces, and one with three in its centre. What each
network does instead is counted as it is; its 2-cycles are searched once, from states of trials.
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, Seed, check, check_same_length, one_of
from experiments._training import train_networks
from rnndyn import plotting

CAPTION = """The fixed points of the 3-bit flip-flop (Sussillo & Barak 2013).

Three kinds of networks learn to hold three bits. The textbook portrait is a cube: 8 memories at the corners, 12
saddles on the edges, 6 on the faces, one in the centre.

- **a, b, c** one GRU, LSTM and vanilla network, first three principal components with their share of the variance:
  grey, trajectories at the task; black circles, stable points; orange crosses, blue diamonds, pink squares: points
  with one, two, three unstable directions; orange and black lines leave the saddles along their unstable directions.
  Counts in the legend.
- **d** validation error of every network over training, coloured by kind; dotted, the error at which training stops.
- **e** multipliers of the points of panel a, in the same colours and marks; grey disc, the unit circle.
- **f** the number of points of every network, stacked by stability in the colours of panel a, under the textbook's.
  2-cycles were searched once, from states of trials: there may be more.
"""

CELLS = {"GRU": rd.GRUCell, "LSTM": rd.LSTMCell, "vanilla": rd.VanillaCell}
TEXTBOOK = (8, 12, 6, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result.

    Training for longer splits saddles and memories of some GRUs: `--num-steps 64 --batch-size 64 --num-updates
    2000 2000 2000 --target 9e-4`, four minutes of one core, gave two of five 29 and 33 fixed points.
    """

    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("GRU", "LSTM", "vanilla")
    """Which kinds of networks to train."""
    num_bits: int = 3
    pulse_probability: Fraction = 0.2
    """Of a pulse per bit and step."""
    num_steps: int = 48
    """Length of a trial."""
    batch_size: int = 32
    num_units: tuple[int, ...] = (24, 16, 32)
    """Of each kind."""
    num_updates: tuple[int, ...] = (800, 800, 800)
    """The most of each kind."""
    target: float = 2.5e-3
    """Validation MSE at which training of a network ends."""
    learning_rates: tuple[float, ...] = (1e-2, 1.5e-2, 1.5e-2)
    """Of each kind at the start; they fall to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    num_seeds: int = 5
    num_candidates: int = 128
    """Starting points of each search, drawn from visited states."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "cells", "num_units", "num_updates", "learning_rates")


SMOKE = Config(
    cells=("GRU",),
    num_bits=2,
    num_steps=8,
    batch_size=4,
    num_units=(4,),
    num_updates=(4,),
    learning_rates=(1e-2,),
    num_seeds=1,
    num_candidates=16,
)


class TrainedNetwork(rd.Result):
    """One trained network and its long-term states at zero input."""

    cell: str
    seed: int
    validation_loss: float
    history: rd.training.History
    fixed_points: rd.FixedPoints
    num_cycles: int
    num_stable_cycles: int
    trajectories: np.ndarray

    @property
    def counts(self) -> tuple[int, ...]:
        """Fixed points with 0, 1, 2, 3 and more unstable directions."""
        num_unstable = np.minimum(self.fixed_points.num_unstable, 4)
        return tuple(np.bincount(num_unstable, minlength=5).tolist())


class FlipFlop(rd.Result):
    """All networks of the study."""

    networks: tuple[TrainedNetwork, ...]
    target: float


def compute(config: Config) -> FlipFlop:
    """Train every network and find its fixed points and 2-cycles at zero input."""
    networks = []
    for index, name in enumerate(config.cells):
        networks += train_and_search(name, index, config)
    return FlipFlop(tuple(networks), config.target)


def train_and_search(name: str, index: int, config: Config) -> list[TrainedNetwork]:
    """The networks of one kind, trained side by side."""
    key = jax.random.fold_in(jax.random.key(config.seed), index)
    model_key, fit_key, trial_key = jax.random.split(key, 3)

    task = {
        "num_bits": config.num_bits,
        "num_steps": config.num_steps,
        "pulse_probability": config.pulse_probability,
    }
    trained = train_networks(
        "flip_flop",
        task,
        lambda key: CELLS[name](config.num_bits, config.num_units[index], key=key),
        config.num_bits,
        (model_key, fit_key),
        num_networks=config.num_seeds,
        num_updates=config.num_updates[index],
        batch_size=config.batch_size,
        learning_rate=config.learning_rates[index],
        max_grad_norm=config.max_grad_norm,
        num_looks=40,
        target=config.target,
    )
    trials = rd.tasks.batches("flip_flop", 64, **task)(trial_key)
    visited = np.asarray(visited_states(trained.models, trials.inputs))
    rng = np.random.default_rng([config.seed, index])
    networks = []
    for seed in range(config.num_seeds):
        fitted = trained.member(seed)
        f = rd.as_map(fitted.model.cell)
        states = visited[seed].reshape(-1, visited.shape[-1])
        candidates = states[rng.integers(0, len(states), config.num_candidates)]
        points = rd.find_fixed_points(f, candidates, until_complete=True, progress=False)
        # What stays after two steps: these points, and 2-cycles among what the network visits; the index sum tells of
        # others.
        starts = np.concatenate([points.points, candidates])
        twice = rd.find_fixed_points(rd.iterate(f, 2), starts, max_rounds=1, num_paths=0, progress=False)
        moves = np.max(np.abs(images(f, jnp.asarray(twice.points, jnp.float32)) - twice.points), axis=1) > 1e-4
        networks.append(
            TrainedNetwork(
                cell=name,
                seed=seed,
                validation_loss=float(fitted.history.validation_losses[-1]),
                history=fitted.history,
                fixed_points=points,
                num_cycles=int(moves.sum()) // 2,
                num_stable_cycles=int((moves & twice.is_stable).sum()) // 2,
                trajectories=visited[seed, :24],
            )
        )
    return networks


@eqx.filter_jit
def visited_states(models: Any, inputs: jax.Array) -> jax.Array:
    """The flat states (network, trial, step, N) of every network of an ensemble."""

    def one(model: Any) -> jax.Array:
        flatten = rd.as_map(model.cell).flatten
        return jax.vmap(lambda trial: jax.vmap(flatten)(model.states(trial)))(inputs)

    return eqx.filter_vmap(one)(models)


@eqx.filter_jit
def images(f: Any, points: jax.Array) -> jax.Array:
    """Where each point goes in one step."""
    return jax.vmap(f)(points)


def report(result: FlipFlop) -> str:
    """The counts of every network beside the textbook's."""
    lines = [
        "network    seed  validation MSE  fixed points by unstable directions   index  largest   2-cycles",
        "                                 total     0     1     2     3  more     sum  residual  (stable)",
        f"{'textbook':<32} {sum(TEXTBOOK):5d} {TEXTBOOK[0]:5d} {TEXTBOOK[1]:5d} {TEXTBOOK[2]:5d} {TEXTBOOK[3]:5d}"
        f" {0:5d} {1:7d}",
    ]
    for network in result.networks:
        points = network.fixed_points
        residual = f"{points.residuals.max(initial=0):9.1e}"
        lines.append(
            f"{network.cell:<10} {network.seed:4d}  {network.validation_loss:14.2e}  {len(points):5d}"
            + "".join(f" {count:5d}" for count in network.counts)
            + f" {points.index_sum:7d} {residual}  {network.num_cycles} ({network.num_stable_cycles})"
        )
    lines.append("2-cycles were searched once, from states of trials: there may be more")
    return "\n".join(lines)


def plot(result: FlipFlop) -> Figure:
    """Portraits of one network of each kind, the training curves, multipliers, and all counts."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 5.2))
    grid = figure.add_gridspec(2, 3, height_ratios=[1.45, 1])
    kinds = list(dict.fromkeys(network.cell for network in result.networks))
    for column, kind in enumerate(kinds):
        network = next(n for n in result.networks if n.cell == kind)
        ax: Any = figure.add_subplot(grid[0, column], projection="3d")
        plotting.plot_fixed_points(network.fixed_points, network.trajectories, max_trajectories=10, ax=ax)
        draw_from_clearest_side(ax, network)
        ax.set_title(f"{'abc'[column]}  {kind}, {network.fixed_points.points.shape[1]} variables", y=1.02)
        ax.set_box_aspect(None, zoom=1.08)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, columnspacing=0.8, handletextpad=0.1)
    draw_training(figure.add_subplot(grid[1, 0]), result, kinds)
    draw_multipliers(figure.add_subplot(grid[1, 1]), result.networks[0])
    draw_counts(figure.add_subplot(grid[1, 2]), result, kinds)
    # A 3-D panel keeps room for what it does not draw; the band above the first row is cut off.
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, 0, 1, 1.075))
    return figure


def draw_from_clearest_side(ax: Any, network: TrainedNetwork) -> None:
    """Turn a portrait so that no two of its stable points come close to each other on the page."""
    points = plotting.principal_components(network.trajectories)(network.fixed_points.points)
    stable = points[network.fixed_points.is_stable]
    limits = np.array([ax.get_xlim(), ax.get_ylim(), ax.get_zlim()])
    # Panels are not as high as they are wide.
    scaled = (stable - limits.mean(axis=1)) / np.ptp(limits, axis=1) * np.array([4.0, 4.0, 3.0])
    apart = scaled[:, None] - scaled[None]
    best, clearest = (30.0, -60.0), -1.0
    for elevation in range(15, 46, 5):
        for azimuth in range(-85, 0, 5):
            up, turn = np.radians([elevation, azimuth])
            towards = np.array([np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)])
            seen = np.linalg.norm(apart - (apart @ towards)[..., None] * towards, axis=-1)
            nearest = np.min(seen[np.triu_indices(len(seen), 1)], initial=np.inf)
            if nearest > clearest:
                best, clearest = (float(elevation), float(azimuth)), float(nearest)
    ax.view_init(*best)


def draw_training(ax: Any, result: FlipFlop, kinds: list[str]) -> None:
    """Validation loss of every network over its training."""
    for kind in kinds:
        for network in (n for n in result.networks if n.cell == kind):
            ax.semilogy(
                network.history.validation_steps,
                network.history.validation_losses,
                color=plotting.CELL_COLORS[kind],
                label=kind if network.seed == 0 else None,
                alpha=0.8,
            )
    ax.axhline(result.target, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    ax.set(title="d  training", xlabel="update", ylabel="validation MSE")
    ax.legend()


def draw_multipliers(ax: Any, network: TrainedNetwork) -> None:
    """Multipliers of one network, one colour for each number of unstable directions."""
    points = network.fixed_points
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.fill(np.cos(angle), np.sin(angle), color="#F2F2F2", zorder=0)
    for count in np.unique(points.num_unstable):
        values: Any = points.multipliers[points.num_unstable == count].ravel()
        ax.plot(
            values.real,
            values.imag,
            plotting.STABILITY_MARKERS[min(count, 4)],
            color=plotting.STABILITY_COLORS[min(count, 4)],
            markersize=2.5,
            markeredgewidth=0,
        )
    ax.set(title=f"e  multipliers, {network.cell}", xlabel=r"Re $\mu$", ylabel=r"Im $\mu$", aspect="equal")


def draw_counts(ax: Any, result: FlipFlop, kinds: list[str]) -> None:
    """Fixed points by unstable directions for every network, beside the textbook's."""
    rows = [("textbook", (*TEXTBOOK, 0), 0)]
    rows += [(f"{n.cell} {n.seed}", n.counts, n.num_stable_cycles) for n in result.networks]
    for place, (_, counts, cycles) in enumerate(rows):
        left = 0
        for kind, count in enumerate(counts):
            ax.barh(place, count, left=left, color=plotting.STABILITY_COLORS[kind], height=0.75)
            left += count
        if cycles:
            ax.text(left + 0.6, place, f"{cycles} stable 2-cycles", va="center", fontsize=6)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=6)
    ax.invert_yaxis()
    ax.set(title="f  all networks", xlabel="fixed points")
