"""Two slow lines, and a selection vector for each context (Mante, Sussillo, Shenoy & Newsome 2013).

A network reports the sign of one of two noisy streams, the one that the context names. Each context has a slow line of
its own; the left eigenvector of its slow mode, the selection vector, decides what moves the state along the line: it is
turned towards the stream that counts, and stands orthogonal to the other. The network of Mante et al. integrates over
the whole trial, along line attractors; this one leaks, with time constants of less than half a trial.
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
from experiments._settings import NotNegative, Seed, check, check_order
from rnndyn import plotting

CAPTION = """Two slow lines and a selection vector for each (Mante et al. 2013).

One network reports the sign of one of two noisy streams, the one that the context names. It integrates with a leak:
the time constants of its slow lines, in the report, are less than half a trial; Mante's line attractors hold it all.

- **a, b** the two contexts in the plane of the same two principal components: black, slow points; blue and orange,
  trials of the two choices.
- **c** the angle between the selection vector (left eigenvector of the slow mode) and the inputs of motion (pink) and
  colour (green), one dot for each slow point; black bars, medians; dotted, 90 degrees. The irrelevant stream stands
  nearly orthogonal.
"""

STREAMS = ("motion", "colour")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 64
    num_steps: int = 40
    num_response_steps: int = 8
    noise_std: NotNegative = 0.3
    num_updates: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    num_candidates: int = 300
    slow_time: float = 10.0
    """Modes slower than this many steps count as slow."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "num_response_steps", "num_steps", strict=True)


SMOKE = Config(num_units=6, num_steps=6, num_response_steps=2, num_updates=4, batch_size=4, num_candidates=32)


class Context(rd.Result):
    """The dynamics in one context, with the streams off.

    - `slow`: its slow points.
    - `angles`: degrees between the selection vector and the effect of each stream on the state, `(M, 2)`, folded to
        [0, 90].
    - `angles_right`: the same for the right eigenvector, the direction of the line.
    - `gains`: what one unit of each stream moves along the line, `(M, 2)`.
    """

    slow: rd.SlowPoints
    angles: np.ndarray
    angles_right: np.ndarray
    gains: np.ndarray


class ContextIntegration(rd.Result):
    """The trained network in both contexts."""

    accuracy: float
    ceiling: float
    contexts: tuple[Context, ...]
    states: np.ndarray
    context_of: np.ndarray
    evidence: np.ndarray


def compute(config: Config) -> ContextIntegration:
    """Train the network; in each context find the slow manifold and compare its selection vectors with the inputs."""
    cell_key, readout_key, fit_key, test_key, search_key = jax.random.split(jax.random.key(config.seed), 5)
    cell = rd.VanillaCell(4, config.num_units, weight_hh_init=rd.initializers.orthogonal(0.9), key=cell_key)
    model = rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))
    options = {
        "num_steps": config.num_steps,
        "num_response_steps": config.num_response_steps,
        "noise_std": config.noise_std,
    }
    model = rd.fit(
        model,
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches("context_integration", config.batch_size, **options),
        optax.adam,
        learning_rate=optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        key=fit_key,
    ).last_model
    trials = rd.tasks.batches("context_integration", 1024, **options)(test_key)
    states = eqx.filter_jit(eqx.filter_vmap(model.states))(trials.inputs)
    outputs = jax.vmap(jax.vmap(model.readout))(states)[:, -1, 0]
    context_of = np.asarray(jnp.argmax(trials.inputs[:, 0, 2:], axis=1))
    stimulus = np.asarray(trials.inputs[:, : config.num_steps - config.num_response_steps, :2])
    # The best that can be done: the sign of the mean of the stream that counts.
    evidence = stimulus.mean(axis=1)[np.arange(len(context_of)), context_of]
    target = np.asarray(trials.targets[:, -1, 0])
    contexts = tuple(
        analyse_context(model.cell, context, states[context_of == context], search_key, config) for context in (0, 1)
    )
    return ContextIntegration(
        accuracy=float(np.mean(np.sign(outputs) == target)),
        ceiling=float(np.mean(np.sign(evidence) == target)),
        contexts=contexts,
        states=np.asarray(states[:120]),
        context_of=context_of[:120],
        evidence=evidence[:120],
    )


