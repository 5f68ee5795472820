"""Memories that pulses switch as an excitable network attractor, and the echo index (Ceni, Ashwin & Livi 2020).

A network that holds two bits has four stable fixed points. A pulse throws the state off one of them; it comes back, or
falls into the basin of another, and the strength that decides lies on the stable manifold of a saddle. Memories and
pulses thus make a graph, with an excitability threshold on every edge. As long as the state settles between pulses this
graph says which memory the network is in, and how many responses to one input remain: its echo index, the number of
solutions that attract all others. The same number is found for two units driven by a square wave, where continuation
of the forced response says at which amplitude it falls.
"""

import dataclasses
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._echo_index import DrivenUnits, draw_units, drive_two_units
from experiments._memory_graph import Analysis, ExcitableNetwork, analyse
from experiments._pulses import destinations
from experiments._settings import Fraction, check, check_increasing
from experiments._training import train_networks
from rnndyn import plotting

CAPTION = """Memories that pulses switch, as an excitable network attractor (Ceni, Ashwin & Livi 2020).

Networks of 32 tanh units that hold two bits; panels a to c show one of five.

- **a** the four memories in the plane of two principal components; on each arrow, the weakest pulse of one step that
  takes the one to the other, of 48 directions of the two inputs. Grey, trajectories at the task.
- **b** where the network is after one pulse from each memory, over the two inputs: the colours of the memories in a;
  grey, none of them; crosses, the pulses of the task; dot, none.
- **c** steps to switch over how far the pulse is above the threshold, one edge of each of the five networks (markers);
  lines, one step for each factor of the unstable multiplier of the saddle on the edge, which is not fitted.
- **d** thresholds of all edges of the five networks: one bit switches (blue), both at once (orange crosses);
  dotted, the size of the pulses of the task.
- **e** echo index of the network of a over the size of the pulses of one sequence: markers, counted from many initial
  states, for pulses 64, 16 and 4 steps apart (lifted a little each); black, what the graph of the memories gives, which
  lets the state settle; dotted, the weakest edge. Pulses that follow soon add up.
- **f** echo index of two units over amplitude and period of a square wave, counted; lines, folds of the forced
  responses found by continuation. Top row: random signs in place of the square wave.
"""

MEMORY_COLORS = ("blue", "orange", "sky", "yellow")


