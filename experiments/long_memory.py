"""Which cells learn to remember over T steps, and whether their gradients foretell it.

Delayed recall of one symbol and the adding problem, each over T steps, for vanilla, orthogonal, identity (IRNN), leaky,
LSTM and GRU networks of one size, the gated ones also with gates that start open for T steps (chrono). Several networks
of each kind, one budget of updates, the learning rate of each chosen from one grid by validation. Before training, the
gradient that reaches back over T steps is measured (Hochreiter 1991; Bengio et al. 1994; Le, Jaitly & Hinton 2015;
Arjovsky et al. 2016; Tallec & Ollivier 2018).
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import stats

import rnndyn as rd
from experiments._memory_tasks import (
    NUM_SYMBOLS,
    TASKS,
    Setting,
    Student,
    evaluate,
    log_gradients,
    loss_without_memory,
    losses,
    make_network,
    own_rate,
    stack,
    trials_of,
)
from experiments._settings import Seed, check, one_of
from rnndyn import plotting

CAPTION = """Which cells learn to remember over 150 steps (Le, Jaitly & Hinton 2015; Tallec & Ollivier 2018).

Five networks of 16 units of each kind, a small budget of updates, and for each kind the learning rate of one grid that
is best on validation trials. "Chrono": gates that start open for times up to T (filled; open without).

- **a** skill on the adding problem (1 is perfect; 0, dashed, is what can be had without memory) over training: lines,
  medians of the networks; bands, from the worst to the best.
- **b** skill on test trials over the log of the gradient that reaches back over T steps at initialisation: small marks,
  networks; large, means of the kinds. A gradient that vanishes at the start does not keep a gated network from
  learning.
