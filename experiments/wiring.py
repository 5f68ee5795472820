"""The wiring diagram and the transition table of memory networks, as theorems.

The networks do the 3-bit flip-flop: two stored ones, trained in PyTorch, or any that are trained here. Their memories,
the saddles between them and where the unstable branches of these lead are usually read off simulations. Here each
statement is proved in outward rounded arithmetic: every memory has a ball of states that all end in it, every branch of
every saddle ends in the memory drawn, every visited state in the one that it is coloured by, and every pulse leads from
the whole ball of one memory into that of another.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import rnndyn as rd
from experiments._settings import Fraction, Seed, check, one_of
from rnndyn import plotting

CAPTION = """The wiring diagram and the transition table of memory networks, as theorems.

Networks trained on the 3-bit flip-flop, one in each row. What is drawn in full lines and filled cells is proved.

- **a, d** state space, first two principal components: dots, visited states, coloured by the memory in which they are
  proved to end (grey, not proved); black circles, the memories; crosses, saddles; lines, their unstable branches.
- **b, e** the same as a graph: memories at the corner of the cube that their readout names, a line for every saddle
  whose two branches are proved to end in the memories that it joins; dashed grey, edges of the cube without one.
- **c, f** the transition table: to which memory each pulse leads from each memory, for all states of a ball around it;
  orange, the bit that the pulse has changed; "?", not proved.
"""

CELLS = {"GRU": rd.GRUCell, "LSTM": rd.LSTMCell, "vanilla": rd.VanillaCell}
"""What is trained here."""

FOLDER = Path(__file__).parent.parent / "tests" / "data"
STORED = {"stored GRU": "flipflop_gru16.npz", "stored vanilla": "flipflop_vanilla16.npz"}
"""Networks of 16 units trained in PyTorch (see the README beside them)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    networks: tuple[Annotated[str, one_of([*STORED, *CELLS])], ...] = ("stored GRU", "stored vanilla")
    """Stored networks, and kinds of networks to train. What takes long is what cannot be proved: memories and saddles
    of a network that is trained for a short time are slow."""
    num_units: int = 16
    """Of those that are trained."""
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    num_bits: int = 3
    """Of those that are trained."""
    pulse_probability: Fraction = 0.2
    """Of a pulse per bit and step."""
    num_steps: int = 48
    """Length of a trial."""
    batch_size: int = 32
    num_updates: int = 600
    num_candidates: int = 128
    """Starting points of the search for memories and saddles, drawn from visited states."""
    num_states: int = 1024
    """Visited states of which it is to be proved where they end."""
    max_steps: int = 300
    """Steps after which a state, a piece of a branch or a pulse is given up."""
    max_pieces: int = 256
    """Into how many pieces a branch may be cut."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    networks=("vanilla",),
    num_units=4,
    num_bits=2,
    num_steps=8,
    batch_size=4,
    num_updates=2,
    num_candidates=8,
    num_states=8,
)


class ProvedNetwork(rd.Result):
    """One network and what is proved of it.

    - `bits`: what the readout says of each memory, (K, B) of 0 and 1.
    - `basins`, `connections`, `transitions`: the certificates; `connections` is `None` for a network without saddles.
    - `branches`: orbits from both sides of each saddle, (S, 2, T, N).
    - `accepted`: whether a second program accepts the certificates.
    """

    cell: str
    validation_loss: float
    bits: np.ndarray
    basins: rd.CertifiedBasins
    connections: rd.CertifiedConnections | None
    transitions: rd.CertifiedTransitions
    branches: np.ndarray
    accepted: bool


class Wiring(rd.Result):
    """All networks of the study."""

    networks: tuple[ProvedNetwork, ...]


def compute(config: Config) -> Wiring:
    """Read or train each network, find its memories and saddles, and prove where everything leads."""
    return Wiring(tuple(one_network(name, index, config) for index, name in enumerate(config.networks)))


def one_network(name: str, index: int, config: Config) -> ProvedNetwork:
    """Train one network, or read it, and prove."""
    cell, readout, visited, loss = stored(name) if name in STORED else train(name, index, config)
    f = rd.as_map(cell)
    rng = np.random.default_rng([config.seed, index])
    states = visited[rng.integers(0, len(visited), config.num_states)].astype(np.float64)
    candidates = states[rng.integers(0, len(states), config.num_candidates)]
    memories, saddles = memories_and_saddles(f, candidates)
    balls = rd.prove_trapping_balls(f, memories)
    basins = rd.certify_basins(f, balls, states, max_steps=config.max_steps, progress=False)
    limits: Any = {"max_steps": config.max_steps, "progress": False}
    connections = None
    if saddles:
        connections = rd.certify_connections(f, saddles, balls, max_pieces=config.max_pieces, **limits)
    num_bits = 3 if name in STORED else config.num_bits
    pulses = np.concatenate([np.eye(num_bits), -np.eye(num_bits)])
    transitions = rd.certify_transitions(rd.as_driven_map(cell), balls, pulses, **limits)
    outputs = jax.vmap(lambda x: readout(cell.output(f.unflatten(x))))(jnp.asarray(balls.centers, jnp.float32))
    first = np.flatnonzero(np.diff(balls.owners, prepend=-1))
    checks = [rd.check_basins(basins, cell), rd.check_transitions(transitions, cell)]
    if connections is not None:
        checks.append(rd.check_connections(connections, cell))
    return ProvedNetwork(
        cell=name,
        validation_loss=loss,
        bits=(np.asarray(outputs)[first] > 0).astype(int),
        basins=basins,
        connections=connections,
        transitions=transitions,
        branches=branches_of(f, connections),
        accepted=all(c.accepted for c in checks),
    )


def stored(name: str) -> tuple[Any, Any, np.ndarray, float]:
    """Cell, readout and visited states of a stored network; its validation error is not stored with it."""
    data = np.load(FOLDER / STORED[name])
    weights = data["W_ih"], data["W_hh"], data["b"]
    size = data["W_hh"].shape[1]
    is_gru = name == "stored GRU"
    cell = (
        rd.GRUCell.from_weights(*weights, data["b_hh"][2 * size :]) if is_gru else rd.VanillaCell.from_weights(*weights)
    )
    weight, bias = jnp.asarray(data["W_out"]), jnp.asarray(data["b_out"])
    return cell, lambda state: weight @ state + bias, data["initial_states"], float("nan")


def train(name: str, index: int, config: Config) -> tuple[Any, Any, np.ndarray, float]:
    """Cell, readout, visited states and validation error of a network that is trained here."""
    key = jax.random.fold_in(jax.random.key(config.seed), index)
    cell_key, readout_key, fit_key, trial_key = jax.random.split(key, 4)
    size = config.num_units
    model = rd.RNN(
        CELLS[name](config.num_bits, size, key=cell_key), eqx.nn.Linear(size, config.num_bits, key=readout_key)
    )
    task = {
        "num_bits": config.num_bits,
        "num_steps": config.num_steps,
        "pulse_probability": config.pulse_probability,
    }
    fitted = rd.fit(
        model,
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches("flip_flop", config.batch_size, **task),
        optax.adam,
        learning_rate=optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        validation=rd.tasks.batches("flip_flop", 64, **task),
        validate_every=config.num_updates,
        key=fit_key,
    )
    cell, readout = fitted.model.cell, fitted.model.readout
    trials = rd.tasks.batches("flip_flop", 64, **task)(trial_key)
    flatten = jax.vmap(jax.vmap(rd.as_map(cell).flatten))
    visited = np.asarray(flatten(jax.vmap(fitted.model.states)(trials.inputs)))
    return cell, readout, visited.reshape(-1, visited.shape[-1]), float(fitted.history.validation_losses[-1])


def memories_and_saddles(f: Any, candidates: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Stable fixed points and 2-cycles, and those with one unstable direction."""
    found: Any = rd.find_cycles(f, candidates, (1, 2), progress=False)
    by_kind = [(part.points, (np.abs(part.multipliers) > 1).sum(axis=1)) for part in (found[1], found[2])]
    memories = [points[count == 0] for points, count in by_kind if (count == 0).any()]
    saddles = [points[count == 1] for points, count in by_kind if (count == 1).any()]
    return memories, saddles