@dataclasses.dataclass(frozen=True)
class Config(Analysis):
    """Everything that decides the result."""

    num_units: int = 32
    num_steps: int = 48
    """Length of a trial."""
    pulse_probability: Fraction = 0.15
    """Of a pulse per bit and step."""
    batch_size: int = 32
    num_updates: int = 700
    learning_rate: float = 6e-3
    """At the start; it falls to a hundredth along a cosine."""
    num_seeds: int = 5
    num_angles: int = 48
    """Directions of the pulses."""
    num_radii: int = 30
    """Sizes of the pulses."""
    max_pulse: float = 1.5
    num_plane: int = 61
    """Values of each input in the plane of panel b."""
    num_excesses: int = 10
    """Pulses above a threshold at which the switch is timed."""
    num_amplitudes: int = 31
    """Sizes of the pulses of a sequence, up to `max_sequence_pulse`."""
    max_sequence_pulse: float = 0.6
    num_starts: int = 20
    """Initial states of which the echo index is counted, the memories among them."""
    log2_periods: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Periods of the square wave that drives two units, as powers of two."""
    num_wave_amplitudes: int = 60
    max_wave_amplitude: float = 0.6
    num_wave_periods: int = 60
    """How many of the longest periods the two units are driven for."""

    def __post_init__(self) -> None:
        check(self)
        check_increasing(self, "gaps", "log2_periods")


SMOKE = Config(
    num_units=8,
    num_steps=12,
    batch_size=8,
    num_updates=150,
    learning_rate=2e-2,
    num_seeds=1,
    num_candidates=32,
    num_angles=8,
    num_radii=6,
    num_plane=5,
    settle_steps=40,
    passage_steps=60,
    num_excesses=3,
    num_amplitudes=3,
    num_pulses=6,
    gaps=(4,),
    num_starts=8,
    log2_periods=(1, 2),
    num_wave_amplitudes=4,
    num_wave_periods=8,
)


class ExcitableNetworks(rd.Result):
    """All networks of the study; of the first, the memory after each pulse of a square grid, (memory, u2, u1)."""

    networks: tuple[ExcitableNetwork, ...]
    plane: np.ndarray
    reached: np.ndarray
    excesses: np.ndarray
    gaps: np.ndarray
    amplitudes: np.ndarray
    units: DrivenUnits


def compute(config: Config) -> ExcitableNetworks:
    """Train networks, find the graph of their memories, and count the echo index of networks and of two units."""
    model_key, fit_key, trial_key, state_key, wave_key = jax.random.split(jax.random.key(config.seed), 5)
    task = {"num_bits": 2, "num_steps": config.num_steps, "pulse_probability": config.pulse_probability}
    trained = train_networks(
        "flip_flop",
        task,
        lambda key: rd.VanillaCell(2, config.num_units, key=key),
        2,
        (model_key, fit_key),
        num_networks=config.num_seeds,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    trials = rd.tasks.batches("flip_flop", 32, **task)(trial_key)
    starts = jax.random.uniform(state_key, (config.num_starts, config.num_units), minval=-1, maxval=1)
    angles = np.arange(config.num_angles) * 2 * np.pi / config.num_angles
    radii = np.arange(1, config.num_radii + 1) * config.max_pulse / config.num_radii
    excesses = 10.0 ** -np.linspace(1, 10, config.num_excesses)
    amplitudes = np.linspace(0, config.max_sequence_pulse, config.num_amplitudes)
    networks = tuple(
        analyse(trained.member(k), trials.inputs, starts, angles, radii, excesses, amplitudes, config)
        for k in range(config.num_seeds)
    )
    plane = np.linspace(-config.max_pulse, config.max_pulse, config.num_plane)
    grid = np.stack(np.meshgrid(plane, plane), axis=-1).reshape(-1, 2)
    first, f = networks[0], rd.as_driven_map(trained.member(0).model.cell)
    reached = [destinations(f, memory, first.memories, grid, config.settle_steps) for memory in first.memories]
    return ExcitableNetworks(
        networks=networks,
        plane=plane,
        reached=np.reshape(reached, (len(first.memories), len(plane), len(plane))).astype(int),
        excesses=excesses,
        gaps=np.array(config.gaps),
        amplitudes=amplitudes,
        units=drive_two_units(
            config.log2_periods,
            np.linspace(0, config.max_wave_amplitude, config.num_wave_amplitudes),
            config.num_wave_periods,
            wave_key,
        ),
    )


def report(result: ExcitableNetworks) -> str:
    """Thresholds, the saddle on the weakest edge, and echo indices counted beside those of the graphs and folds."""
    lines = [
        "network  MSE      points by unstable directions  thresholds          saddle on the weakest edge",
        "                  0   1   2   more               weakest  strongest  distance  multiplier  steps per e-fold",
        "                                                 (one bit)                                 counted  1/ln(mu)",
    ]
    for number, network in enumerate(result.networks):
        counts = np.bincount(np.minimum(network.fixed_points.num_unstable, 3), minlength=4)
        single, _ = edge_thresholds(network)
        slope, predicted = passage_slopes(network, result.excesses)
        largest = np.max(np.abs(network.saddle_multipliers), initial=0)
        lines.append(
            f"{number:<8} {network.validation_loss:<8.1e} "
            + " ".join(f"{count:<3d}" for count in counts)
            + f"{'':14}{min(single, default=np.nan):<8.3f} {max(single, default=np.nan):<10.3f} "
            f"{network.saddle_distance:<9.1e} {largest:<11.3f} {slope:<8.2f} {predicted:.2f}"
        )
    lines.append("echo index under one sequence of pulses: share of (network, amplitude) where it is that of the graph")
    for row, gap in enumerate(result.gaps):
        equal = [np.mean(n.echo_indices[row] == n.predicted_indices[row]) for n in result.networks]
        lines.append(f"  pulses {gap:>2d} steps apart  {np.mean(equal):.2f}")
    units = result.units
    from_folds = (units.amplitudes < units.folds[..., None]).sum(axis=1)
    lines += [
        "two units under a square wave: share of (period, amplitude) where the index is the number of responses before "
        f"their folds: {np.mean(units.indices == from_folds):.3f}",
        "period  folds of the responses",
        *(f"{p:>6d}  " + "  ".join(f"{x:.4f}" for x in np.sort(row)) for p, row in zip(units.periods, units.folds)),
        "Ceni, Ashwin & Livi 2020 (Cognitive Computation 12) define edges by the smallest ball around a memory that "
        "meets another basin; here the input has to throw the state there.",
        "Ceni, Ashwin, Livi & Postlethwaite 2020 (Physica D 412): small inputs keep the index of the free system, "
        "and it can change with the input.",
    ]
    return "\n".join(lines)


def edge_thresholds(network: ExcitableNetwork) -> tuple[list[float], list[float]]:
    """Thresholds of the edges that switch one bit, and of those that switch both."""
    changed = np.sum(network.bits[:, None] != network.bits, axis=-1)
    found = np.isfinite(network.thresholds)
    return network.thresholds[found & (changed == 1)].tolist(), network.thresholds[found & (changed == 2)].tolist()


def passage_slopes(network: ExcitableNetwork, excesses: np.ndarray) -> tuple[float, float]:
    """Steps to switch for each factor e of the excess: counted, and from the unstable multiplier of the saddle."""
    # The logarithmic law holds where the state comes close to the saddle.
    close = excesses < 1e-3
    if not network.saddle_multipliers.size or close.sum() < 2:
        return np.nan, np.nan
    slope = -np.polyfit(np.log(excesses[close]), network.waits[close], 1)[0]
    return float(slope), float(1 / np.log(np.abs(network.saddle_multipliers).max()))


def plot(result: ExcitableNetworks) -> Figure:
    """Graph, input plane, passage times; thresholds, echo indices of a network and of two units."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.9))
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 1.05])
    network = result.networks[0]
    draw_graph(figure.add_subplot(grid[0, 0]), network)
    draw_input_planes(figure, grid[0, 1], result)
    draw_passages(figure.add_subplot(grid[0, 2]), result)
    draw_thresholds(figure.add_subplot(grid[1, 0]), result)
    draw_echo_index(figure.add_subplot(grid[1, 1]), result)
    draw_units(figure, figure.add_subplot(grid[1, 2]), result.units)
    return figure


