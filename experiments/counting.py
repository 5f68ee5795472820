"""Counting: LSTMs with open gates count a^n b^n beyond training, GRUs hardly (Weiss et al. 2018).

A cell state of an LSTM can move by the same amount for every symbol, for ever: the map has a multiplier of one along
it. The state of a GRU is confined to a box, so while it reads a's it runs into a fixed point and strings of different
lengths become one.
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
from experiments._settings import Real, Seed, check, one_of
from rnndyn import plotting

CAPTION = """Counting: LSTMs with open gates count a^n b^n beyond training, GRUs hardly (Weiss et al. 2018).

Networks read n times a and then b, and tell after every symbol whether the b have caught up with the a. A string
a^n b^n is recognised when that answer turns on with the n-th b and neither before nor after. The forget gates of the
LSTMs were open before training, which puts the counting direction in; GRUs began as usual. Five networks of each kind,
from different initial weights.

- **a** with which b the answer turns on, one line for each network, against n; dotted, the right one; grey, the
  lengths of training; dots, the largest n up to which each is right. A line ends where its answer never turns on.
- **b** the coordinate of the state that follows the count best while a long string is read, scaled by its range, of the
  first network of each kind: a cell of an LSTM counts up and down, the state of a GRU runs into a limit.
- **c** how far apart the states after n and n + 1 times a are. What is nearer than the rounding of float32 (dashed)
  cannot be told apart by any later symbol.
- **d** the largest modulus of the multipliers of the map that reads an a, at the states that it passes. That of
  the LSTMs stays at 1 and its direction is the counter; a GRU can have one near 1 as well, and its steps shrink (c).
"""

CELLS = {"LSTM": rd.LSTMCell, "GRU": rd.GRUCell}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("LSTM", "GRU")
    num_networks: int = 5
    """Of each kind, from different initial weights."""
    num_units: int = 8
    forget_bias: Real = 12.0
    """Of the forget gates of an LSTM at the start: open, as if there were none (Hochreiter & Schmidhuber 1997)."""
    longest_trained: int = 100
    """Number of a's in training, at the most."""
    longest: int = 256
    """Number of a's that networks are tried on, at the most."""
    batch_size: int = 32
    num_updates: int = 2000
    learning_rate: float = 1e-2
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(num_networks=1, num_units=3, longest_trained=3, longest=6, batch_size=4, num_updates=3)


class Strings(eqx.Module):
    """Batches of strings a^n b^m of one length: how many a's each begins with."""

    batch_size: int = eqx.field(static=True)
    longest: int = eqx.field(static=True)

    def __call__(self, key: jax.Array) -> jax.Array:
        kind_key, *keys = jax.random.split(key, 3)
        # A fourth are among the shortest: each length from 1 to 8 is drawn more often.
        short, whole = (
            jax.random.randint(k, (self.batch_size,), 1, longest + 1)
            for k, longest in zip(keys, (min(8, self.longest), self.longest))
        )
        return jnp.where(jax.random.bernoulli(kind_key, 0.25, (self.batch_size,)), short, whole)


