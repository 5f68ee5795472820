"""Tasks that ask for a memory of many steps, the cells that learn them, and how far their gradients reach back."""

import dataclasses
import math
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd
from experiments._settings import one_of

NUM_SYMBOLS = 8
TASKS = {"recall": "delayed recall", "copy": "copy", "adding": "adding"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides the trials and the networks before training."""

    tasks: tuple[Annotated[str, one_of(TASKS)], ...] = ("adding",)
    num_units: int = 16
    copied: int = 2
    """Symbols of the copy task."""
    leak_time: float = 20.0
    """Time constant of the leaky cell, in steps."""


class Trials(eqx.Module):
    """Trials of every task, all in one shape `(B, task, T, channel)`, so that networks of all tasks train side by side.

    Where a task has fewer channels than another the rest is zero.
    """

    tasks: tuple[Any, ...]

    # One program for all tasks.
    @eqx.filter_jit
    def __call__(self, key: jax.Array) -> rd.tasks.Trial:
        trials = [batch(key) for batch in self.tasks]
        wide = lambda a, size: jnp.pad(a, ((0, 0), (0, 0), (0, size - a.shape[-1])))
        inputs = jnp.stack([wide(trial.inputs, NUM_SYMBOLS + 1) for trial in trials], axis=1)
        targets = jnp.stack([wide(trial.targets, NUM_SYMBOLS) for trial in trials], axis=1)
        return rd.tasks.Trial(inputs, targets, jnp.stack([trial.mask for trial in trials], axis=1))


def trials_of(length: int, batch_size: int, config: Setting) -> Trials:
    """Trials of `length` steps."""
    copy = lambda copied: rd.tasks.batches(
        "delayed_copy", batch_size, length=copied, delay=length - 2 * copied, num_symbols=NUM_SYMBOLS
    )
    made = {"recall": copy(1), "copy": copy(config.copied)}
    made["adding"] = rd.tasks.batches("adding", batch_size, num_steps=length)
    return Trials(tuple(made[task] for task in config.tasks))


class Student(eqx.Module):
    """A network, the number of the task that it learns among the trials, and its learning rate."""

    network: rd.RNN
    task: jax.Array
    is_adding: jax.Array
    rate: jax.Array
    """No loss depends on it, so that training leaves it as it is."""


def own_rate(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser that moves every student along a direction at the rate it carries."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step, state = direction.update(updates, state, params)
        return jax.tree.map(lambda leaf: -params.rate * leaf, step), state

    return optax.GradientTransformation(direction.init, update)


def losses(student: Student, trials: rd.tasks.Trial) -> jax.Array:
    """The squared error of the sum for the adding problem, the cross-entropy of the symbols for the others."""
    inputs, targets, mask = (leaf[:, student.task] for leaf in trials)
    outputs = jax.vmap(student.network)(inputs)
    square = jax.vmap(rd.training.mean_squared_error)(outputs[..., :1], targets[..., :1], mask)
    entropy = jax.vmap(rd.training.softmax_cross_entropy)(outputs, targets, mask)
    return jnp.mean(jnp.where(student.is_adding, square, entropy))


def loss_without_memory(task: str, trials: rd.tasks.Trial, config: Setting) -> float:
    """Of answering the mean of all sums, which is 1 (1/6 on average, but the trials are few), or all symbols alike."""
    if task != "adding":
        return math.log(NUM_SYMBOLS)
    return float(np.mean((np.asarray(trials.targets[:, config.tasks.index(task), -1, 0]) - 1) ** 2))


@eqx.filter_jit
def evaluate(students: Student, trials: rd.tasks.Trial) -> jax.Array:
    """The loss of every student on the same trials."""
    return eqx.filter_vmap(lambda student: losses(student, trials))(students)


def make_network(name: str, length: int, key: jax.Array, config: Setting) -> rd.RNN:
    """One network of the study."""
    cell_key, readout_key = jax.random.split(key)
    init, input_size, size = rd.initializers, NUM_SYMBOLS + 1, config.num_units
    zeros = init.zeros()
    match name:
        case "vanilla":
            cell = rd.VanillaCell(input_size, size, key=cell_key)
        case "orthogonal":
            cell = rd.VanillaCell(input_size, size, weight_hh_init=init.orthogonal(), bias_init=zeros, key=cell_key)
        case "IRNN":
            cell = rd.VanillaCell(
                input_size, size, activation="relu", weight_hh_init=init.identity(), bias_init=zeros, key=cell_key
            )
        case "leaky":
            cell = rd.LeakyCell(input_size, size, tau=config.leak_time, key=cell_key)
        case "LSTM":
            cell = rd.LSTMCell(input_size, size, bias_init=init.forget_gate_bias(1.0), key=cell_key)
        case "LSTM, chrono":
            cell = rd.LSTMCell(input_size, size, bias_init=init.chrono(length), key=cell_key)
        case "GRU":
            cell = rd.GRUCell(input_size, size, key=cell_key)
        case _:
            cell = rd.GRUCell(input_size, size, bias_init=init.chrono(length, "gru"), key=cell_key)
    return rd.RNN(cell, eqx.nn.Linear(size, NUM_SYMBOLS, key=readout_key))


def stack(models: list[Any]) -> Any:
    """Models of one structure as one, each array with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *models)


@eqx.filter_jit
def log_gradients(cells: Any, streams: Any, key: jax.Array, length: int, num_windows: int) -> jax.Array:
    """ln of the typical gradient over `length` steps in each of several cells, each reading trials in a row."""

    def one(cell, stream):
        g = rd.as_driven_map(cell)
        x0 = g.flatten(cell.initial_state())
        return rd.memory_horizon(
            g,
            x0,
            len(stream) - length,
            length,
            key=key,
            inputs=stream,
            num_transient=length,
            num_probes=4,
            num_windows=num_windows,
        ).log_gradient[-1]

    return eqx.filter_vmap(one)(cells, streams)
