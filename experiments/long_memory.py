"""Which cells learn to remember for T steps, and how far the gradient horizon at initialisation predicts it.

Delayed recall of one symbol, copying of a sequence of symbols and the adding problem, each over T steps, for vanilla,
orthogonal, identity (IRNN), leaky, LSTM and GRU networks of one size under one training budget. Before training, the
horizon of backpropagated gradients says how far back the error can reach (Hochreiter 1991; Bengio et al. 1994; Le,
Jaitly & Hinton 2015; Arjovsky et al. 2016). `--lengths 50 200 --num-updates 800` compares two lengths, in four
minutes of one core.
"""

import dataclasses
import math
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import stats

import rnndyn as rd
from experiments._settings import Seed, check, one_of
from rnndyn import plotting

CAPTION = """Which cells learn to remember (Le, Jaitly & Hinton 2015; Arjovsky et al. 2016).

One network of each kind for each task, one learning rate for all, 600 updates: a ranking under one small budget, and
not of what each cell can learn (Le et al. train for many thousand updates, with a rate chosen for each).

- **a, b, c** skill (1 is perfect, 0, dashed, is what can be had without memory) over training on delayed recall,
  copying and adding, a colour for each cell, and dashes for those whose colours are close to some readers.
- **d** best skill over the log of the gradient that reaches back over T steps at initialisation; circles recall,
  squares copying, triangles adding, colours as before; open marks, where shown, a longer T.
"""

