"""Three kinds of networks represent a task differently and solve it alike (Maheswaranathan et al. 2019).

Vanilla, GRU and LSTM networks learn to hold two bits, and to generate sine waves. Side by side on the same trials their
states look different from kind to kind. Their fixed points do not: those of one task are as many, as unstable and
connected alike in nearly all. The linear operators that carry states on (DSA) stand between: they tell the tasks apart,
and the kinds still.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import check, check_same_length
from experiments._two_tasks import TASKS, Member, Networks, look_at, task_settings, train
from rnndyn import plotting

CAPTION = """Kinds of networks represent tasks differently, with much the same fixed points (Maheswaranathan 2019).

Five networks of each of three kinds learn to hold two bits, and five to generate sine waves.

- **a, b, c** fixed points of one flip-flop network of each kind, first two principal components: grey, trajectories
  at the task; black circles, stable; orange crosses, one unstable direction; blue diamonds, two. The textbook
  has four, four and one; how many networks have it, the report counts.
- **d** all networks by their DSA distances, scaled to two dimensions: colour, the kind; circles, flip-flop; squares,
  sine wave.
- **e** how differently networks of one task represent the same trials: angles between their states after the best
  rotation. Different tasks are not compared.
- **f** how differently they move: angles between their operators after the best change of basis, tasks included.
- **g, h** how far distances follow the kind of cell (within a task) and the task: ANOSIM R, 1 where they do entirely;
  orange, representations; blue, dynamics; filled, p at most .05 by permutation of the labels. Topology: fixed points
  by number, unstable directions and connections; arrangement: also by place, up to a rotation and a scale. Topology
  follows the task alone; arrangement, DSA and spectra follow both.
