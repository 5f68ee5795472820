r"""Two line attractors, and a selection vector for each (Mante, Sussillo, Shenoy & Newsome 2013).

A network reports the sign of one of two noisy streams, the one that the context names. In the second half of a trial
the streams are silent and the answer is asked all the time: what the evidence says has to be held, in degrees. Trials
get longer over training. In each context the network ends with a line of slow points, most of whose time constants are
as long as a trial. The left eigenvector of the slow mode, the selection vector, decides what moves the state along the
line: in most networks it is turned towards the stream that counts, and stands nearly orthogonal to the other.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._contexts import Context, analyse_context
from experiments._settings import NotNegative, Seed, check, check_same_length
from rnndyn import plotting

CAPTION = """Two line attractors, and a selection vector for each (Mante et al. 2013).

Networks report the sign of one of two noisy streams, the one that the context names, and hold it while the streams are
silent. Portraits are of one network, the rest of all.

- **a, b** the two contexts in the plane of the same two principal components: black, slow points; blue and orange,
  trials of the two choices.
- **c** how much the stream that counts (black) and the other (grey) weigh in the answer, over the time at which they
  come; 1, the mean of the one that counts; a line for each network and context.
- **d** time constants of the slow mode (black), and of the second slowest one (light blue), at the slow points of every
  network in both contexts; bars, medians; dotted, the length of a trial.
- **e** the angle between the selection vector (left eigenvector of the slow mode) and the inputs of motion (pink
  circles) and colour (green triangles), one for each slow point; bars, medians of the networks; dotted, 90 degrees. It
  is nearly orthogonal to the stream that does not count where the second mode of d is fast; where that is slow as well,
  the slow points are no line and the angle tells less.
- **f** output at the end of a silence as long as a trial, over the output at its beginning; a colour for each network;
  dashed, held for ever. Some networks hold what lies between, and it drifts slowly apart; others let it go.
"""

STREAMS = ("motion", "colour")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_networks: int = 5
    num_units: int = 48
    lengths: tuple[int, ...] = (40, 80)
    """Steps of a trial, the second half of it silent, in each stage of training."""
    num_updates: tuple[int, ...] = (500, 900)
    """Of each stage."""
    coherences: tuple[float, ...] = (0.02, 0.06, 0.2)
    """So weak that much of the evidence is of a middling strength, which has to be held in degrees."""
    noise_std: NotNegative = 0.5
    batch_size: int = 32
    learning_rate: float = 4e-3
    """At the start; it falls to a fiftieth along a cosine."""
    max_grad_norm: float = 1.0
    tau: float = 5.0
    """Time constant of a unit, in steps, 1 at least."""
    gain: float = 1.0
    """Of the recurrent weights at the start."""
    num_candidates: int = 128
    num_bins: int = 8
    """Of time, for how much evidence weighs."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "lengths", "num_updates")
        if min(self.lengths) < 2 * self.num_bins:
            raise ValueError(
                f"lengths: got {min(self.lengths)}; allowed is twice num_bins at least, which is {2 * self.num_bins}."
            )


SMOKE = Config(num_networks=1, num_units=6, lengths=(6,), num_updates=(4,), batch_size=4, num_candidates=16, num_bins=3)


class Network(rd.Result):
    """One trained network in both contexts.

    - `held`: outputs at the beginning and at the end of a silence as long as a trial, `(B, 2)`.
    """

    accuracy: float
    ceiling: float
    contexts: tuple[Context, ...]
    held: np.ndarray


class ContextIntegration(rd.Result):
    """All networks, and trials of the first."""

    networks: tuple[Network, ...]
    length: int
    """Steps of the longest trial."""
    states: np.ndarray
    context_of: np.ndarray
    evidence: np.ndarray