def read(counts: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The symbols (B, T, 2) of strings of one length, and whether the b have caught up after each (B, T)."""
    position = jnp.arange(1, length + 1)
    is_b = position > counts[:, None]
    return jax.nn.one_hot(is_b.astype(int), 2), is_b & (position >= 2 * counts[:, None])


class CaughtUp(eqx.Module):
    """Cross-entropy of the answers after every symbol. The two kinds of answers count alike in every string.

    In each kind, the answers next to the turn count most, by the inverse square of their distance from it: those far
    away, the most of a string, are right with any counter.
    """

    length: int = eqx.field(static=True)

    def __call__(self, model: Any, batch: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        inputs, answers = read(batch, self.length)
        logits = jax.vmap(model)(inputs)[..., 0]
        errors = optax.sigmoid_binary_cross_entropy(logits, answers)
        # The n-th b and the one before are both 1 from the turn.
        distance = jnp.abs(jnp.arange(1, self.length + 1) - 2 * batch[:, None] + 0.5) + 0.5
        weights = distance**-2.0
        kinds = [
            jnp.sum(jnp.where(kind, weights * errors, 0), axis=1) / jnp.sum(jnp.where(kind, weights, 0), axis=1)
            for kind in (answers, ~answers)
        ]
        return jnp.mean(kinds[0] + kinds[1])


def train(config: Config, name: str) -> list[Any]:
    """Networks of one kind, trained side by side."""
    model_key, fit_key = jax.random.split(jax.random.key(config.seed))

    def make(key: jax.Array) -> Any:
        cell_key, readout_key = jax.random.split(key)
        cell = CELLS[name](2, config.num_units, key=cell_key)
        if name == "LSTM":
            forget = jnp.arange(cell.bias.size) // config.num_units == 1  # of the gates i, f, g, o
            cell = eqx.tree_at(lambda c: c.bias, cell, jnp.where(forget, config.forget_bias, cell.bias))
        return rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))

    fitted = rd.fit_ensemble(
        eqx.filter_vmap(make)(jax.random.split(model_key, config.num_networks)),
        CaughtUp(2 * config.longest_trained + 4),
        Strings(config.batch_size, config.longest_trained),
        optax.adam,
        learning_rate=optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        key=fit_key,
        progress=False,
    )
    return [fitted.member(k).last_model for k in range(config.num_networks)]


class Counter(rd.Result):
    """What one network does.

    - `turns`: (L,), with which b the answer turns on after n = 1 ... L times a; 0 where it never does.
    - `states`: (T, N) while the longest string is read, as many b as a.
    - `moduli`: (L, N) of the multipliers of the map that reads an a, at the state after n times a, largest first.
    """

    cell: str
    turns: np.ndarray
    states: np.ndarray
    moduli: np.ndarray

    @property
    def exact(self) -> tuple[int, int]:
        """The longest range of n in which every a^n b^n is recognised, its ends among them; (0, 0) for none."""
        right = np.concatenate([[False], self.turns == np.arange(1, len(self.turns) + 1), [False]])
        changes = np.flatnonzero(right[1:] != right[:-1])
        starts, stops = changes[::2], changes[1::2]
        if not len(starts):
            return 0, 0
        k = int(np.argmax(stops - starts))
        return int(starts[k]) + 1, int(stops[k])

    @property
    def off_by(self) -> int:
        """By how many symbols the answer turns too late for the largest n; minus that n where it never does."""
        return int(self.turns[-1]) - len(self.turns)

    @property
    def counter(self) -> int:
        """The coordinate of the state that follows the number of a less that of b best."""
        longest = len(self.turns)
        count = longest - np.abs(np.arange(1, 2 * longest + 1) - longest)
        centered = self.states - self.states.mean(axis=0)
        alike = (count - count.mean()) @ centered / (np.linalg.norm(centered, axis=0) + 1e-12)
        return int(np.argmax(np.abs(alike)))

    @property
    def steps(self) -> np.ndarray:
        """How far apart the states after n and n + 1 times a are."""
        longest = len(self.turns)
        return np.linalg.norm(np.diff(self.states[:longest], axis=0), axis=1)


class Counting(rd.Result):
    """All networks."""

    config_longest_trained: int
    networks: tuple[Counter, ...]


def compute(config: Config) -> Counting:
    """Train the networks, try them on longer strings, and look at the map that reads an a."""
    networks = [count(config, name, model) for name in config.cells for model in train(config, name)]
    return Counting(config.longest_trained, tuple(networks))


def count(config: Config, name: str, model: Any) -> Counter:
    """One network."""
    g = rd.as_driven_map(model.cell)
    start = g.flatten(model.cell.initial_state())
    a, b = jnp.eye(2)
    longest = config.longest

    @eqx.filter_jit
    def run(model: Any) -> Any:
        counting = rd.trajectory(g, start, longest, inputs=jnp.tile(a, (longest, 1)))
        # A quarter more b than a, and some, to see answers that come late.
        late = longest + longest // 4 + 8
        back = jax.vmap(lambda x: rd.trajectory(g, x, late, inputs=jnp.tile(b, (late, 1))))(counting)
        answers = jax.vmap(jax.vmap(lambda x: model.readout(x[: model.cell.hidden_size])[0]))(back)
        jacobians = jax.vmap(lambda x: jax.jacfwd(g)(x, a))(counting)
        return counting, back[-1, :longest], answers > 0, jacobians

    counting, back, answers, jacobians = map(np.asarray, run(model))
    turns = np.where(answers.any(axis=1), np.argmax(answers, axis=1) + 1, 0)
    moduli = np.sort(np.abs(np.linalg.eigvals(jacobians.astype(np.float64))), axis=1)[:, ::-1]
    return Counter(name, turns, np.concatenate([counting, back]), moduli)


def report(result: Counting) -> str:
    """How far each network counts, beside Weiss et al. (2018)."""
    lines = ["network   exact for n    off by, longest  last step while reading a   largest multiplier there"]
    for network in result.networks:
        first, last = network.exact
        lines.append(
            f"{network.cell:<8}  {f'{first} to {last}':<13}  {network.off_by:15d}"
            f"  {network.steps[-1]:25.2e}   {network.moduli[-1, 0]:24.6f}"
        )
    lines.append(f"trained with up to {result.config_longest_trained} times a")
    for cell in dict.fromkeys(network.cell for network in result.networks):
        lasts = [network.exact[1] for network in result.networks if network.cell == cell]
        reached = sum(last == len(result.networks[0].turns) for last in lasts)
        lines.append(
            f"{cell}: exact up to n = {min(lasts)} to {max(lasts)}, median {np.median(lasts):g}, over {len(lasts)} "
            f"networks; {reached} of them up to the largest n tried, {len(result.networks[0].turns)}"
        )
    lines.append(
        "Weiss, Goldberg & Yahav (2018), On the practical computational power of finite precision RNNs: an LSTM counts "
        "a^n b^n beyond its training, a GRU does not"
    )
    return "\n".join(lines)


def plot(result: Counting) -> Figure:
    """Where answers turn on, the counter, the distance of neighbours, and the multipliers."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 1.9))
    longest = len(result.networks[0].turns)
    n = np.arange(1, longest + 1)
    axes[0].axvspan(0, result.config_longest_trained, color="#E4E4E4", linewidth=0)
    axes[0].plot(n, n, ":", color="black", linewidth=0.8, zorder=4)
    seen: set[str] = set()
    for network in result.networks:
        color = plotting.CELL_COLORS[network.cell]
        label = None if network.cell in seen else network.cell
        axes[0].plot(n, np.where(network.turns > 0, network.turns, np.nan), color=color, linewidth=0.9, label=label)
        last = network.exact[1]
        axes[0].plot(last, last, "o", color=color, markersize=3, markeredgecolor="black", markeredgewidth=0.4, zorder=5)
        if network.cell not in seen:
            unit = network.states[:, network.counter]
            scaled = (unit - unit.min()) / max(np.ptp(unit), 1e-12)
            axes[1].plot(np.arange(1, len(unit) + 1), scaled, color=color, linewidth=0.9)
        axes[2].semilogy(n[:-1], np.maximum(network.steps, 1e-10), color=color, linewidth=0.9)
        axes[3].plot(n, network.moduli[:, 0], color=color, linewidth=0.9)
        seen.add(network.cell)
    axes[2].axhline(2.0**-24, color=plotting.COLORS["grey"], linestyle="--", linewidth=0.8)
    axes[3].axhline(1, color=plotting.COLORS["grey"], linestyle="--", linewidth=0.8, zorder=0)
    axes[0].set(title="a  answer turns on", xlabel="number of a, n", ylabel="at which b")
    axes[0].legend(loc="upper left")
    axes[1].set(title="b  a counter", xlabel="symbols read", ylabel="state, scaled")
    axes[2].set(title="c  after n and n + 1", xlabel="number of a, n", ylabel="distance of states")
    axes[3].set(title="d  while reading a", xlabel="number of a, n", ylabel="largest |multiplier|", ylim=(0.95, 1.05))
    return figure
