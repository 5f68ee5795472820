"""Several tasks in one network: dynamical motifs that rules share (Yang et al. 2019; Driscoll, Shenoy & Sussillo 2024).

Each network learns six tasks: respond where a stimulus is on a ring, or opposite to it, at once, after a delay with the
stimulus on, or after a memory without it. A rule input says which. While the input is held, in the context, stimulus,
memory and response epochs, the state goes to an attractor of each rule. Two rules share a motif where continuation in
the rule input, from the one to the other, carries the attractor of the first into that of the second and meets no
bifurcation on the way.
"""

import dataclasses
import itertools
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import NotNegative, Seed, check, one_of
from experiments._training import train_networks
from rnndyn import plotting

CAPTION = """Dynamical motifs that tasks share in one network (Yang et al. 2019; Driscoll, Shenoy & Sussillo 2024).

Five networks with a rule input for each of six tasks: respond on a ring at the place of a stimulus (pro) or opposite
to it (anti), at once (react), after a delay with the stimulus on (delay), or after a memory without it (memory). One of
them in **b**, **c**, **d**.

- **a** where the response points off its target, for each task: dots, trials of all networks; bars, the median of each;
  dotted, 36 degrees.
- **b** the memory epoch, two principal components: grey, trials of memory pro; lines, where 16 stimuli are remembered
  at its end, under memory pro and memory anti; circles and squares, the fixed points of both, filled where stable.
- **c, d** fixed points of the memory epoch while the rule input goes from memory pro to memory anti, and to delay pro:
  solid stable, dashed unstable; marks, bifurcations.
- **e, f** in how many of the networks continuation in the rule input carries the attractor of one rule into that of the
  other without a bifurcation, a shared motif; of how many, where both have one; in the context and with a stimulus.
"""

EPOCHS = ("context", "stimulus", "response, seen", "response, remembered")
STIMULUS = 0.7
"""The angle of the stimulus, in radians, at which rules are compared."""
MEMORY_STEPS = 10
"""How long stimulus and memory last in the mean."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    rules: tuple[Annotated[str, one_of(rd.tasks.RING_RULES)], ...] = rd.tasks.RING_RULES
    num_units: int = 24
    num_updates: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    noise_std: NotNegative = 0.1
    num_angles: int = 16
    """Stimuli around the ring whose memories are followed."""
    num_candidates: int = 64
    """Starting points of each search for fixed points."""
    settle_steps: int = 50_000
    """Steps with the input held after which the state is at its attractor: some units of a GRU take thousands."""
    num_seeds: int = 5
    """Networks; the figure shows the first, the report all."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        missing = {"memory_pro", "memory_anti", "delay_pro"} - set(self.rules)
        if missing:
            raise ValueError(f"rules: got {' '.join(self.rules)}; the figure follows {', '.join(sorted(missing))} too.")


SMOKE = Config(
    rules=("memory_pro", "memory_anti", "delay_pro"),
    num_units=4,
    num_updates=4,
    batch_size=4,
    num_angles=3,
    num_seeds=1,
    num_candidates=16,
    settle_steps=20,
)


class MultitaskNetwork(rd.Result):
    """One network at all its tasks.

    - `errors`: degrees between response and target at the end of each trial; `rule_of` is its rule.
    - `settled`: the state (epoch, rule, N) at which a trial comes to rest while the input of an epoch is held, for one
        stimulus; NaN where that is no fixed point, or the rule has no such epoch.
    - `shared`: for each epoch and pair of rules, 2, 1 or 0 as in `motif`; -1 where there is nothing to follow.
    - `rings`: where trials of memory pro, memory anti and delay pro are at the end of the memory epoch, one for each
        angle.
    - `memories`: fixed points with the input of the memory epoch, of memory pro, memory anti and delay pro.
    - `morphs`: curves of fixed points from the first of these to the second, and from the first to the third.
    - `paths`: states of some trials of memory pro.
    """

    validation_loss: float
    errors: np.ndarray
    rule_of: np.ndarray
    settled: np.ndarray
    shared: np.ndarray
    rings: np.ndarray
    memories: tuple[rd.FixedPoints, ...]
    morphs: tuple[tuple[rd.Branch, ...], ...]
    paths: np.ndarray


class MultitaskMotifs(rd.Result):
    """All networks of the study."""

    rules: tuple[str, ...]
    networks: tuple[MultitaskNetwork, ...]
    angles: np.ndarray