def branches_of(f: Any, connections: rd.CertifiedConnections | None) -> np.ndarray:
    """Orbits from the near ends of the followed stretches, every second state where the saddle is a 2-cycle."""
    if connections is None:
        return np.zeros((0, 2, 1, f.state_size))
    starts = connections.saddles[:, None] + (
        np.array([1.0, -1.0])[None, :, None] * connections.inner[:, None, None] * connections.directions[:, None]
    )
    run = eqx.filter_jit(jax.vmap(lambda x: rd.trajectory(rd.iterate(f, 2), x, 60)))
    orbits = np.asarray(run(jnp.asarray(starts.reshape(-1, starts.shape[-1]), jnp.float32)))
    return orbits.reshape(*starts.shape[:2], -1, starts.shape[-1])


def report(result: Wiring) -> str:
    """What was proved of each network."""
    lines = ["network        validation MSE  memories  states proved  branches proved  pulses proved  second program"]
    for network in result.networks:
        wires, basins = network.connections, network.basins
        branches = "none" if wires is None else f"{int(wires.proved.sum())} of {wires.proved.size}"
        pulses = f"{int(network.transitions.proved.sum())} of {network.transitions.labels.size}"
        loss = "stored" if np.isnan(network.validation_loss) else f"{network.validation_loss:.2e}"
        memories = f"{int(basins.balls.proved.sum())} of {len(basins.balls)}"
        lines.append(
            f"{network.cell:<14} {loss:>14}  {memories:>8}"
            f"    {int(basins.proved.sum())} of {len(basins)}   {branches:>14}  {pulses:>13}"
            f"  {'accepts' if network.accepted else 'refuses'}"
        )
    return "\n".join(lines)


