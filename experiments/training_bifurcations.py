r"""Bifurcations met in training, and where the loss jumps (Eisenmann et al. 2023; Pascanu, Mikolov & Bengio 2013).

Tanh networks learn to hold a bit for long, until the next of some rare pulses. At zero input they have one fixed point
before training, and need two stable ones with a saddle between them at the end: these come into being at a bifurcation
somewhere on the way. `follow_training` interpolates the weights between checkpoints and follows every fixed point
through them, so each bifurcation has its training step; the validation error is then set against these steps, in
several networks.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, Seed, check
from rnndyn import plotting

CAPTION = """The error jumps where memories are born (after Eisenmann et al. 2023; Pascanu et al. 2013).

Eight tanh networks learn to hold a bit over long gaps between pulses, from different weights and trials.

- **a** validation error over training: one network black, the others grey; orange dotted, in **b** too, the
  bifurcations of the first.
- **b** every fixed point of that network at zero input, seen through its output: blue stable, grey dashed unstable.
- **c** validation error over the updates since the first bifurcation of each network, where it jumps, in some of them
  up before it falls.
- **d** by how much the error changes from one checkpoint to the next, up or down: means over the intervals of each
  network with a bifurcation in them, and over the others; a line for each network.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_networks: int = 8
    """From different weights and trials."""
    num_units: int = 8
    num_steps: int = 80
    """Length of a trial."""
    pulse_probability: Fraction = 0.03
    """Of a pulse per step: a bit is held for the inverse of it."""
    batch_size: int = 32
    num_updates: int = 400
    learning_rate: float = 3e-3
    snapshots_every: int = 10
    """Updates between checkpoints."""
    num_candidates: int = 32
    """Starting points of the search at every checkpoint."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    num_networks=2, num_units=4, num_steps=8, batch_size=4, num_updates=20, snapshots_every=10, num_candidates=16
)


class Run(rd.Result):
    """The fixed points of one network over training, and its error."""

    history: rd.FixedPointHistory
    losses: np.ndarray
    """Validation MSE at each checkpoint."""
    outputs: tuple[np.ndarray, ...]
    """What the readout of its checkpoint gives at the points of each track, (L,)."""

    @property
    def jumps(self) -> np.ndarray:
        """By how much the error changes from each checkpoint to the next, as a share of the error at the start."""
        return np.abs(np.diff(self.losses)) / self.losses[0]

    @property
    def has_event(self) -> np.ndarray:
        """Whether a bifurcation lies between each checkpoint and the next."""
        met = np.zeros(len(self.losses) - 1, bool)
        met[[event.checkpoint for event in self.history.events]] = True
        return met


class TrainingBifurcations(rd.Result):
    """All networks."""

    runs: tuple[Run, ...]


def compute(config: Config) -> TrainingBifurcations:
    """Train every network with checkpoints, and follow its fixed points from one to the next."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_networks)
    return TrainingBifurcations(tuple(train(key, config) for key in keys))


def train(key: Any, config: Config) -> Run:
    """One network."""
    cell_key, readout_key, fit_key, trial_key, candidate_key = jax.random.split(key, 5)
    model = rd.RNN(
        rd.VanillaCell(1, config.num_units, key=cell_key), eqx.nn.Linear(config.num_units, 1, key=readout_key)
    )
    task = {"num_bits": 1, "num_steps": config.num_steps, "pulse_probability": config.pulse_probability}
    fitted = rd.fit(
        model,
        LOSS,
        rd.tasks.batches("flip_flop", config.batch_size, **task),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        snapshots_every=config.snapshots_every,
        key=fit_key,
    )
    trials = rd.tasks.batches("flip_flop", 256, **task)(trial_key)
    losses = np.array([float(validate(snapshot, trials)) for snapshot in fitted.snapshots])
    states = np.asarray(visited(fitted.last_model, trials.inputs))
    candidates = rd.sample_candidates(states, config.num_candidates, key=candidate_key)
    history = rd.follow_training(
        [rd.as_map(snapshot.cell) for snapshot in fitted.snapshots],
        candidates,
        fitted.history.snapshot_steps,
        progress=False,
    )
    outputs = []
    for track in history.tracks:
        readouts = [fitted.snapshots[k].readout for k in range(track.first, track.last + 1)]
        weights = np.stack([np.asarray(readout.weight)[0] for readout in readouts])
        biases = np.stack([np.asarray(readout.bias)[0] for readout in readouts])
        outputs.append(np.sum(weights * track.points[:, 0], axis=1) + biases)
    return Run(history, losses, tuple(outputs))


LOSS = rd.training.over_trials(rd.training.mean_squared_error)


@eqx.filter_jit
def validate(model: rd.RNN, trials: rd.tasks.Trial) -> jax.Array:
    """The mean squared error."""
    return LOSS(model, trials)


@eqx.filter_jit
def visited(model: rd.RNN, inputs: jax.Array) -> jax.Array:
    """The states of all trials."""
    return eqx.filter_vmap(model.states)(inputs)


