"""The slow manifold of networks that classify synthetic texts has C - 1 dimensions (Aitken et al. 2021).

Words carry evidence for one of C classes, and the class with the largest sum wins. Only differences of scores matter,
so the network needs to integrate in C - 1 dimensions, and arranges its readout vectors as the corners of a simplex.
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import rnndyn as rd
from experiments._settings import NotNegative, Seed, at_least, check
from rnndyn import plotting

CAPTION = """Text classifiers integrate in C - 1 dimensions (Aitken et al. 2021).

Words carry evidence for one of C classes, and the class with the largest sum wins. One GRU network for each C.

- **a, b, c** slow points of a network for 2, 3, 4 classes in the plane of two principal components, coloured and
  marked by the class that the readout gives there; arrows, the readout vectors.
- **d** share of the variance of the slow points in their first principal components, a colour for each C, others than
  those of the classes; rings, at C − 1 components; dotted, 0.93, what is asked for here.
- **e** median moduli of the multipliers at the slow points, in order: C - 1 of them are near 1 (grey line).
- **f** cosines between readout vectors; grey bars, those of a regular simplex, -1 / (C - 1).
"""

CLASS_COLORS = ("blue", "orange", "green", "purple")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_classes: tuple[Annotated[int, at_least(2)], ...] = (2, 3, 4)
    num_words: int = 40
    """Length of a text."""
    num_units: int = 32
    num_updates: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    weight_decay: NotNegative = 0.1
    """Takes out what training does not need; without it further modes stay slow by accident."""
    max_grad_norm: float = 1.0
    slow_time: float = 20.0
    """Modes slower than this many words count as slow."""
    num_candidates: int = 300
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(num_classes=(3,), num_words=6, num_units=4, num_updates=4, batch_size=4, num_candidates=32)


class Classifier(rd.Result):
    """One trained network and its slow manifold at zero input."""

    num_classes: int
    accuracy: float
    slow: rd.SlowPoints
    readout: np.ndarray
    votes: np.ndarray

    @property
    def explained(self) -> float:
        """Share of the variance of the slow points along C - 1 principal components."""
        return float(self.slow.manifold.variance_fractions[: self.num_classes - 1].sum())

    @property
    def leading_moduli(self) -> np.ndarray:
        """Median moduli of the multipliers over the slow manifold, largest first."""
        return np.median(np.sort(np.abs(self.slow.manifold.multipliers), axis=1)[:, ::-1], axis=0)

    @property
    def cosines(self) -> np.ndarray:
        """Cosines between the readout vectors of all pairs of classes, their mean taken away."""
        vectors = self.readout - self.readout.mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors @ vectors.T)[np.triu_indices(self.num_classes, 1)]


class TextIntegration(rd.Result):
    """The networks of the study, one for each number of classes."""

    classifiers: tuple[Classifier, ...]


def compute(config: Config) -> TextIntegration:
    """Train one network for each number of classes, and relax visited states onto its slow manifold."""
    return TextIntegration(tuple(train_and_analyse(num_classes, config) for num_classes in config.num_classes))


def train_and_analyse(num_classes: int, config: Config) -> Classifier:
    """One network: training, accuracy on new texts, slow manifold."""
    key = jax.random.fold_in(jax.random.key(config.seed), num_classes)
    cell_key, readout_key, fit_key, test_key, search_key = jax.random.split(key, 5)
    cell = rd.GRUCell(5 * num_classes, config.num_units, key=cell_key)
    model = rd.RNN(cell, eqx.nn.Linear(config.num_units, num_classes, key=readout_key))
    options = {"num_classes": num_classes, "num_steps": config.num_words}
    fitted = rd.fit(
        model,
        rd.training.over_trials(rd.training.softmax_cross_entropy),
        rd.tasks.batches("text_integration", config.batch_size, **options),
        optax.adamw(
            optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01),
            weight_decay=config.weight_decay,
        ),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        key=fit_key,
    ).last_model
    texts = rd.tasks.batches("text_integration", 512, **options)(test_key)
    states = eqx.filter_jit(eqx.filter_vmap(fitted.states))(texts.inputs)
    logits = jax.vmap(jax.vmap(fitted.readout))(states)[:, -1]
    right = jnp.argmax(logits, axis=1) == jnp.argmax(texts.targets[:, -1], axis=1)
    decided = texts.mask[:, -1]
    candidates = rd.sample_candidates(states, config.num_candidates, key=search_key, noise=0.02)
    slow = rd.find_slow_points(rd.as_map(fitted.cell), candidates, slow_time=config.slow_time, num_samples=200)
    votes = jnp.argmax(jax.vmap(fitted.readout)(jnp.asarray(slow.manifold.points, jnp.float32)), axis=1)
    return Classifier(
        num_classes=num_classes,
        accuracy=float(jnp.sum(right * decided) / jnp.sum(decided)),
        slow=slow,
        readout=np.asarray(fitted.readout.weight, float),
        votes=np.asarray(votes),
    )


def report(result: TextIntegration) -> str:
    """What the paper's geometry predicts, and what was found."""
    lines = [
        "C  accuracy  slow modes  variance in C - 1 PCs  readout cosines    leading |mu|, median over the manifold",
        "             (C - 1)     (asked: >= 0.93)       (-1 / (C - 1))     (C - 1 near 1, then a gap)",
    ]
    for c in result.classifiers:
        count = c.num_classes
        moduli = "  ".join(f"{modulus:.3f}" for modulus in c.leading_moduli[: count + 1])
        lines.append(
            f"{count}  {c.accuracy:8.3f}  {c.slow.manifold.dimension} ({count - 1})       {c.explained:<21.3f}  "
            f"{c.cosines.min():.2f} to {c.cosines.max():.2f} ({-1 / (count - 1):.2f})  {moduli}"
        )
    return "\n".join(lines)