def memory_color(place: int) -> str:
    """The colour of a memory; those beyond the fourth, which few networks have, are black."""
    return plotting.COLORS[MEMORY_COLORS[place] if place < len(MEMORY_COLORS) else "black"]


def memory_name(bits: np.ndarray) -> str:
    """The bits as signs."""
    return "".join("+" if bit > 0 else "\N{MINUS SIGN}" for bit in bits)


def draw_graph(ax: Any, network: ExcitableNetwork) -> None:
    """The memories in a plane, arrows between those that differ in one bit, their thresholds."""
    projection = plotting.principal_components(network.trajectories, 2)
    for path in projection(network.trajectories):
        ax.plot(*path.T, color="#D0D0D0", linewidth=0.4, zorder=0)
    places = projection(network.memories) if len(network.memories) else np.zeros((0, 2))
    scale = np.ptp(places, axis=0).max() if len(places) else 1.0
    for i, j in zip(*np.nonzero(np.isfinite(network.thresholds))):
        if np.sum(network.bits[i] != network.bits[j]) != 1:
            continue
        way = places[j] - places[i]
        side = np.array([way[1], -way[0]]) / np.linalg.norm(way) * scale
        start, end = places[i] + 0.17 * way + 0.025 * side, places[i] + 0.83 * way + 0.025 * side
        arrow = {
            "arrowstyle": "-|>",
            "color": "black",
            "linewidth": 0.8,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 7,
        }
        ax.annotate("", end, start, arrowprops=arrow)
        # Words are wider than high.
        label = (start + end) / 2 + np.array([0.16, 0.09]) * side
        ax.text(*label, f"{network.thresholds[i, j]:.2f}", fontsize=6.5, ha="center", va="center")
    for place, (point, bits) in enumerate(zip(places, network.bits)):
        ax.plot(*point, "o", color=memory_color(place), markersize=14)
        ink = "black" if MEMORY_COLORS[place : place + 1] in (("sky",), ("yellow",)) else "white"
        ax.text(*point, memory_name(bits), color=ink, fontsize=8, ha="center", va="center", weight="bold")
    ax.set(title="a  weakest pulses", xlabel=projection.label(0), ylabel=projection.label(1))
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.13)


