"""Networks of several kinds on two tasks: how they are trained, and what each of them does by itself."""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import numpy as np

import rnndyn as rd
from experiments._settings import Fraction, Seed, one_of
from experiments._training import train_networks

CELLS = {"vanilla": rd.VanillaCell, "GRU": rd.GRUCell, "LSTM": rd.LSTMCell}
TASKS = {"flip_flop": "flip-flop", "sine_wave": "sine wave"}


@dataclasses.dataclass(frozen=True)
class Networks:
    """What decides the networks, and what is looked at in each."""

    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("vanilla", "GRU", "LSTM")
    """Which kinds of networks to train."""
    num_units: tuple[int, ...] = (24, 16, 12)
    """Of each kind."""
    learning_rates: tuple[float, ...] = (5e-3, 1e-2, 1.5e-2)
    """Of each kind at the start; they fall to a hundredth along a cosine."""
    num_seeds: int = 5
    num_updates: tuple[int, int] = (700, 1100)
    """The most for the flip-flop and for the sine wave."""
    num_steps: tuple[int, int] = (32, 50)
    """Lengths of their trials."""
    targets: tuple[float, float] = (5e-3, 1e-2)
    """Their validation MSEs at which training of a network ends."""
    num_bits: int = 2
    pulse_probability: Fraction = 0.2
    num_frequencies: int = 4
    min_frequency: float = 0.2
    max_frequency: float = 0.6
    """Of the sine waves, radians per step."""
    batch_size: int = 16
    num_trials: int = 32
    """That all networks are shown, and from which their dynamics are followed on."""
    num_free_steps: int = 40
    """Steps on which the dynamics are compared: the input of the trial held or, for the flip-flop, none."""
    num_candidates: int = 48
    seed: Seed = 0


class Member(rd.Result):
    """One trained network.

    - `points`: its fixed points, with no input or, for the sine wave, with the input of the middle frequency.
    - `connections`: which of them orbits lead to from which.
    - `cloud`: states of the trials, (trials, T, N).
    """

    task: str
    cell: str
    seed: int
    validation_loss: float
    points: rd.FixedPoints
    connections: rd.Connections
    cloud: np.ndarray

    @property
    def portrait(self) -> tuple[int, ...]:
        """How many fixed points have 0, 1, 2, ... unstable directions."""
        return tuple(np.bincount(self.points.num_unstable).tolist()) if len(self.points) else ()


def task_settings(task: str, config: Networks) -> dict[str, Any]:
    """What the generator of a task is given."""
    if task == "flip_flop":
        own = {"num_bits": config.num_bits, "pulse_probability": config.pulse_probability}
        return own | {"num_steps": config.num_steps[0]}
    return {
        "num_steps": config.num_steps[1],
        "num_frequencies": config.num_frequencies,
        "min_frequency": config.min_frequency,
        "max_frequency": config.max_frequency,
    }


def train(task: str, cell: str, index: int, config: Networks) -> list[Any]:
    """The networks of one kind on one task, trained side by side."""
    number = list(TASKS).index(task)
    channels = config.num_bits if task == "flip_flop" else 1
    key = jax.random.fold_in(jax.random.key(config.seed), 10 + 10 * index + number)
    model_key, fit_key = jax.random.split(key)
    trained = train_networks(
        task,
        task_settings(task, config),
        lambda key: CELLS[cell](channels, config.num_units[index], key=key),
        channels,
        (model_key, fit_key),
        num_networks=config.num_seeds,
        num_updates=config.num_updates[number],
        batch_size=config.batch_size,
        learning_rate=config.learning_rates[index],
        num_looks=20,
        target=config.targets[number],
        progress=False,
    )
    return [trained.member(seed) for seed in range(config.num_seeds)]


def look_at(
    task: str, cell: str, seed: int, trained: Any, inputs: jax.Array, config: Networks
) -> tuple[Member, np.ndarray, np.ndarray]:
    """A network's fixed points; what it shows on the trials (S, outputs of the cell); and how it goes on (B, T, N)."""
    model = trained.model
    driven, outputs = (np.asarray(part, float) for part in on_trials(model, inputs))
    held = np.zeros_like(inputs[:, -1]) if task == "flip_flop" else np.asarray(inputs[:, -1])
    # Flip-flops are pushed off their memories, by as much as their states vary; sines start where their trials did.
    starts = driven[:, -1] if task == "flip_flop" else driven[:, 0]
    rng = np.random.default_rng([config.seed, seed])
    starts = starts + 0.5 * driven.reshape(-1, driven.shape[2]).std(0) * rng.standard_normal(starts.shape)
    freely = np.asarray(go_on(model.cell, starts.astype(np.float32), held, config.num_free_steps), float)  # pyright: ignore[reportArgumentType]
    level = np.median(np.asarray(inputs[:, -1]), axis=0) if task == "sine_wave" else held[0]
    f = rd.as_map(model.cell, np.asarray(level, np.float32))
    points = rd.find_fixed_points(
        f,
        np.asarray(rd.sample_candidates(driven, config.num_candidates, key=jax.random.key(config.seed))),
        progress=False,
    )
    loss = float(trained.history.validation_losses[-1])
    # Many directions: the plane that is unstable at the centre has a sector for each memory.
    connections = rd.Connections(np.zeros((0, 0), bool), 0, 0)
    if len(points):
        connections = rd.find_connections(f, points, num_directions=64)
    return (
        Member(task, cell, seed, loss, points, connections, driven[:8]),
        outputs.reshape(-1, outputs.shape[2]),
        freely,
    )


@eqx.filter_jit
def on_trials(model: rd.RNN, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Flat states (B, T, N) and outputs of the cell (B, T, H) on trials."""
    flatten = rd.as_map(model.cell).flatten
    states = jax.vmap(model.states)(inputs)
    return jax.vmap(jax.vmap(flatten))(states), jax.vmap(jax.vmap(model.cell.output))(states)


@eqx.filter_jit
def go_on(cell: Any, starts: jax.Array, inputs: jax.Array, num_steps: int) -> jax.Array:
    """Trajectories (B, T, N) from some states with inputs (B, I) held."""
    driven = rd.as_driven_map(cell)

    def one(x: jax.Array, u: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (driven(x, u), x), x, None, length=num_steps)[1]

    return jax.vmap(one)(starts, inputs)