NUM_SYMBOLS = 8
TASKS = {"recall": "delayed recall", "copy": "copy", "adding": "adding"}
ADDING = list(TASKS).index("adding")
FAMILIES = {
    "tanh": ("vanilla", "orthogonal"),
    "relu": ("IRNN",),
    "leaky": ("leaky",),
    "LSTM": ("LSTM", "LSTM, chrono"),
    "GRU": ("GRU",),
}
"""Cells of one structure, which are trained side by side."""
LEARNED = 0.5
"""The skill from which a cell counts as having learned."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    families: tuple[Annotated[str, one_of(FAMILIES)], ...] = tuple(FAMILIES)
    lengths: tuple[int, ...] = (60,)
    num_units: int = 24
    copied: int = 2
    """Symbols of the copy task."""
    num_updates: int = 600
    batch_size: int = 20
    """New trials at every update."""
    learning_rate: float = 5e-3
    leak_time: float = 20.0
    """Time constant of the leaky cell, in steps."""
    validate_every: int = 100
    num_windows: int = 16
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        if min(self.lengths) < 2 * self.copied:
            raise ValueError(
                f"lengths: got {min(self.lengths)}; allowed is twice copied, the number of symbols, at least, which is "
                f"{2 * self.copied}."
            )


SMOKE = Config(
    families=("tanh",),
    lengths=(6,),
    num_units=3,
    num_updates=2,
    batch_size=2,
    validate_every=1,
    num_windows=2,
)


class Memory(rd.Result):
    """One cell on one task."""

    cell: str
    task: str
    length: int
    skill: float
    """1 - loss / loss without a memory, the best of training: 0 for no memory, 1 for perfect."""
    diverged: bool
    """Whether the loss or the gradient overflowed in training; `skill` is then that of the updates before."""
    skills: np.ndarray
    """The same along training."""
    updates: np.ndarray
    horizon: float
    """Lag at which a gradient has fallen by e at initialisation, in steps; inf where it does not fall."""
    log_gradient: float
    """ln of the typical gradient over the length of the task, at initialisation."""
    log_gradient_trained: float
    """The same after training."""


class LongMemory(rd.Result):
    """All cells on all tasks."""

    memories: tuple[Memory, ...]
    num_updates: int


def compute(config: Config) -> LongMemory:
    """Every family on every task and length."""
    # Made once: it is a part of what is compiled.
    optimizer = optax.adam(config.learning_rate)
    memories = [
        memory
        for length in config.lengths
        for family in config.families
        for memory in train_family(family, length, optimizer, config)
    ]
    order = lambda memory: (memory.length, list(TASKS).index(memory.task))
    return LongMemory(tuple(sorted(memories, key=order)), config.num_updates)


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


def trials_of(length: int, batch_size: int, config: Config) -> Trials:
    """Trials of `length` steps."""
    copy = lambda copied: rd.tasks.batches(
        "delayed_copy", batch_size, length=copied, delay=length - 2 * copied, num_symbols=NUM_SYMBOLS
    )
    return Trials((copy(1), copy(config.copied), rd.tasks.batches("adding", batch_size, num_steps=length)))


class Student(eqx.Module):
    """A network and the number of the task that it learns."""

    network: rd.RNN
    task: jax.Array


def loss(student: Student, trials: rd.tasks.Trial) -> jax.Array:
    """The squared error of the sum for the adding problem, the cross-entropy of the symbols for the others."""
    inputs, targets, mask = (leaf[:, student.task] for leaf in trials)
    outputs = jax.vmap(student.network)(inputs)
    square = jax.vmap(rd.training.mean_squared_error)(outputs[..., :1], targets[..., :1], mask)
    entropy = jax.vmap(rd.training.softmax_cross_entropy)(outputs, targets, mask)
    return jnp.mean(jnp.where(student.task == ADDING, square, entropy))


def train_family(family: str, length: int, optimizer: optax.GradientTransformation, config: Config) -> list[Memory]:
    """The cells of one structure on every task: their gradients before, their training, their gradients after."""
    key = jax.random.fold_in(jax.random.key(config.seed), length)
    model_key, fit_key, test_key, probe_key = jax.random.split(key, 4)
    test = trials_of(length, 100, config)(test_key)
    names = FAMILIES[family]
    networks = {name: make_network(name, length, model_key, config) for name in names}
    who = [(name, task) for name in names for task in range(len(TASKS))]
    students = stack([Student(networks[name], jnp.asarray(task)) for name, task in who])
    try:
        trained = rd.fit_ensemble(
            students,
            loss,
            trials_of(length, config.batch_size, config),
            optimizer,
            num_steps=config.num_updates,
            max_grad_norm=1.0,
            validation=test,
            validate_every=config.validate_every,
            key=fit_key,
        )
    except rd.training.EnsembleDivergenceError as error:
        # What the networks had learned by then counts, as it does where only some of a family diverge.
        trained = error.result
    # Eight trials one after the other, of the task that each learns.
    streams = np.moveaxis(np.asarray(test.inputs[:8]), 1, 0).reshape(len(TASKS), -1, NUM_SYMBOLS + 1)[
        np.asarray(students.task)
    ]
    before, after = (
        horizons(models.network.cell, streams, probe_key, length, config.num_windows)
        for models in (students, trained.models)
    )
    # Answering the mean of all sums, which is 1, or all symbols alike; 1/6 on average, but these trials are few.
    sums = np.asarray(test.targets[:, ADDING, -1, 0])
    memories = []
    for i, ((name, task), history) in enumerate(zip(who, trained.histories)):
        no_memory = float(np.mean((sums - 1) ** 2)) if task == ADDING else math.log(NUM_SYMBOLS)
        skills = 1 - history.validation_losses / no_memory
        memories.append(
            Memory(
                cell=name,
                task=list(TASKS)[task],
                length=length,
                skill=float(np.nanmax(skills)),
                diverged=history.stopped == "diverged",
                skills=skills,
                updates=history.validation_steps,
                horizon=float(before.horizon[i]),
                log_gradient=float(before.log_gradient[i, -1]),
                log_gradient_trained=float(after.log_gradient[i, -1]),
            )
        )
    return memories


def make_network(name: str, length: int, key: jax.Array, config: Config) -> rd.RNN:
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
        case _:
            cell = rd.GRUCell(input_size, size, key=cell_key)
    return rd.RNN(cell, eqx.nn.Linear(size, NUM_SYMBOLS, key=readout_key))


def stack(models: list[Any]) -> Any:
    """Models of one structure as one, each array with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *models)