def plot(result: Wiring) -> Figure:
    """State space, wiring and transition table of each network."""
    num = len(result.networks)
    figure, axes = plt.subplots(
        num, 3, figsize=(plotting.PAGE_WIDTH, 2.6 * num), squeeze=False, width_ratios=[1.25, 1, 1.1]
    )
    for row, network in enumerate(result.networks):
        letters = "abcdefghi"[3 * row : 3 * row + 3]
        draw_states(axes[row, 0], network, letters[0])
        draw_graph(axes[row, 1], network, letters[1])
        draw_table(axes[row, 2], network, letters[2])
    return figure


def colors_of(network: ProvedNetwork) -> Any:
    """One colour for each memory, then grey for what is not proved."""
    num = len(network.basins.balls)
    return np.vstack([plt.get_cmap("viridis")(np.linspace(0, 0.92, num)), [[0.75, 0.75, 0.75, 1]]])


def draw_states(ax: Any, network: ProvedNetwork, letter: str) -> None:
    """Visited states by their proved destination, with memories, saddles and branches."""
    basins = network.basins
    project = plotting.principal_components(basins.states, 2)
    colors = colors_of(network)
    ax.scatter(*project(basins.states).T, s=2, c=colors[basins.labels], linewidths=0, alpha=0.7)
    if network.connections is not None:
        for pair in network.branches:
            for orbit in pair:
                ax.plot(*project(orbit).T, color=plotting.COLORS["grey"], linewidth=0.6, zorder=2)
        ax.plot(*project(network.connections.saddles).T, "x", color=plotting.COLORS["orange"], markersize=4, zorder=4)
    ax.plot(*project(basins.balls.centers).T, "o", color="black", markersize=4, zorder=5)
    ax.set(title=f"{letter}  {network.cell}, {basins.states.shape[1]} variables", xlabel=project.label(0))
    ax.set(ylabel=project.label(1))


def draw_graph(ax: Any, network: ProvedNetwork, letter: str) -> None:
    """Memories at the corners of the cube that the readout names, and proved connections."""
    num_bits = network.bits.shape[1]
    axes_of_cube = np.array([[1.0, 0.0], [0.0, 1.0], [0.42, 0.32]])[:num_bits]
    corners = np.stack(np.meshgrid(*[[0, 1]] * num_bits, indexing="ij"), axis=-1).reshape(-1, num_bits)
    apart = np.abs(corners[:, None] - corners).sum(axis=2)
    for i, j in np.argwhere(np.triu(apart == 1)):
        ax.plot(*(corners[[i, j]] @ axes_of_cube).T, color="#C8C8C8", linestyle="--", linewidth=0.7, zorder=1)
    places = network.bits @ axes_of_cube
    names = ["".join(map(str, bits)) for bits in network.bits]
    if network.connections is not None:
        plotting.plot_wiring(network.connections, places=places, names=names, colors=colors_of(network)[:-1], ax=ax)
    wires = network.connections
    shown = "no saddles" if wires is None else f"{len(wires.edges)} of {len(wires)} saddles proved"
    ax.set(title=f"{letter}  {shown}", aspect="equal")
    ax.axis("off")


def draw_table(ax: Any, network: ProvedNetwork, letter: str) -> None:
    """To which memory each pulse leads from each."""
    table, num_bits = network.transitions, network.bits.shape[1]
    order = np.lexsort(network.bits.T[::-1])
    pulses = ["+" + str(b + 1) for b in range(num_bits)] + ["−" + str(b + 1) for b in range(num_bits)]
    for y, k in enumerate(order):
        for x in range(len(pulses)):
            label = table.labels[k, x]
            changed = label >= 0 and label != k
            ax.add_patch(
                Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, color="#FBE3D3" if changed else "#F0F0F0", linewidth=0)
            )
            if label < 0:
                ax.text(x, y, "?", ha="center", va="center", fontsize=6.5)
                continue
            for place, bit in enumerate(network.bits[label]):
                moved = bit != network.bits[k][place]
                ax.text(
                    x + 0.25 * (place - (num_bits - 1) / 2),
                    y,
                    str(bit),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color=plotting.COLORS["orange"] if moved else "black",
                    weight="bold" if moved else "normal",
                )
    names = ["".join(map(str, network.bits[k])) for k in order]
    ax.set_xticks(range(len(pulses)), pulses)
    ax.set_yticks(range(len(order)), names)
    ax.set(xlim=(-0.6, len(pulses) - 0.4), ylim=(len(order) - 0.4, -0.6), xlabel="pulse (sign, bit)", ylabel="memory")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_title(f"{letter}  {int(table.proved.sum())} of {table.labels.size} transitions proved")