def compute(config: Config) -> MultitaskMotifs:
    """Train the networks; find where each rule comes to rest, and follow that from rule to rule."""
    model_key, fit_key, trial_key = jax.random.split(jax.random.key(config.seed), 3)
    task = {"rules": config.rules, "noise_std": config.noise_std}
    trained = train_networks(
        "ring_rules",
        task,
        lambda key: rd.GRUCell(3 + len(config.rules), config.num_units, key=key),
        3,
        (model_key, fit_key),
        num_networks=config.num_seeds,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        num_validation=256,
    )
    trials = rd.tasks.batches("ring_rules", 512, **task)(trial_key)
    angles = np.arange(config.num_angles) * 2 * np.pi / config.num_angles
    networks = tuple(analyse(trained.member(k), trials, angles, config) for k in range(config.num_seeds))
    return MultitaskMotifs(config.rules, networks, angles)


def analyse(fitted: Any, trials: rd.tasks.Trial, angles: np.ndarray, config: Config) -> MultitaskNetwork:
    """Performance, resting states, shared motifs and the memory epoch of one network."""
    model = fitted.model
    cell, rules = model.cell, config.rules
    outputs = np.asarray(eqx.filter_vmap(model)(trials.inputs), float)[:, -1]
    target = np.asarray(trials.targets, float)[:, -1]
    turn = np.arctan2(outputs[:, 2], outputs[:, 1]) - np.arctan2(target[:, 2], target[:, 1])
    settled = np.full((len(EPOCHS), len(rules), config.num_units), np.nan)
    for epoch, rule in itertools.product(range(len(EPOCHS)), range(len(rules))):
        if EPOCHS[epoch] not in epochs_of(rules[rule]):
            continue
        start = arrive(cell, rule, EPOCHS[epoch], np.array([STIMULUS]), config.settle_steps, config)[0]
        f = rd.as_map(cell, held(EPOCHS[epoch], rule, STIMULUS, config))
        found = rd.find_fixed_points(f, start[None], progress=False)
        # A state at rest is a fixed point, to the precision of float32; one that still moves is none.
        near = np.linalg.norm(found.points - start, axis=1) < 1e-2
        if near.any():
            settled[epoch, rule] = found.points[near][0]
    shared = np.full((len(EPOCHS), len(rules), len(rules)), -1)
    for epoch in range(len(EPOCHS)):
        for a, b in itertools.permutations(range(len(rules)), 2):
            if a < b and np.isfinite(settled[epoch, [a, b]]).all():
                inputs = [held(EPOCHS[epoch], rule, STIMULUS, config) for rule in (a, b)]
                shared[epoch, a, b] = shared[epoch, b, a] = motif(cell, inputs, settled[epoch, [a, b]])
    pro, anti, delay = (rules.index(name) for name in ("memory_pro", "memory_anti", "delay_pro"))
    rings = [arrive(cell, rule, "memory", angles, MEMORY_STEPS, config) for rule in (pro, anti, delay)]
    visited = eqx.filter_vmap(model.states)(trials.inputs)
    pool = np.asarray(visited).reshape(-1, config.num_units)
    rng = np.random.default_rng(config.seed)
    candidates = pool[rng.integers(0, len(pool), config.num_candidates)]
    memories = tuple(
        rd.find_fixed_points(
            rd.as_map(cell, held("memory", rule, 0.0, config)),
            np.concatenate([ring, candidates]),
            until_complete=True,
            progress=False,
        )
        for rule, ring in zip((pro, anti, delay), rings)
    )
    inputs = [held("memory", rule, 0.0, config) for rule in (pro, anti, delay)]
    morphs = tuple(morph(cell, memories[0], memories[k], [inputs[0], inputs[k]]) for k in (1, 2))
    rule_of = np.asarray(trials.inputs[:, 0, 3:]).argmax(axis=1)
    return MultitaskNetwork(
        validation_loss=float(fitted.history.validation_losses[-1]),
        errors=np.abs(np.degrees(np.angle(np.exp(1j * turn)))),
        rule_of=rule_of,
        settled=settled,
        shared=shared,
        rings=np.array(rings),
        memories=memories,
        morphs=morphs,
        paths=np.asarray(visited)[np.flatnonzero(rule_of == pro)[:24]],
    )


def epochs_of(rule: str) -> tuple[str, ...]:
    """The epochs that a rule has; that of the stimulus is the response of react."""
    responses = {"delay": ("response, seen",), "memory": ("response, remembered",), "react": ()}
    return ("context", "stimulus", *responses[rule.partition("_")[0]])


def held(epoch: str, rule: int, angle: Any, config: Config) -> np.ndarray:
    """The input of an epoch without noise, for each angle: fixation, stimulus, rule."""
    angle = np.asarray(angle)
    fixation = 0.0 if epoch.startswith("response") else 1.0
    seen = 1.0 if epoch in ("stimulus", "response, seen") else 0.0
    cue = np.broadcast_to(np.eye(len(config.rules))[rule], (*angle.shape, len(config.rules)))
    clean = np.stack([np.full(angle.shape, fixation), seen * np.cos(angle), seen * np.sin(angle)], axis=-1)
    return np.concatenate([clean, cue], axis=-1).astype(np.float32)