"""


@dataclasses.dataclass(frozen=True)
class Config(Networks):
    """Everything that decides the result.

    The paper trains more and larger networks, on three tasks. In its direction: `--num-units 64 64 64 --num-seeds 8
    --num-updates 3000 6000 --num-frequencies 26`.
    """

    num_delays: int = 4
    rank: int = 6
    num_splits: int = 50
    num_permutations: int = 999
    """Of the labels."""
    num_deals: int = 19
    """Of the places of fixed points: how close in arrangement two networks are by chance."""

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "cells", "num_units", "learning_rates")


SMOKE = Config(
    cells=("GRU", "vanilla"),
    num_units=(4, 4),
    learning_rates=(1e-2, 1e-2),
    num_seeds=2,
    num_updates=(3, 3),
    num_steps=(6, 6),
    num_bits=1,  # both tasks then have one input and one output, and share what they compile
    num_trials=16,
    batch_size=4,
    num_free_steps=8,
    num_delays=1,
    rank=2,
    num_splits=2,
    num_candidates=8,
    num_permutations=9,
    num_deals=2,
)


class Scores(rd.Result):
    """How distances of one kind follow cell and task."""

    name: str
    distances: np.ndarray
    by_cell: rd.LabelClustering
    by_task: rd.LabelClustering | None


class Universality(rd.Result):
    """All networks and how far apart they are; representations of different tasks are not compared."""

    members: tuple[Member, ...]
    scores: tuple[Scores, ...]
    similarity: rd.DynamicalSimilarity
    topology: rd.TopologicalSimilarity
    num_bits: int

    def textbook(self, task: str) -> tuple[int, ...]:
        """The portrait that the task asks for: every combination of bits that are -1, 0, 1; a spiral inside a cycle."""
        if task == "sine_wave":
            return (0, 0, 1)
        counts = np.array([1])
        for _ in range(self.num_bits):
            counts = np.convolve(counts, [2, 1])
        return tuple(counts.tolist())


def compute(config: Config) -> Universality:
    """Train every network, then compare all of them."""
    members, free, shown = [], [], []
    for task in TASKS:
        trials = rd.tasks.batches(task, config.num_trials, **task_settings(task, config))(
            jax.random.fold_in(jax.random.key(config.seed), list(TASKS).index(task))
        )
        for index, cell in enumerate(config.cells):
            for seed, trained in enumerate(train(task, cell, index, config)):
                member, states, freely = look_at(task, cell, seed, trained, trials.inputs, config)
                members.append(member)
                shown.append(states)
                free.append(freely)
    cells, tasks = [m.cell for m in members], [m.task for m in members]
    options = {"num_permutations": config.num_permutations, "seed": config.seed}
    scores = []
    for name, measure in {
        "Procrustes": rd.procrustes_distance,
        "1 - SVCCA": lambda states: 1 - rd.svcca(states),
        "1 - CKA": lambda states: 1 - rd.cka(states),
    }.items():
        distances = within_tasks(measure, shown, tasks)
        scores.append(Scores(name, distances, rd.label_clustering(distances, cells, within=tasks, **options), None))
    similarity = rd.dynamical_similarity(
        free, num_delays=config.num_delays, rank=config.rank, num_splits=config.num_splits, seed=config.seed
    )
    topology = rd.topological_similarity(
        [m.points for m in members],
        [m.connections for m in members],
        num_permutations=config.num_deals,
        seed=config.seed,
    )
    for name, distances in (
        ("DSA", similarity.distances),
        ("spectra", similarity.spectral_distances),
        ("arrangement", topology.arrangement_distances),
        ("topology", topology.distances),
    ):
        by_cell = rd.label_clustering(distances, cells, within=tasks, **options)
        scores.append(Scores(name, distances, by_cell, rd.label_clustering(distances, tasks, **options)))
    return Universality(tuple(members), tuple(scores), similarity, topology, config.num_bits)


def within_tasks(measure: Callable[[Any], np.ndarray], shown: list[np.ndarray], tasks: list[str]) -> np.ndarray:
    """Distances between networks of one task; 0 between tasks, where nobody reads them."""
    distances = np.zeros((len(shown), len(shown)))
    for task in TASKS:
        members = np.flatnonzero(np.array(tasks) == task)
        distances[np.ix_(members, members)] = measure([shown[k] for k in members])
    return distances


def report(result: Universality) -> str:
    """Portraits, distances and how they cluster."""
    lines = ["task       cell     validation MSE      networks with the textbook's fixed points (others)"]
    for task in TASKS:
        for cell in dict.fromkeys(m.cell for m in result.members):
            group = [m for m in result.members if (m.task, m.cell) == (task, cell)]
            losses = [m.validation_loss for m in group]
            # Unstable directions are counted; a spiral of the sine wave has two.
            right = [m for m in group if m.portrait == result.textbook(task)]
            others = ", ".join(str(m.portrait) for m in group if m not in right)
            lines.append(
                f"{TASKS[task]:<10} {cell:<8} {min(losses):.1e} to {max(losses):.1e}  {len(right)} of {len(group)}"
                + (f"  ({others})" if others else "")
            )
    lines += ["", "clustering R (ANOSIM) and its p-value    by cell, within tasks     by task"]
    for score in result.scores:
        task = score.by_task
        words = "representations" if task is None else "dynamics"
        lines.append(
            f"  {words:<16} {score.name:<20} {score.by_cell.statistic:>8.2f}  p = {score.by_cell.p_value:<8.3g}"
            + ("       not compared" if task is None else f"  {task.statistic:>8.2f}  p = {task.p_value:.3g}")
        )
    within, between = dsa_by_task(result)
    null = result.similarity.null_distances
    same, closer, chance = arrangements(result)
    lines += [
        "",
        f"flip-flop networks, {len(same)} pairs: {int(np.sum(same == 0))} have the same fixed points and connections;",
        f"in arrangement {int(np.sum(closer))} are closer than by chance (p <= .05; places dealt at random: median "
        f"{chance:.2f})",
    ]
    lines += [
        "",
        f"DSA, radians, medians: networks of one task {np.median(within):.2f}, of two tasks {np.median(between):.2f}; "
        f"a network from itself {np.median(null):.2f}, 99 % below {np.quantile(null, 0.99):.2f}",
        "published (Maheswaranathan et al. 2019, as pictures and not as numbers): representations (SVCCA) cluster by",
        "cell, the topology of fixed points does not",
    ]
    return "\n".join(lines)


def dsa_by_task(result: Universality) -> tuple[np.ndarray, np.ndarray]:
    """DSA between networks of one task, and of two."""
    tasks = np.array([m.task for m in result.members])
    i, j = np.triu_indices(len(tasks), 1)
    same = tasks[i] == tasks[j]
    found = result.similarity.distances[i, j]
    return found[same], found[~same]


def arrangements(result: Universality) -> tuple[np.ndarray, np.ndarray, float]:
    """Of pairs of flip-flop networks: topological distances, whether places agree more than by chance, and chance."""
    chosen = np.flatnonzero([m.task == "flip_flop" for m in result.members])
    i, j = (chosen[axis] for axis in np.triu_indices(len(chosen), 1))
    topology = result.topology
    assert topology.p_values is not None
    return topology.distances[i, j], topology.p_values[i, j] <= 0.05, float(np.median(topology.null_distances[i, j]))


def plot(result: Universality) -> Figure:
    """Portraits above, distances and scores below."""
    with plotting.paper_style():
        figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.2))
        # Rows of their own: the names of the measures would push the portraits above them aside.
        rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.2])
        upper, lower = rows
        above, below = upper.subplots(1, 4), lower.subplots(1, 4)
        cells = list(dict.fromkeys(m.cell for m in result.members))
        for k in range(3):
            draw_portrait(above[k], result, cells[k] if k < len(cells) else None, "abc"[k])
        draw_map(above[3], result)
        by_name = {score.name: score for score in result.scores}
        draw_matrix(below[0], result, by_name["Procrustes"], "e")
        draw_matrix(below[1], result, by_name["DSA"], "f")
        draw_scores(below[2], result, "by_cell", "g")
        draw_scores(below[3], result, "by_task", "h")
    return figure


def draw_portrait(ax: Any, result: Universality, cell: str | None, letter: str) -> None:
    """Fixed points of one flip-flop network in its first two principal components."""
    member = next((m for m in result.members if m.task == "flip_flop" and m.cell == cell), None)
    if member is None or len(member.points) == 0:
        ax.set(title=f"{letter}  {cell or 'no further kind'}", xticks=[], yticks=[])
        ax.text(0.5, 0.5, "no fixed points" if cell else "-", transform=ax.transAxes, ha="center")
        return
    projection = plotting.principal_components(member.cloud.reshape(-1, member.cloud.shape[2]))
    for run in member.cloud:
        ax.plot(*projection(run)[:, :2].T, color="#C8C8C8", linewidth=0.5, zorder=0)
    places = projection(member.points.points)[:, :2]
    for count in np.unique(member.points.num_unstable):
        chosen = member.points.num_unstable == count
        ax.plot(
            *places[chosen].T,
            plotting.STABILITY_MARKERS[min(count, 4)],
            color=plotting.STABILITY_COLORS[min(count, 4)],
            label=f"{int(count)} unstable",
        )
    ax.set(xlabel="PC 1", xticks=[], yticks=[])
    ax.set_title(f"{letter}  {cell}, flip-flop", fontsize=8)
    if letter == "a":
        ax.set_ylabel("PC 2")


def draw_map(ax: Any, result: Universality) -> None:
    """All networks by their DSA distances (classical scaling): colour, the cell; mark, the task."""
    squares = result.similarity.distances**2
    centre = np.eye(len(squares)) - 1 / len(squares)
    values, vectors = np.linalg.eigh(-0.5 * centre @ squares @ centre)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    cells = dict.fromkeys(m.cell for m in result.members)
    for task, mark in zip(TASKS, "os"):
        for cell in cells:
            chosen = [k for k, m in enumerate(result.members) if (m.task, m.cell) == (task, cell)]
            label = cell if task == "flip_flop" else None
            ax.plot(
                places[chosen, 1],
                places[chosen, 0],
                mark,
                color=plotting.CELL_COLORS[cell],
                alpha=0.8,
                markeredgewidth=0,
                label=label,
            )
        ax.plot([], [], mark, color=plotting.COLORS["grey"], label=TASKS[task])
    ax.set(xlabel="first coordinate (rad)", ylabel="second (rad)")
    ax.set_title("d  map by DSA", fontsize=8)
    ax.locator_params(nbins=3)
    ax.legend(fontsize=6, loc="center", handletextpad=0.3, borderpad=0.1)


def draw_matrix(ax: Any, result: Universality, score: Scores, letter: str) -> None:
    """Distances of all pairs, grouped by task and cell; pairs that are not compared stay empty."""
    tasks = np.array([m.task for m in result.members])
    compared = (tasks[:, None] == tasks) | (score.by_task is not None)
    image = ax.imshow(np.where(compared, score.distances, np.nan), cmap="viridis", vmin=0)
    groups = [(m.task, m.cell) for m in result.members]
    starts = [k for k, group in enumerate(groups) if k == 0 or group != groups[k - 1]]
    ends = [*starts[1:], len(groups)]
    for start in starts[1:]:
        for line in (ax.axhline, ax.axvline):
            line(start - 0.5, color="white", linewidth=0.5)
    middles = [(a + b - 1) / 2 for a, b in zip(starts, ends)]
    names = [groups[k][1] for k in starts]
    ax.set_yticks(middles, names, fontsize=6)
    ax.set_xticks(
        [(len(groups) // 2 - 1) / 2, len(groups) // 2 + (len(groups) // 2 - 1) / 2], TASKS.values(), fontsize=6
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    what = "representation" if score.by_task is None else "dynamics"
    ax.set_title(f"{letter}  {what}: {score.name}", fontsize=8)
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("distance (rad)", fontsize=6, labelpad=1)
    bar.ax.tick_params(labelsize=6)


def draw_scores(ax: Any, result: Universality, which: str, letter: str) -> None:
    """Clustering R of every measure; filled where its p-value is at most .05."""
    for place, score in enumerate(result.scores):
        found = getattr(score, which)
        if found is None:
            ax.text(0.03, place, "not compared", va="center", fontsize=6, color=plotting.COLORS["grey"])
            continue
        color = plotting.COLORS["orange" if score.by_task is None else "blue"]
        sure = found.p_value <= 0.05
        ax.barh(place, found.statistic, height=0.65, color=color if sure else "white", edgecolor=color, linewidth=0.8)
        ax.text(max(found.statistic, 0) + 0.03, place, f"p = {found.p_value:.2g}", va="center", fontsize=6)
    names = [score.name for score in result.scores] if which == "by_cell" else []
    ax.set_yticks(range(len(names)), names, fontsize=6)
    ax.set_ylim(len(result.scores) - 0.5, -0.5)
    ax.axvline(0, color=plotting.COLORS["black"], linewidth=0.6)
    ax.set(xlabel="R", xlim=(-0.3, 1.6), xticks=[0, 0.5, 1])
    ax.set_title(f"{letter}  clustering by {'cell' if which == 'by_cell' else 'task'}", fontsize=8)