def analyse_context(cell: Any, context: int, states: jax.Array, key: Any, config: Config) -> Context:
    """Slow points with the context held and the streams at zero, and the angles of their selection vectors."""
    held = jnp.zeros(4).at[2 + context].set(1)
    f, driven = rd.as_map(cell, held), rd.as_driven_map(cell)
    candidates = rd.sample_candidates(states, config.num_candidates, key=key, noise=0.02)
    slow = rd.find_slow_points(f, candidates, slow_time=config.slow_time)
    angles, angles_right, gains = [], [], []
    for point in slow.manifold.points:
        lin = rd.linearize(driven, point.astype(np.float32), held)
        mode = int(np.argmin(np.abs(1 - lin.multipliers)))
        left, right = np.real(lin.left[mode]), np.real(lin.right[:, mode])
        streams = np.asarray(lin.input_jacobian)[:, :2]
        angles.append([angle(left, streams[:, k]) for k in (0, 1)])
        angles_right.append([angle(right, streams[:, k]) for k in (0, 1)])
        gains.append(np.abs(left @ streams) / np.linalg.norm(left))
    return Context(slow, np.array(angles), np.array(angles_right), np.array(gains))


def angle(a: Any, b: Any) -> float:
    """Degrees between two lines, from 0 to 90."""
    cosine = abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def report(result: ContextIntegration) -> str:
    """Angles of the selection vectors: small to the stream that counts, near 90 to the other."""
    lines = [
        f"accuracy {result.accuracy:.3f}; an ideal integrator reaches {result.ceiling:.3f}",
        "context  slow modes  time constant   angle of selection vector to     angle of line to",
        "                     (median)        motion   colour                  motion   colour",
    ]
    for context, name in zip(result.contexts, STREAMS):
        manifold = context.slow.manifold
        time = np.median(manifold.time_constants[:, 0]) if manifold.dimension else np.nan
        a, b = np.median(context.angles, axis=0), np.median(context.angles_right, axis=0)
        lines.append(
            f"{name:<8} {manifold.dimension:<11d} {time:<15.1f} {a[0]:<8.1f} {a[1]:<23.1f} {b[0]:<8.1f} {b[1]:.1f}"
        )
    lines.append(
        "(one network; Mante et al. 2013: the selection vector of each context is orthogonal, 90 degrees, to the "
        "irrelevant stream)"
    )
    return "\n".join(lines)


def plot(result: ContextIntegration) -> Figure:
    """Trajectories and line attractors of both contexts, and the angles of the selection vectors."""
    figure, axes = plt.subplots(1, 3, figsize=(plotting.PAGE_WIDTH, 2.5), width_ratios=[1, 1, 0.9])
    projection = plotting.principal_components(result.states, 2)
    for k, (context, name) in enumerate(zip(result.contexts, STREAMS)):
        ax = axes[k]
        of = np.flatnonzero(result.context_of == k)[:30]
        for path, evidence in zip(projection(result.states[of]), result.evidence[of]):
            color = plotting.COLORS["blue" if evidence > 0 else "orange"]
            ax.plot(*path.T, color=color, linewidth=0.4, alpha=0.5)
        ax.plot(
            *projection(context.slow.manifold.points).T,
            "o",
            color="black",
            markersize=2.5,
            markeredgewidth=0,
            label="slow points",
        )
        ax.set(title=f"{'ab'[k]}  context: {name}", xlabel=projection.label(0), xticks=[], yticks=[])
    axes[0].set_ylabel(projection.label(1))
    axes[0].legend(loc="best")
    for k, context in enumerate(result.contexts):
        for stream, color in enumerate(("purple", "green")):
            values = context.angles[:, stream]
            place = k + 0.18 * (2 * stream - 1)
            spread = np.linspace(-0.1, 0.1, len(values))
            axes[2].plot(
                place + spread,
                values,
                "o",
                color=plotting.COLORS[color],
                markersize=2,
                alpha=0.6,
                label=f"to {STREAMS[stream]}" if k == 0 else None,
            )
            axes[2].plot([place - 0.13, place + 0.13], [np.median(values)] * 2, color="black", linewidth=1.4)
    axes[2].axhline(90, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    axes[2].set_xticks([0, 1], [f"context:\n{name}" for name in STREAMS])
    axes[2].set(title="c  selection vector", ylabel="angle (degrees)", ylim=(0, 95))
    axes[2].legend(loc="lower center", ncol=2, columnspacing=0.8, handletextpad=0.1)
    return figure