def compute(config: Config) -> ContextIntegration:
    """Train the networks; in each context find the slow points and compare their selection vectors with the inputs."""
    model_key, fit_key, test_key, search_key = jax.random.split(jax.random.key(config.seed), 4)
    models = train(model_key, fit_key, config)
    length = config.lengths[-1]
    trials = rd.tasks.batches("context_integration", 1024, **task(length, config))(test_key)
    context_of = np.asarray(jnp.argmax(trials.inputs[:, 0, 2:], axis=1))
    stimulus = np.asarray(trials.inputs[:, : length - length // 2, :2], float)
    # The best that can be done: the sign of the mean of the stream that counts.
    evidence = stimulus.mean(axis=1)[np.arange(len(context_of)), context_of]
    target = np.asarray(trials.targets[:, -1, 0])
    # The longest trials, and silence after them, as long again as is missing to the length of a trial.
    silence = jnp.repeat(trials.inputs[:, -1:], length - length // 2, axis=1)
    states_of = eqx.filter_jit(lambda model, inputs: eqx.filter_vmap(model.states)(inputs))
    networks, shown = [], None
    for number in range(config.num_networks):
        model = member(models, number)
        states = states_of(model, jnp.concatenate([trials.inputs, silence], axis=1))
        outputs = np.asarray(jax.vmap(jax.vmap(model.readout))(states))[..., 0]
        answer = outputs[:, length - 1]
        states = states[:, :length]
        contexts = tuple(
            analyse_context(
                model.cell,
                context,
                states[context_of == context],
                stimulus[context_of == context],
                answer[context_of == context],
                search_key,
                num_candidates=config.num_candidates,
                length=length,
                num_bins=config.num_bins,
            )
            for context in (0, 1)
        )
        networks.append(
            Network(
                accuracy=float(np.mean(np.sign(answer) == target)),
                ceiling=float(np.mean(np.sign(evidence) == target)),
                contexts=contexts,
                held=outputs[:, [length - length // 2 - 1, -1]],
            )
        )
        shown = np.asarray(states[:120]) if shown is None else shown
    assert shown is not None
    return ContextIntegration(tuple(networks), length, shown, context_of[:120], evidence[:120])


def member(models: Any, number: int) -> Any:
    """One of several models of one structure."""
    return jax.tree.map(lambda leaf: leaf[number] if eqx.is_array(leaf) else leaf, models)


def task(length: int, config: Config) -> dict[str, Any]:
    """Settings of trials whose second half is silent."""
    return {
        "num_steps": length,
        "num_response_steps": length // 2,
        "coherences": config.coherences,
        "noise_std": config.noise_std,
    }


def train(model_key: Any, fit_key: Any, config: Config) -> Any:
    """All networks side by side, on trials that get longer."""

    def make(key: Any) -> rd.RNN:
        cell_key, readout_key = jax.random.split(key)
        init = rd.initializers.gaussian(config.gain)
        cell = rd.LeakyCell(4, config.num_units, tau=config.tau, weight_hh_init=init, key=cell_key)
        return rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))

    models = eqx.filter_vmap(make)(jax.random.split(model_key, config.num_networks))
    schedule = optax.cosine_decay_schedule(config.learning_rate, sum(config.num_updates), alpha=0.02)
    done = 0
    for stage, (length, num_updates) in enumerate(zip(config.lengths, config.num_updates)):
        models = rd.fit_ensemble(
            models,
            rd.training.over_trials(rd.training.mean_squared_error),
            rd.tasks.batches("context_integration", config.batch_size, **task(length, config)),
            optax.adam,
            learning_rate=lambda count, done=done: schedule(count + done),
            num_steps=num_updates,
            max_grad_norm=config.max_grad_norm,
            key=jax.random.fold_in(fit_key, stage),
        ).last_models
        done += num_updates
    return models


def report(result: ContextIntegration) -> str:
    """Time constants against the length of a trial, and angles of the selection vectors, of every network."""
    lines = [
        f"trials of {result.length} steps, the second half silent",
        "                  time constant in steps       second   weight of evidence  "
        "angle of selection     angle of line",
        "network  context  (quartiles, median between)  slowest  last / first third  "
        "to motion, to colour   to motion, to colour",
    ]
    for number, network in enumerate(result.networks, 1):
        for k, (context, name) in enumerate(zip(network.contexts, STREAMS)):
            low, middle, high = np.quantile(context.time_constants[:, 0], (0.25, 0.5, 0.75))
            a, b = np.median(context.angles, axis=0), np.median(context.angles_right, axis=0)
            third = max(len(context.weights) // 3, 1)
            ratio = context.weights[-third:, k].mean() / context.weights[:third, k].mean()
            lines.append(
                f"{number:<8} {name:<8} {low:7.0f} {middle:6.0f} {high:6.0f}"
                f"          {np.median(context.time_constants[:, 1]):6.1f}   {ratio:18.2f}   {a[0]:9.1f} {a[1]:9.1f}   "
                f"{b[0]:9.1f} {b[1]:9.1f}"
            )
    held = [np.corrcoef(network.held.T)[0, 1] for network in result.networks]
    medians = [np.median(context.time_constants[:, 0]) for net in result.networks for context in net.contexts]
    lines += [
        "accuracy "
        + ", ".join(f"{network.accuracy:.3f}" for network in result.networks)
        + f"; an ideal integrator reaches {result.networks[0].ceiling:.3f}",
        f"correlation of the output before and after {result.length} silent steps: "
        + ", ".join(f"{value:.2f}" for value in held),
        f"median time constant at least as long as a trial: {np.sum(np.array(medians) >= result.length)} of "
        f"{len(medians)} (networks and contexts)",
        "(Mante et al. 2013: a line attractor in each context, whose selection vector is orthogonal, 90 degrees, to "
        "the irrelevant stream)",
    ]
    return "\n".join(lines)


NETWORK_COLORS = ("blue", "orange", "green", "purple", "yellow", "sky")


def plot(result: ContextIntegration) -> Figure:
    """Trajectories and slow points of both contexts; weight of evidence, time constants, angles, and what is held."""
    figure, axes = plt.subplots(2, 3, figsize=(plotting.PAGE_WIDTH, 4.5), width_ratios=[1, 1, 1])
    projection = plotting.principal_components(result.states, 2)
    for k, (context, name) in enumerate(zip(result.networks[0].contexts, STREAMS)):
        draw_portrait(axes[0, k], result, projection, k, context)
        axes[0, k].set(title=f"{'ab'[k]}  context: {name}", xlabel=projection.label(0), xticks=[], yticks=[])
    axes[0, 0].set_ylabel(projection.label(1))
    axes[0, 1].legend(loc="lower left", handletextpad=0.1)
    draw_weights(axes[0, 2], result)
    draw_time_constants(axes[1, 0], result)
    draw_angles(axes[1, 1], result)
    draw_held(axes[1, 2], result)
    return figure


def draw_portrait(ax: Any, result: ContextIntegration, projection: Any, k: int, context: Context) -> None:
    """Trials of one context by their choice, and the slow points."""
    of = np.flatnonzero(result.context_of == k)[:30]
    for path, evidence in zip(projection(result.states[of]), result.evidence[of]):
        color = plotting.COLORS["blue" if evidence > 0 else "orange"]
        ax.plot(*path.T, color=color, linewidth=0.4, alpha=0.5)
    points = projection(context.slow.manifold.points)
    ax.plot(*points.T, "o", color="black", markersize=2.5, markeredgewidth=0, label="slow points")


def draw_weights(ax: Any, result: ContextIntegration) -> None:
    """How much each stream weighs, over the time at which it comes."""
    num_bins = len(result.networks[0].contexts[0].weights)
    times = (np.arange(num_bins) + 0.5) * (result.length - result.length // 2) / num_bins
    labels = {0: "stream that counts", 1: "other"}
    for network in result.networks:
        for k, context in enumerate(network.contexts):
            for other, color in ((0, "black"), (1, "grey")):
                ax.plot(
                    times,
                    context.weights[:, k if other == 0 else 1 - k],
                    color=plotting.COLORS[color],
                    linewidth=0.9,
                    alpha=0.8,
                    label=labels.pop(other, None),
                )
    ax.set(title="c  weight of evidence", xlabel="step at which it comes", ylabel="weight in the answer")
    ax.set_ylim(bottom=min(ax.get_ylim()[0], -0.3))
    ax.set_ylim(bottom=ax.get_ylim()[0] - 0.2)
    ax.legend(loc="lower right", ncol=2, columnspacing=0.8, handlelength=1.2, borderaxespad=0)


def draw_time_constants(ax: Any, result: ContextIntegration) -> None:
    """The two longest time constants at every slow point, by network and context."""
    place, ticks, labels = 0.0, [], {0: "slowest mode", 1: "second"}
    for network in result.networks:
        for context in network.contexts:
            for mode, color in ((0, "black"), (1, "sky")):
                values = np.clip(context.time_constants[:, mode], None, 1e4)
                spread = np.linspace(-0.3, 0.3, len(values))
                ax.plot(place + spread, values, "o", color=plotting.COLORS[color], markersize=1.8, alpha=0.6, mew=0)
                label = labels.pop(mode, None)
                ends = [place - 0.38, place + 0.38]
                ax.plot(ends, [np.median(values)] * 2, color=plotting.COLORS[color], linewidth=1.5, label=label)
            ticks.append(place)
            place += 1
        place += 0.5
    ax.axhline(result.length, color=plotting.COLORS["grey"], linestyle=":", linewidth=1)
    ax.set_yscale("log")
    ax.legend(loc="upper center", ncol=2, columnspacing=0.8, handlelength=1.2, borderaxespad=0)
    ax.set_ylim(top=3e4)
    names = [name[0] for name in ("motion", "colour")] * len(result.networks)
    ax.set_xticks(ticks, names)
    ax.set(title="d  time constants", xlabel="m, motion; c, colour; networks side by side", ylabel="steps")


def draw_angles(ax: Any, result: ContextIntegration) -> None:
    """Angles of the selection vectors to the two inputs, in both contexts."""
    for k in (0, 1):
        for stream, (color, marker) in enumerate((("purple", "o"), ("green", "^"))):
            place = k + 0.18 * (2 * stream - 1)
            groups = [network.contexts[k].angles[:, stream] for network in result.networks]
            values = np.concatenate(groups)
            ax.plot(
                place + np.linspace(-0.12, 0.12, len(values)),
                values,
                marker,
                color=plotting.COLORS[color],
                markersize=1.8,
                mew=0,
                alpha=0.6,
                label=f"to {STREAMS[stream]}" if k == 0 else None,
            )
            starts = np.cumsum([0, *map(len, groups)])
            for start, stop, group in zip(starts, starts[1:], groups):
                ends = place - 0.12 + 0.24 * np.array([start, stop - 1]) / max(len(values) - 1, 1)
                ax.plot(ends, [np.median(group)] * 2, color="black", linewidth=1.4)
    ax.axhline(90, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    ax.set_xticks([0, 1], [f"context:\n{name}" for name in STREAMS])
    ax.set(title="e  selection vector", ylabel="angle (degrees)", ylim=(0, 95))
    ax.legend(loc="lower center", ncol=2, columnspacing=0.8, handletextpad=0.1, markerscale=2)


def draw_held(ax: Any, result: ContextIntegration) -> None:
    """The output after a silence over that before it."""
    for network, color in zip(result.networks, NETWORK_COLORS):
        ax.plot(*network.held[:150].T, ".", color=plotting.COLORS[color], markersize=2.5, alpha=0.7, mew=0)
    ax.plot([-1, 1], [-1, 1], color=plotting.COLORS["grey"], linestyle="--", linewidth=0.8)
    ax.set(
        title="f  what is held",
        xlabel="output when the streams end",
        ylabel=f"output {result.length} steps later",
        xlim=(-1.4, 1.4),
        ylim=(-1.4, 1.4),
    )