def draw_input_planes(figure: Any, place: Any, result: ExcitableNetworks) -> None:
    """For each memory, where one pulse leads, over the two inputs."""
    network = result.networks[0]
    inner = place.subgridspec(2, 2, wspace=0.05, hspace=0.05)
    colors = [plotting.COLORS["grey"]] + [memory_color(k) for k in range(len(network.memories))]
    colormap = ListedColormap(colors)
    for number in range(min(len(network.memories), 4)):
        ax = figure.add_subplot(inner[number // 2, number % 2])
        ax.pcolormesh(
            result.plane, result.plane, result.reached[number] + 1, cmap=colormap, vmin=-0.5, vmax=len(colors) - 0.5
        )
        task = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        ax.plot(*task.T, "x", color="black", markersize=3)
        ax.plot(0, 0, "o", color="black", markersize=2)
        ax.text(
            0.04,
            0.95,
            f"from {memory_name(network.bits[number])}",
            transform=ax.transAxes,
            fontsize=6.5,
            color="black",
            weight="bold",
            va="top",
        )
        ax.set(aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if number == 0:
            ax.set_title("b  after one pulse $(u_1, u_2)$", loc="left")
    if not len(network.memories):
        figure.add_subplot(inner[:, :]).set_axis_off()


def draw_passages(ax: Any, result: ExcitableNetworks) -> None:
    """Steps to switch over the excess, and the slope that the saddle gives."""
    for network, marker in zip(result.networks, "os^Dv" * len(result.networks)):
        _, slope = passage_slopes(network, result.excesses)
        if not np.isfinite(slope):
            continue
        ax.semilogx(result.excesses, network.waits, marker, color=plotting.CELL_COLORS["vanilla"], markersize=3.2)
        line = network.waits[-1] - slope * np.log(result.excesses / result.excesses[-1])
        ax.semilogx(result.excesses, line, color="black", linewidth=0.7, zorder=0)
    ax.set(title="c  passage of the saddle", xlabel="pulse above threshold, relative", ylabel="steps to switch")
    ax.set_ylim(bottom=0)


def draw_thresholds(ax: Any, result: ExcitableNetworks) -> None:
    """The thresholds of all edges of all networks."""
    for number, network in enumerate(result.networks):
        for values, shift, marker, color, label in zip(
            edge_thresholds(network), (-0.12, 0.12), "ox", ("blue", "orange"), ("one bit", "both bits")
        ):
            places = number + shift + np.linspace(-0.08, 0.08, len(values))
            style = {"color": plotting.COLORS[color], "markersize": 3.5, "markerfacecolor": "none"}
            ax.plot(places, values, marker, label=label if number == 0 else None, **style)
    ax.axhline(1, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    ax.set(title="d  excitability thresholds", xlabel="network", ylabel="weakest pulse", ylim=(0, None))
    ax.set_xticks(range(len(result.networks)))
    ax.legend(loc="upper right", ncol=2)
    ax.set_ylim(0, 1.18 * ax.get_ylim()[1])


def draw_echo_index(ax: Any, result: ExcitableNetworks) -> None:
    """The echo index of one network over the amplitude, counted at each gap, and from its graph."""
    network = result.networks[0]
    # No two lines at one height hide each other.
    lift = 0.09
    ax.plot(result.amplitudes, network.predicted_indices[-1], color="black", linewidth=1, label="graph")
    for row, (gap, color, marker) in enumerate(zip(result.gaps[::-1], ("blue", "green", "orange", "sky"), "o^sD")):
        values = network.echo_indices[len(result.gaps) - 1 - row] + lift * (row + 1)
        style = {"color": plotting.COLORS[color], "markersize": 2.6, "linewidth": 0.7}
        ax.plot(result.amplitudes, values, marker + "-", label=f"{gap} steps", **style)
    if np.isfinite(network.thresholds).any():
        ax.axvline(network.thresholds.min(), color=plotting.COLORS["grey"], linestyle=":", linewidth=0.9)
    ax.set(title="e  echo index, pulses", xlabel="size of the pulses", ylabel="echo index")
    ax.set_yticks(range(1, 1 + max(network.predicted_indices.max(), network.echo_indices.max())))
    ax.legend(loc="center right", bbox_to_anchor=(1.12, 0.5))
