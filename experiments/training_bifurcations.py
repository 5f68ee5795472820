r"""Bifurcations met in training, set against the jumps of the loss (Eisenmann et al. 2023; Pascanu et al. 2013).

A tanh network learns to hold two bits. Before training it has one fixed point at zero input; at the end it needs four
stable ones, with saddles between them. Each comes into being at a bifurcation somewhere on the way. `follow_training`
interpolates the weights between checkpoints and follows every fixed point through them, so each bifurcation has its
training step; the loss and the gradient are then set against these steps. In this run the loss falls faster than usual
while the memories are born, but does not jump.
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

CAPTION = """Bifurcations met in training, at which the loss does not jump (after Eisenmann et al. 2023).

One network. Eisenmann et al. see the loss jump at bifurcations of piecewise-linear networks; here it falls somewhat
faster between checkpoints with a bifurcation than without, and jumps nowhere.

- **a** norm of the gradient (light blue) and validation error (black) over training; orange dotted in all panels,
  folds.
- **b** every fixed point at zero input, seen through the outputs of the two bits: blue stable, grey dashed unstable.
- **c** their number: blue stable, grey dashed unstable.
- **d** change of the log error between checkpoints, as distributions: with a bifurcation in between (orange), without
  (black).
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_bits: int = 2
    num_units: int = 16
    num_steps: int = 40
    """Length of a trial."""
    pulse_probability: Fraction = 0.15
    batch_size: int = 64
    num_updates: int = 600
    learning_rate: float = 3e-3
    snapshots_every: int = 15
    """Updates between checkpoints."""
    num_candidates: int = 64
    """Starting points of the search at every checkpoint."""
    seed: Seed = 1

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(num_units=4, num_steps=8, batch_size=4, num_updates=20, snapshots_every=10, num_candidates=16)


class TrainingBifurcations(rd.Result):
    """The fixed points over training, and the loss."""

    history: rd.FixedPointHistory
    losses: np.ndarray
    """Validation MSE at each checkpoint."""
    grad_norms: np.ndarray
    """Of every update."""
    outputs: tuple[np.ndarray, ...]
    """What the readout of its checkpoint gives at the points of each track, (L, bits)."""

    @property
    def jumps(self) -> np.ndarray:
        """|change of ln loss| from each checkpoint to the next."""
        return np.abs(np.diff(np.log(self.losses)))

    @property
    def has_event(self) -> np.ndarray:
        """Whether a bifurcation lies between each checkpoint and the next."""
        met = np.zeros(len(self.losses) - 1, bool)
        met[[event.checkpoint for event in self.history.events]] = True
        return met


def compute(config: Config) -> TrainingBifurcations:
    """Train with checkpoints, and follow the fixed points from one to the next."""
    cell_key, readout_key, fit_key, trial_key, candidate_key = jax.random.split(jax.random.key(config.seed), 5)
    model = rd.RNN(
        rd.VanillaCell(config.num_bits, config.num_units, key=cell_key),
        eqx.nn.Linear(config.num_units, config.num_bits, key=readout_key),
    )
    task = {
        "num_bits": config.num_bits,
        "num_steps": config.num_steps,
        "pulse_probability": config.pulse_probability,
    }
    loss = rd.training.over_trials(rd.training.mean_squared_error)
    fitted = rd.fit(
        model,
        loss,
        rd.tasks.batches("flip_flop", config.batch_size, **task),
        optax.adam(config.learning_rate),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        snapshots_every=config.snapshots_every,
        key=fit_key,
    )
    trials = rd.tasks.batches("flip_flop", 256, **task)(trial_key)
    validate = eqx.filter_jit(loss)
    losses = np.array([float(validate(snapshot, trials)) for snapshot in fitted.snapshots])
    states = np.asarray(eqx.filter_jit(eqx.filter_vmap(fitted.last_model.states))(trials.inputs))
    candidates = rd.sample_candidates(states, config.num_candidates, key=candidate_key)
    history = rd.follow_training(
        [rd.as_map(snapshot.cell) for snapshot in fitted.snapshots], candidates, fitted.history.snapshot_steps
    )
    outputs = []
    for track in history.tracks:
        readouts = [fitted.snapshots[k].readout for k in range(track.first, track.last + 1)]
        outputs.append(
            np.stack([np.asarray(r.weight) @ x + np.asarray(r.bias) for r, x in zip(readouts, track.points[:, 0])])
        )
    return TrainingBifurcations(history, losses, np.asarray(fitted.history.grad_norms), tuple(outputs))