def arrive(cell: Any, rule: int, epoch: str, angles: np.ndarray, num_steps: int, config: Config) -> np.ndarray:
    """Where trials without noise are after some steps of one of their epochs, `(K, N)`."""
    f = rd.as_driven_map(cell)
    order = {"stimulus": 1, "memory": 2, "response, seen": 2, "response, remembered": 3}
    states = jnp.broadcast_to(f.flatten(cell.initial_state()), (len(angles), config.num_units))
    for before in ("context", "stimulus", "memory")[: order.get(epoch, 0)]:
        # The mean lengths of the task.
        states = hold(f, states, held(before, rule, angles, config), 6 if before == "context" else MEMORY_STEPS)
    return np.asarray(hold(f, states, held(epoch, rule, angles, config), num_steps), float)


@eqx.filter_jit
def hold(f: Any, states: Any, inputs: Any, num_steps: Any) -> jax.Array:
    """The states after a number of steps with each input held."""
    step = jax.vmap(f)
    return jax.lax.fori_loop(0, jnp.asarray(num_steps), lambda _, x: step(x, jnp.asarray(inputs)), states)


def motif(cell: Any, inputs: list[np.ndarray], points: np.ndarray) -> int:
    """Whether one fixed point becomes the other as the input goes from one to the other.

    2: it does, without a bifurcation; 1: it meets none, but becomes another fixed point; 0: it meets a bifurcation.
    """
    start, end = inputs
    f = rd.input_parameter(cell, start, end - start)
    branch = rd.continue_fixed_points(f, points[0], 0.0, (0.0, 1.0), max_step=0.15)
    if branch.bifurcations:
        return 0
    last = branch.points[np.argmax(branch.parameters)]
    return 2 if branch.parameters.max() > 1 - 1e-9 and np.linalg.norm(last - points[1]) < 1e-4 else 1


def morph(cell: Any, starts: rd.FixedPoints, ends: rd.FixedPoints, inputs: list[np.ndarray]) -> tuple[rd.Branch, ...]:
    """All curves of fixed points that begin at one input or end at the other."""
    f = rd.input_parameter(cell, inputs[0], inputs[1] - inputs[0])
    branches = []
    for parameter, points in ((0.0, starts.points), (1.0, ends.points)):
        for point in points:
            if not any(passes(branch, point, parameter) for branch in branches):
                branches.append(rd.continue_fixed_points(f, point, parameter, (0.0, 1.0)))
    return tuple(branches)


def passes(branch: rd.Branch, point: np.ndarray, parameter: float) -> bool:
    """Whether a curve goes through a fixed point at one end of the interval."""
    there = branch.points[np.abs(branch.parameters - parameter) < 1e-9]
    return bool(np.any(np.linalg.norm(there - point, axis=1) < 1e-4))


def report(result: MultitaskMotifs) -> str:
    """Errors of each task, the motifs that rules share, and what interpolating between rules meets."""
    lines = ["task          median error (degrees), by network"]
    for k, rule in enumerate(result.rules):
        lines.append(f"{rule:<13} " + "  ".join(f"{np.median(n.errors[n.rule_of == k]):6.1f}" for n in result.networks))
    lines.append("shared motifs: pairs of rules whose attractors continuation joins without a bifurcation")
    width = 10 * len(result.networks) + 1
    lines.append(f"{'epoch, by network':<21} {'all':<{width}} {'pro with pro, anti with anti':<{width}} pro with anti")
    anti = np.array([rule.endswith("anti") for rule in result.rules])
    for epoch, name in enumerate(EPOCHS):
        rows, columns = np.triu_indices(len(result.rules), 1)
        same = anti[rows] == anti[columns]
        joined = []
        for part in (np.full(len(rows), True), same, ~same):
            codes = [n.shared[epoch][rows[part], columns[part]] for n in result.networks]
            joined.append(", ".join(f"{np.sum(c == 2)} of {np.sum(c >= 0)}" for c in codes))
        lines.append(f"{name:<21} {joined[0]:<{width}} {joined[1]:<{width}} {joined[2]}")
    lines.append("memory epoch: fixed points (stable) of memory pro, anti and delay pro, and bifurcations between them")
    for number, network in enumerate(result.networks):
        counts = ", ".join(f"{len(p)} ({np.sum(p.is_stable)})" for p in network.memories)
        met = [sum(len(branch.bifurcations) for branch in branches) for branches in network.morphs]
        lines.append(f"  network {number}: {counts}; from memory pro to anti {met[0]}, to delay pro {met[1]}")
    lines.append(
        "Driscoll et al. 2024 find motifs (attractors, decision boundaries, rotations) that tasks with the same "
        "computation share, with more tasks in larger networks; attractors alone are followed here."
    )
    return "\n".join(lines)