"""

FAMILIES = {
    "tanh": ("vanilla", "orthogonal"),
    "relu": ("IRNN",),
    "leaky": ("leaky",),
    "LSTM": ("LSTM", "LSTM, chrono"),
    "GRU": ("GRU", "GRU, chrono"),
}
"""Cells of one structure, which are trained side by side."""
LEARNED = 0.5
"""The skill from which a network counts as having learned."""
LEARNING_RATES = {name: 6e-3 if name == "IRNN" else 2e-2 for names in FAMILIES.values() for name in names}
"""The better of 6e-3 and 2e-2 on validation trials of the adding problem of 150 steps, in the mean over two networks of
each kind: `--learning-rates 6e-3 2e-2 --num-seeds 2 --num-updates 400`. The kinds that do not learn differ by noise."""


@dataclasses.dataclass(frozen=True)
class Config(Setting):
    """Everything that decides the result."""

    families: tuple[Annotated[str, one_of(FAMILIES)], ...] = tuple(FAMILIES)
    lengths: tuple[int, ...] = (150,)
    num_seeds: int = 5
    """Networks of each kind."""
    num_updates: int = 350
    batch_size: int = 16
    """New trials at every update."""
    learning_rates: tuple[float, ...] | None = None
    """The grid, of which each kind of cell takes for each task and length what is best on validation trials, in the
    mean over its networks. Without one, `LEARNING_RATES`."""
    validate_every: int = 50
    num_windows: int = 8
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
    num_seeds=1,
    num_updates=2,
    batch_size=2,
    learning_rates=(1e-2,),
    validate_every=1,
    num_windows=2,
)


class Memory(rd.Result):
    """The networks of one kind on one task, at the learning rate that is best on validation trials; seeds first."""

    cell: str
    task: str
    length: int
    learning_rate: float
    rate_skills: np.ndarray
    """Mean validation skill at each learning rate of the grid."""
    skills: np.ndarray
    """1 - loss / loss without a memory, on test trials, of the network that was best in validation, `(S,)`."""
    diverged: np.ndarray
    """Whether the loss or the gradient overflowed; the skill is then that of the updates before."""
    curves: np.ndarray
    """Skill on validation trials along training, `(S, V)`; NaN after a divergence."""
    updates: np.ndarray
    log_gradients: np.ndarray
    """ln of the typical gradient over the length of the task, at initialisation, `(S,)`."""
    log_gradients_trained: np.ndarray
    """The same after training."""


class LongMemory(rd.Result):
    """All cells on all tasks."""

    memories: tuple[Memory, ...]
    num_updates: int
    learning_rates: np.ndarray
    """The grid; empty where the rates were given."""


def compute(config: Config) -> LongMemory:
    """Every family on every task and length."""
    optimizer = own_rate(optax.scale_by_adam())
    memories = [
        memory
        for length in config.lengths
        for family in config.families
        for memory in train_family(family, length, optimizer, config)
    ]
    order = lambda memory: (memory.length, list(TASKS).index(memory.task))
    return LongMemory(tuple(sorted(memories, key=order)), config.num_updates, np.array(config.learning_rates or ()))


def train_family(family: str, length: int, optimizer: Any, config: Config) -> list[Memory]:
    """The cells of one structure on every task: their gradients before, their training, their gradients after."""
    key = jax.random.fold_in(jax.random.key(config.seed), length)
    model_key, fit_key, validation_key, test_key, probe_key = jax.random.split(key, 5)
    validation, test = (trials_of(length, 256, config)(key) for key in (validation_key, test_key))
    seeds = jax.random.split(model_key, config.num_seeds)
    who, students = [], []
    for name in FAMILIES[family]:
        networks = [make_network(name, length, seed, config) for seed in seeds]
        for task in config.tasks:
            for rate in config.learning_rates or (LEARNING_RATES[name],):
                who.append((name, task, rate))
                students += [
                    Student(
                        network, jnp.asarray(config.tasks.index(task)), jnp.asarray(task == "adding"), jnp.asarray(rate)
                    )
                    for network in networks
                ]
    stacked = stack(students)
    try:
        trained = rd.fit_ensemble(
            stacked,
            losses,
            trials_of(length, config.batch_size, config),
            optimizer,
            num_steps=config.num_updates,
            max_grad_norm=1.0,
            validation=validation,
            validate_every=config.validate_every,
            key=fit_key,
        )
    except rd.training.EnsembleDivergenceError as error:
        # What the networks had learned by then counts, as it does where only some of a family diverge.
        trained = error.result
    curves = np.full((len(students), config.num_updates // config.validate_every + 2), np.nan)
    for curve, history in zip(curves, trained.histories):
        curve[: len(history.validation_losses)] = history.validation_losses
    curves = curves[:, ~np.isnan(curves).all(axis=0)]
    updates = max((history.validation_steps for history in trained.histories), key=len)
    test_losses = np.asarray(evaluate(trained.models, test))
    # Four trials one after the other, of the task that each learns.
    streams = np.moveaxis(np.asarray(test.inputs[:4]), 1, 0).reshape(len(config.tasks), -1, NUM_SYMBOLS + 1)
    streams = streams[np.asarray(stacked.task)]
    before, after = (
        np.asarray(log_gradients(models.network.cell, streams, probe_key, length, config.num_windows))
        for models in (stacked, trained.models)
    )
    memories = []
    by_group = lambda a: np.reshape(a, (len(who), config.num_seeds, *np.shape(a)[1:]))
    groups = [by_group(a) for a in (curves, test_losses, before, after)]
    diverged = by_group([history.stopped == "diverged" for history in trained.histories])
    for name in FAMILIES[family]:
        for task in config.tasks:
            rows = [row for row, one in enumerate(who) if one[:2] == (name, task)]
            courses = 1 - groups[0] / loss_without_memory(task, validation, config)
            rate_skills = np.nanmax(courses[rows], axis=2).mean(axis=1)
            row = rows[int(np.argmax(rate_skills))]
            memories.append(
                Memory(
                    cell=name,
                    task=task,
                    length=length,
                    learning_rate=who[row][2],
                    rate_skills=rate_skills,
                    skills=1 - groups[1][row] / loss_without_memory(task, test, config),
                    diverged=diverged[row],
                    curves=courses[row],
                    updates=updates,
                    log_gradients=groups[2][row],
                    log_gradients_trained=groups[3][row],
                )
            )
    return memories


def rank_correlation(result: LongMemory, task: str, length: int) -> tuple[float, float, int]:
    """Spearman's correlation of skill with the gradient over T at initialisation over cells (mean over networks).

    With its p-value by permutation of the cells, and their number.
    """
    chosen = [memory for memory in result.memories if (memory.task, memory.length) == (task, length)]
    pairs = np.array([[memory.log_gradients.mean(), memory.skills.mean()] for memory in chosen])
    if len(pairs) < 3:
        return np.nan, np.nan, len(pairs)
    ranks = stats.rankdata(pairs, axis=0)
    correlation = lambda a, b: float(np.corrcoef(a, b)[0, 1])
    found = correlation(*ranks.T)
    rng = np.random.default_rng(0)
    drawn = [correlation(ranks[:, 0], rng.permutation(ranks[:, 1])) for _ in range(9999)]
    return found, (1 + np.sum(np.abs(drawn) >= abs(found) - 1e-12)) / 10_000, len(pairs)


def report(result: LongMemory) -> str:
    """Skills of all networks beside the gradients before training, and how well one foretells the other."""
    lines = [
        "task             T   cell           rate     learned   skill: median (lowest, highest)   "
        "ln gradient over T: at init (sd)   trained"
    ]
    for memory in result.memories:
        skills, before = memory.skills, memory.log_gradients
        diverged = f"   {memory.diverged.sum()} diverged" if memory.diverged.any() else ""
        lines.append(
            f"{TASKS[memory.task]:<14} {memory.length:>3}   {memory.cell:<13}  {memory.learning_rate:<7.2g}  "
            f"{np.sum(skills > LEARNED)} of {len(skills)}    {np.median(skills):z6.2f} ({skills.min():z.2f}, "
            f"{skills.max():z.2f})            {before.mean():z15.1f} ({before.std():.1f})   "
            f"{memory.log_gradients_trained.mean():z14.1f}{diverged}"
        )
    for task, length in dict.fromkeys((memory.task, memory.length) for memory in result.memories):
        found, p, count = rank_correlation(result, task, length)
        lines.append(
            f"rank correlation of skill with the gradient over T at initialisation, {TASKS[task]}, T = {length}: "
            f"{found:.2f} over {count} kinds of cells (p = {p:.3f} by permutation)"
        )
    if result.learning_rates.size > 1:
        rates = ", ".join(f"{rate:g}" for rate in result.learning_rates)
        lines.append(f"mean best validation skill at the learning rates {rates}:")
        for memory in result.memories:
            skills = "  ".join(f"{skill:z5.2f}" for skill in memory.rate_skills)
            lines.append(f"  {TASKS[memory.task]:<14} {memory.length:>3}   {memory.cell:<13} {skills}")
    lines += [
        f"({result.num_updates} updates; skill 1 is perfect, 0 is what can be had without memory; from {LEARNED:g} a "
        "network counts as having learned.)",
        "papers: tanh networks with small random weights forget exponentially (Hochreiter 1991; Bengio et al. 1994);",
        "        IRNN and LSTM solve adding at T = 150, tanh networks do not (Le et al. 2015, section 4.1);",
        "        norm-preserving recurrences carry gradients over hundreds of steps (Saxe et al. 2014; Arjovsky et al. "
        "2016);",
        "        gates that start open for T steps speed learning up (chrono: Tallec & Ollivier 2018)",
    ]
    return "\n".join(lines)


MARKERS = {
    "vanilla": "v",
    "orthogonal": "s",
    "IRNN": "^",
    "leaky": "D",
    "LSTM": "o",
    "LSTM, chrono": "o",
    "GRU": "P",
    "GRU, chrono": "P",
}
"""One for each kind of cell, since eight colours are too many for some readers; open without gates that start open."""


def plot(result: LongMemory) -> Figure:
    """Skill along training for the tasks at the longest length, and the skill against the gradient over T."""
    length = max(memory.length for memory in result.memories)
    tasks = list(dict.fromkeys(memory.task for memory in result.memories))
    size = (plotting.PAGE_WIDTH, 0.6 + 2.2 * len(tasks))
    figure, axes = plt.subplots(len(tasks), 2, figsize=size, squeeze=False, sharey=True, width_ratios=[1.1, 1])
    for row, task in enumerate(tasks):
        left, right = axes[row]
        for memory in result.memories:
            if memory.task == task:
                if memory.length == length:
                    draw_course(left, memory)
                draw_networks(right, memory, faint=memory.length != length)
        for axis in (left, right):
            axis.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, linestyle="--", zorder=0)
        left.set(title=f"{'ace'[row]}  {TASKS[task]}, T = {length}", ylabel="skill, validation", ylim=(-0.1, 1.05))
        right.set(title=f"{'bdf'[row]}  {TASKS[task]}", ylabel="skill, test")
        right.tick_params(labelleft=True)
    axes[-1, 0].set_xlabel("updates")
    axes[-1, 1].set_xlabel("ln gradient over T at initialisation")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=(len(labels) + 1) // 2, fontsize=7)
    return figure


def style_of(cell: str) -> dict[str, Any]:
    """Colour, dashes and mark of a kind of cell; an open mark for gates that do not start open."""
    color = plotting.CELL_COLORS[cell.partition(",")[0]]
    is_open = cell in ("LSTM", "GRU")
    return {
        "color": color,
        "linestyle": "--" if is_open else "-",
        "marker": MARKERS[cell],
        "markersize": 3.5,
        "markerfacecolor": "white" if is_open else color,
        "markeredgewidth": 0.8,
    }


def draw_course(axis: Any, memory: Memory) -> None:
    """The median skill along training, and the range of all networks."""
    # After a divergence the best of before counts; nothing is known before the first validation.
    curves = np.where(np.isnan(memory.curves), np.nanmax(memory.curves, axis=1, keepdims=True), memory.curves)
    style = style_of(memory.cell)
    axis.plot(memory.updates, np.median(curves, axis=0), label=memory.cell, markevery=2, linewidth=1.1, **style)
    axis.fill_between(memory.updates, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.12, lw=0)


def draw_networks(axis: Any, memory: Memory, faint: bool) -> None:
    """Skill over the gradient before training: small marks, networks; a large one, their mean."""
    style = style_of(memory.cell) | {"linestyle": "none"}
    alpha = 0.35 if faint else 1.0
    axis.plot(memory.log_gradients, memory.skills, **(style | {"markersize": 2.2, "markeredgewidth": 0.5}), alpha=alpha)
    if not faint:
        axis.plot(memory.log_gradients.mean(), memory.skills.mean(), **(style | {"markersize": 6}))