def report(result: TrainingBifurcations) -> str:
    """The bifurcations by step, with the loss around each, and how the jumps of the loss lie to them."""
    history = result.history
    lines = ["step      bifurcation       tracks    loss before   after"]
    for event in history.events:
        k = event.checkpoint
        lines.append(
            f"{event.step:8.2f}  {event.kind:<16}  {', '.join(map(str, event.tracks)):<8}  {result.losses[k]:11.4f}"
            f"   {result.losses[k + 1]:.4f}"
        )
    jumps, met = result.jumps, result.has_event
    if met.any() and not met.all():
        lines.append(
            f"median |change of ln loss| between checkpoints: {np.median(jumps[met]):.3f} with a bifurcation between "
            f"them ({met.sum()}), {np.median(jumps[~met]):.3f} without ({(~met).sum()})"
        )
    last = history.at(len(result.losses) - 1)
    stable = sum(bool(history.tracks[k].is_stable[-1]) for k in last)
    lines.append(
        f"at the end {len(last)} fixed points, {stable} stable; loss {result.losses[-1]:.4f}; largest residual "
        f"{max((track.residuals.max() for track in history.tracks), default=0):.1e}"
    )
    lost = [track.end for track in history.tracks if track.end.startswith("lost")]
    lines.append(f"{len(history.tracks)} tracks, {len(lost)} lost before the end")
    return "\n".join(lines)


def plot(result: TrainingBifurcations) -> Figure:
    """Loss and gradient with the bifurcations, the outputs at the fixed points, their number, and the jumps."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.4))
    halves = figure.add_gridspec(1, 2, width_ratios=[1.9, 1])
    left, right = halves[0].subgridspec(3, 1), halves[1].subgridspec(2, 1, height_ratios=[1.5, 1])
    steps = result.history.steps
    top: Any = figure.add_subplot(left[0])
    updates = np.arange(1, len(result.grad_norms) + 1)
    top.semilogy(updates, result.grad_norms, color=plotting.COLORS["sky"], linewidth=0.5, label="gradient norm")
    top.semilogy(steps, result.losses, color=plotting.COLORS["black"], label="validation MSE")
    top.set_ylim(bottom=result.losses.min() / 6)
    top.legend(loc="lower right", ncol=2)
    draw_events(top, result)
    top.set(title="a  training", ylabel="MSE, norm")
    top.tick_params(labelbottom=False)
    num_bits = result.outputs[0].shape[1] if result.outputs else 1
    for bit in range(min(num_bits, 2)):
        ax = figure.add_subplot(left[1 + bit], sharex=top)
        draw_tracks(ax, result, bit)
        draw_events(ax, result)
        ax.set(ylabel=f"output of bit {bit + 1}")
        if bit == 0:
            ax.set_title("b  fixed points at zero input")
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel("update")
    top.set_xlim(steps[0], steps[-1])
    draw_numbers(figure.add_subplot(right[0]), result)
    draw_jumps(figure.add_subplot(right[1]), result)
    return figure


def draw_events(ax: Any, result: TrainingBifurcations) -> None:
    """A line at the step of every bifurcation, in the colour of its kind."""
    for event in result.history.events:
        kind = event.bifurcation.kind
        ax.axvline(event.step, color=plotting.BIFURCATION_COLORS[kind], linestyle=":", linewidth=0.8, zorder=0)


def draw_tracks(ax: Any, result: TrainingBifurcations, bit: int) -> None:
    """The output of one bit at every fixed point: full lines where it is stable."""
    for track, outputs in zip(result.history.tracks, result.outputs):
        steps = result.history.steps[track.first : track.last + 1]
        for stable, style, color in ((True, "-", "blue"), (False, "--", "grey")):
            shown = track.is_stable == stable
            shown[1:] |= shown[:-1]
            ax.plot(
                steps,
                np.where(shown, outputs[:, bit], np.nan),
                style,
                color=plotting.COLORS[color],
                linewidth=1.2 if stable else 0.8,
            )


def draw_numbers(ax: Any, result: TrainingBifurcations) -> None:
    """How many fixed points there are at each checkpoint, by stability."""
    history = result.history
    counts = np.zeros((2, len(history.steps)), int)
    for track in history.tracks:
        at = np.arange(track.first, track.last + 1)
        counts[0, at] += track.is_stable
        counts[1, at] += ~track.is_stable
    ax.step(history.steps, counts[0], where="post", color=plotting.COLORS["blue"], label="stable")
    ax.step(history.steps, counts[1], where="post", color=plotting.COLORS["grey"], linestyle="--", label="unstable")
    for kind in dict.fromkeys(event.bifurcation.kind for event in history.events):
        ax.plot([], [], ":", color=plotting.BIFURCATION_COLORS[kind], label=kind)
    ax.set(title="c  their number", xlabel="update", ylabel="fixed points")
    ax.legend(loc="lower right")


def draw_jumps(ax: Any, result: TrainingBifurcations) -> None:
    """The distribution of the changes of the loss, with and without a bifurcation between the checkpoints."""
    for met, color, label in ((True, "orange", "with bifurcation"), (False, "black", "without")):
        jumps = np.sort(result.jumps[result.has_event == met])
        if len(jumps):
            ax.step(
                jumps,
                np.arange(1, len(jumps) + 1) / len(jumps),
                where="post",
                color=plotting.COLORS[color],
                label=label,
            )
    ax.set(title="d  between checkpoints", xlabel=r"$|\Delta \ln$ MSE$|$", ylabel="fraction below")
    ax.legend(loc="lower right")