@eqx.filter_jit
def horizons(cells: Any, streams: Any, key: jax.Array, length: int, num_windows: int) -> rd.MemoryHorizon:
    """How gradients fall over `length` steps in each of several cells, each reading trials one after the other."""

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
        )

    return eqx.filter_vmap(one)(cells, streams)


def report(result: LongMemory) -> str:
    """Skills beside horizons, and how well one predicts the other."""
    lines = [
        "task             T   cell           skill   learned   horizon at init   ln gradient over T: at init   trained"
    ]
    for memory in result.memories:
        diverged = "   diverged" if memory.diverged else ""
        lines.append(
            f"{TASKS[memory.task]:<14} {memory.length:>3}   {memory.cell:<13} {memory.skill:z6.2f}   "
            f"{'yes' if memory.skill > LEARNED else 'no':<7}   {memory.horizon:9.1f} steps   "
            f"{memory.log_gradient:27.1f}   {memory.log_gradient_trained:7.1f}{diverged}"
        )
    for task in TASKS:
        chosen = [memory for memory in result.memories if memory.task == task]
        ranks = [stats.rankdata([getattr(m, name) for m in chosen]) for name in ("log_gradient", "skill")]
        rank = np.corrcoef(*ranks)[0, 1]
        lines.append(f"rank correlation of skill with the gradient over T at initialisation, {TASKS[task]}: {rank:.2f}")
    lines += [
        f"({result.num_updates} updates, one learning rate and one seed for all cells: a cell that has not learned "
        "here may do so with more.)",
        "papers: tanh networks with small random weights forget exponentially (Hochreiter 1991; Bengio et al. 1994);",
        "        IRNN and LSTM solve adding at T = 150, vanilla tanh networks do not (Le et al. 2015);",
        "        norm-preserving recurrences carry gradients over hundreds of steps (Saxe et al. 2014; Arjovsky et al. "
        "2016);",
        "        gates that start open for T steps speed learning up (chrono: Tallec & Ollivier 2018)",
    ]
    return "\n".join(lines)


def plot(result: LongMemory) -> Figure:
    """Skill along training for every task at the shortest length, and the best skill against the gradient over T."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.5), width_ratios=[1, 1, 1, 1.1])
    cells = [name for names in FAMILIES.values() for name in names]
    markers = dict(zip(TASKS, "os^"))
    # Gated and leaky cells have colours that a colour-blind reader takes for one another.
    dashes = {"LSTM": "--", "GRU": "-.", "leaky": ":", "LSTM, chrono": (0, (5, 1, 1, 1, 1, 1))}
    styles: dict[str, Any] = {cell: dashes.get(cell, "-") for cell in cells}
    lengths = sorted({memory.length for memory in result.memories})
    length = lengths[0]
    for axis, (task, title), letter in zip(axes, TASKS.items(), "abc"):
        for memory in result.memories:
            if memory.task == task and memory.length == length:
                color, style = plotting.CELL_COLORS[memory.cell], styles[memory.cell]
                axis.plot(memory.updates, memory.skills, color=color, linestyle=style, label=memory.cell)
        axis.set(title=f"{letter}  {title}, T = {length}", xlabel="updates", ylim=(-0.1, 1.05))
        axis.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, linestyle="--")
    axes[0].set_ylabel("skill (1 - loss / no memory)")
    for memory in result.memories:
        color = plotting.CELL_COLORS[memory.cell]
        # Filled at the shortest length only.
        face = color if memory.length == length else "none"
        axes[3].plot(
            memory.log_gradient, memory.skill, markers[memory.task], color=color, markerfacecolor=face, markersize=4
        )
    for task, title in TASKS.items():
        axes[3].plot([], [], markers[task], color="black", markerfacecolor="none", label=title)
    longer = ", ".join(map(str, lengths[1:]))
    axes[3].set(
        title=f"d  T = {length}" + (f", open: {longer}" if longer else ""),
        xlabel="ln gradient over T at init",
        ylabel="best skill",
        ylim=(-0.1, 1.05),
    )
    axes[3].legend(fontsize=6, loc="center", bbox_to_anchor=(0.45, 0.68), handletextpad=0.2)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(cells), fontsize=7)
    return figure