def plot(result: MultitaskMotifs) -> Figure:
    """Errors, the ring of memories, two ways from rule to rule in one network, and the shared motifs of all."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 5.0))
    axes = figure.subplots(2, 3)
    network = result.networks[0]
    projection = plotting.principal_components(network.rings[:2], 2)
    draw_errors(axes[0, 0], result)
    draw_ring(axes[0, 1], network, projection)
    for ax, branches, title, room in zip(
        (axes[0, 2], axes[1, 0]), network.morphs, ("c  memory pro to anti", "d  memory pro to delay pro"), (0.45, 0.0)
    ):
        plotting.plot_bifurcation_diagram(branches, lambda x: projection(x)[..., 0], ax=ax)
        ax.set(title=title, xlabel="rule input, from 0 to 1", ylabel="fixed points on PC 1 of b")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + room * (high - low))
        ax.legend()
    for ax, epoch, title in zip(axes[1, 1:], (0, 1), ("e  shared in the context", "f  shared with the stimulus")):
        draw_shared(ax, result, epoch)
        ax.set_title(title)
    return figure


def draw_errors(ax: Any, result: MultitaskMotifs) -> None:
    """Errors of all networks by task."""
    rng = np.random.default_rng(0)
    width = 0.8 / len(result.networks)
    for k, (place, network) in itertools.product(range(len(result.rules)), enumerate(result.networks)):
        errors = network.errors[network.rule_of == k]
        middle = k + (place - (len(result.networks) - 1) / 2) * width
        jitter = rng.uniform(-0.35, 0.35, len(errors)) * width
        ax.plot(middle + jitter, errors, "o", color=plotting.CELL_COLORS["GRU"], markersize=1, alpha=0.4, mew=0)
        if len(errors):
            ax.plot(middle + 0.4 * width * np.array([-1, 1]), [np.median(errors)] * 2, color="black", linewidth=1.4)
    ax.axhline(36, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    ax.set_xticks(
        range(len(result.rules)),
        [rule.replace("memory", "mem.").replace("_", "\n") for rule in result.rules],
        fontsize=6,
    )
    ax.set(title="a  errors", ylabel="response off target (degrees)", yscale="symlog", ylim=(0, 200))
    ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])


def draw_ring(ax: Any, network: MultitaskNetwork, projection: Any) -> None:
    """Trials of memory pro, and the fixed points of the memory epoch of both memory tasks."""
    for path in projection(network.paths):
        ax.plot(*path.T, color="#D4D4D4", linewidth=0.4, zorder=0)
    for ring, color in zip(network.rings, ("blue", "orange")):
        closed = projection(np.concatenate([ring, ring[:1]]))
        ax.plot(*closed.T, color=plotting.COLORS[color], linewidth=0.9)
    for points, marker, color, name in zip(network.memories, "os", ("blue", "orange"), ("pro", "anti")):
        places = projection(points.points)
        for stable in (True, False):
            shown = places[points.is_stable == stable]
            face = plotting.COLORS[color] if stable else "white"
            style = {"color": plotting.COLORS[color], "markerfacecolor": face, "markersize": 4}
            ax.plot(*shown.T, marker, label=f"memory {name}" if stable else None, **style)
    ax.set(title="b  memory epoch", xlabel=projection.label(0), ylabel=projection.label(1), xticks=[], yticks=[])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.25 * (high - low))
    ax.legend(loc="upper right")


def draw_shared(ax: Any, result: MultitaskMotifs, epoch: int) -> None:
    """In how many networks each two rules share a motif."""
    # Pro rules first: what they share and what anti rules share are then blocks.
    order = sorted(range(len(result.rules)), key=lambda k: result.rules[k].endswith("anti"))
    codes = np.array([network.shared[epoch][np.ix_(order, order)] for network in result.networks])
    names = [result.rules[k] for k in order]
    shared, known = np.sum(codes == 2, axis=0), np.sum(codes >= 0, axis=0)
    share = np.where(known > 0, shared / np.maximum(known, 1), np.nan)
    colors = LinearSegmentedColormap.from_list("shared", ["#E4E4E4", plotting.COLORS["sky"], plotting.COLORS["blue"]])
    ax.pcolormesh(share[::-1], cmap=colors, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for row, column in np.argwhere(known > 0):
        dark = share[row, column] > 0.7
        text = f"{shared[row, column]}/{known[row, column]}"
        place = (column + 0.5, len(names) - row - 0.5)
        ax.text(*place, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    places = np.arange(len(names)) + 0.5
    ax.set_xticks(places, [name.replace("memory", "mem.").replace("_", "\n") for name in names], fontsize=6)
    ax.set_yticks(places, [name.replace("_", " ") for name in names[::-1]], fontsize=6.5)
    ax.spines[:].set_visible(False)
    ax.set_aspect("equal")