def report(result: TrainingBifurcations) -> str:
    """The bifurcations of every network, and what the error does there and elsewhere."""
    lines = ["network  MSE: start, end   bifurcations (update; MSE before, after)"]
    hits, chances = [], []
    for number, run in enumerate(result.runs):
        events = "; ".join(
            f"{event.kind} {event.step:.0f} ({before:.3f}, {after:.3f})"
            for event in run.history.events
            for before, after in [run.losses[event.checkpoint : event.checkpoint + 2]]
        )
        lines.append(f"{number:7d}  {run.losses[0]:.3f}, {run.losses[-1]:.3f}      {events or 'none'}")
        # A memory is as good as none until it is stable enough, some updates after it is born.
        near = run.has_event | np.concatenate([[False], run.has_event[:-1]])
        hits.append(bool(near[np.argmax(run.jumps)]))
        chances.append(near.mean())
    pairs = [means_of(run) for run in result.runs]
    pairs = [pair for pair in pairs if pair is not None]
    if pairs:
        with_event, without = np.median(pairs, axis=0)
        lines.append(
            f"change of the error between checkpoints, in errors at the start, medians over networks: {with_event:.3f} "
            f"with a bifurcation in between, {without:.3f} without; more with than without in "
            f"{sum(a > b for a, b in pairs)} of {len(pairs)} networks"
        )
    lines.append(
        f"the largest change lies in an interval with a bifurcation, or in the next one, in {sum(hits)} of {len(hits)} "
        f"networks; by chance in {sum(chances):.1f}"
    )
    tracks = [track for run in result.runs for track in run.history.tracks]
    lost = sum(track.end.startswith("lost") for track in tracks)
    residual = max((track.residuals.max() for track in tracks), default=0.0)
    lines.append(f"{len(tracks)} tracks of fixed points, {lost} lost before the end; largest residual {residual:.1e}")
    lines.append(
        "Eisenmann et al. 2023 prove that gradients of piecewise-linear networks diverge or vanish at certain "
        "bifurcations, and see their loss jump there; these networks are smooth, and what they meet are folds."
    )
    return "\n".join(lines)


def means_of(run: Run) -> tuple[float, float] | None:
    """The mean change of the error in intervals with a bifurcation, and in the others."""
    met = run.has_event
    return (float(run.jumps[met].mean()), float(run.jumps[~met].mean())) if met.any() and not met.all() else None


def plot(result: TrainingBifurcations) -> Figure:
    """The error with the bifurcations, the fixed points of one network, the error around them, and its jumps."""
    figure, axes = plt.subplots(2, 2, figsize=(plotting.PAGE_WIDTH, 3.9), width_ratios=[1.9, 1])
    first = result.runs[0]
    (top, aligned), (bottom, jumps) = axes
    for run in result.runs[1:]:
        top.plot(run.history.steps, run.losses, color=plotting.COLORS["grey"], linewidth=0.6)
    top.plot(first.history.steps, first.losses, color=plotting.COLORS["black"])
    top.set(title="a  training", ylabel="validation MSE", ylim=(0, None))
    top.tick_params(labelbottom=False)
    draw_tracks(bottom, first)
    bottom.set(title="b  fixed points of one network", xlabel="update", ylabel="output")
    for ax in (top, bottom):
        draw_events(ax, first)
        ax.set_xlim(first.history.steps[0], first.history.steps[-1])
    draw_aligned(aligned, result)
    draw_jumps(jumps, result)
    return figure


def draw_events(ax: Any, run: Run) -> None:
    """A line at the step of every bifurcation, in the colour of its kind."""
    for event in run.history.events:
        color = plotting.BIFURCATION_COLORS[event.bifurcation.kind]
        ax.axvline(event.step, color=color, linestyle=":", linewidth=1.0, zorder=0)


def draw_tracks(ax: Any, run: Run) -> None:
    """The output at every fixed point: full lines where it is stable."""
    for track, outputs in zip(run.history.tracks, run.outputs):
        steps = run.history.steps[track.first : track.last + 1]
        for stable, style, color in ((True, "-", "blue"), (False, "--", "grey")):
            shown = track.is_stable == stable
            shown[1:] |= shown[:-1]
            values = np.where(shown, outputs, np.nan)
            ax.plot(steps, values, style, color=plotting.COLORS[color], linewidth=1.2 if stable else 0.8)


def draw_aligned(ax: Any, result: TrainingBifurcations) -> None:
    """The error of every network around its first bifurcation."""
    for number, run in enumerate(result.runs):
        if run.history.events:
            first = min(event.step for event in run.history.events)
            color, width = ("black", 1.2) if number == 0 else ("grey", 0.6)
            ax.plot(run.history.steps - first, run.losses, color=plotting.COLORS[color], linewidth=width)
    ax.axvline(0, color=plotting.BIFURCATION_COLORS["fold"], linestyle=":", linewidth=1.0, zorder=0)
    ax.set(title="c  around the first one", xlabel="updates since", ylabel="validation MSE", ylim=(0, None))
    ax.set_xlim(-100, 200)


def draw_jumps(ax: Any, result: TrainingBifurcations) -> None:
    """By how much the error changes in an interval with a bifurcation, and in another one."""
    for number, run in enumerate(result.runs):
        pair = means_of(run)
        if pair is not None:
            color = plotting.COLORS["black" if number == 0 else "grey"]
            ax.plot([0, 1], 100 * np.array(pair), "o-", color=color, markersize=3.5, linewidth=0.8)
    ax.set_xticks([0, 1], ["with a\nbifurcation", "without"])
    ax.set(title="d  between checkpoints", ylabel="|change| / % of the start", xlim=(-0.4, 1.4))
    ax.set_ylim(0, None)