def plot(result: TextIntegration) -> Figure:
    """The slow manifolds with the readout, and what the three predictions say of them."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.4))
    grid = figure.add_gridspec(2, 3, height_ratios=[1.25, 1])
    for column, classifier in enumerate(result.classifiers[:3]):
        draw_manifold(figure.add_subplot(grid[0, column]), classifier, "abc"[column])
    # The colours of a portrait are those of classes, in the last one of all of them.
    classes = range(result.classifiers[:3][-1].num_classes)
    handles = [
        Line2D([], [], color=plotting.COLORS[CLASS_COLORS[k]], marker=draw_marker(k), linestyle="") for k in classes
    ]
    names = [f"class {k + 1}" for k in classes]
    figure.axes[-1].legend(handles, names, loc="lower right", handletextpad=0.1, borderaxespad=0, labelspacing=0.2)
    draw_variances(figure.add_subplot(grid[1, 0]), result)
    draw_moduli(figure.add_subplot(grid[1, 1]), result)
    draw_cosines(figure.add_subplot(grid[1, 2]), result)
    return figure


def draw_marker(k: int) -> str:
    """The mark of a class: two of four colours are one grey to some readers."""
    return "os^D"[k]


def draw_manifold(ax: Any, classifier: Classifier, letter: str) -> None:
    """Slow points by the class that the readout gives them, and the readout vectors."""
    points = classifier.slow.manifold.points
    projection = plotting.principal_components(points, 2)
    flat = projection(points)
    for k in range(classifier.num_classes):
        of = classifier.votes == k
        color = plotting.COLORS[CLASS_COLORS[k]]
        ax.plot(*flat[of].T, draw_marker(k), color=color, markersize=2.5, markeredgewidth=0, alpha=0.8)
        vector = projection.direction(classifier.readout[k] - classifier.readout.mean(axis=0))
        tip = 0.5 * np.max(np.abs(flat)) * vector / np.linalg.norm(vector)
        ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4})
    ax.set(title=f"{letter}  {classifier.num_classes} classes", aspect="equal", adjustable="datalim")
    ax.set(xlabel=projection.label(0), ylabel=projection.label(1), xticks=[], yticks=[])


def draw_order(result: TextIntegration) -> Any:
    """Each classifier with a colour that no class has."""
    return zip(result.classifiers, ("sky", "yellow", "black"))


def draw_variances(ax: Any, result: TextIntegration) -> None:
    """Variance of the slow points along their principal components."""
    for classifier, color in draw_order(result):
        share = np.cumsum(classifier.slow.manifold.variance_fractions)[:6]
        ax.plot(
            np.arange(1, len(share) + 1),
            share,
            "o-",
            color=plotting.COLORS[color],
            markersize=3,
            label=f"C = {classifier.num_classes}",
        )
        ax.plot(
            classifier.num_classes - 1,
            classifier.explained,
            "o",
            color=plotting.COLORS[color],
            markersize=6,
            markerfacecolor="none",
        )
    ax.axhline(0.93, color=plotting.COLORS["grey"], linestyle=":", linewidth=0.8)
    ax.set(title="d  dimension", xlabel="principal components", ylabel="share of variance")
    ax.legend()


def draw_moduli(ax: Any, result: TextIntegration) -> None:
    """Leading multipliers: C - 1 of them near one."""
    for classifier, color in draw_order(result):
        moduli = classifier.leading_moduli[:8]
        ax.plot(np.arange(1, len(moduli) + 1), moduli, "o-", color=plotting.COLORS[color], markersize=3)
    ax.axhline(1, color=plotting.COLORS["grey"], linewidth=0.8)
    ax.set(title="e  multipliers", xlabel="mode", ylabel=r"$|\mu|$, median")


def draw_cosines(ax: Any, result: TextIntegration) -> None:
    """Readout vectors as corners of a simplex."""
    for classifier, color in draw_order(result):
        count = classifier.num_classes
        ax.plot([count - 0.25, count + 0.25], [-1 / (count - 1)] * 2, color=plotting.COLORS["grey"])
        offsets = np.linspace(-0.12, 0.12, len(classifier.cosines)) if count > 2 else [0.0]
        ax.plot(count + np.asarray(offsets), classifier.cosines, "o", color=plotting.COLORS[color], markersize=3)
    ax.set(title="f  readout", xlabel="classes C", ylabel="cosine of readout vectors", ylim=(-1.1, 0.1))
    ax.set_xticks([classifier.num_classes for classifier in result.classifiers])
