"""Sentiment with negation: a network that reads in order against a bag of words, on texts of different lengths.

Texts of a vocabulary with synonyms are judged, where a negation turns the two words after it around. On pairs of
texts with the same words in another order, and so with opposite labels, a bag of words can only guess. The network
reads words as one-hot or as word vectors, which it learns, in padded batches with masks.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, Seed, check, check_order
from rnndyn import plotting

CAPTION = """A network that reads in order against a bag of words.

One network of each kind.

- **a** share judged right, of new texts and of pairs that differ only in order: grey, bag of words; light blue, GRU
  on one-hot words; blue, GRU on word vectors; dotted, guessing.
- **b** the same over the length of the text.
- **c** the logit of the GRU while it reads the same words in two orders (green, orange).
- **d** learned word vectors in two principal components: circles coloured by valence, black triangles the negations.
"""

VALENCES = np.array([2, 1, 0, -1, -2])
NEUTRAL, NEGATION, NUM_CLASSES = 2, 5, 6
EXAMPLES = ("great", "good", "film", "bad", "awful", "not")
"""A word of each class, for the example."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_synonyms: int = 8
    """Words of each of the five valences, and negations."""
    num_steps: int = 24
    """Words of the longest text."""
    min_words: int = 4
    modifier_probability: Fraction = 0.15
    num_units: int = 32
    embedding_size: int = 6
    num_updates: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    num_test: int = 8192
    num_pairs: int = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "min_words", "num_steps")


SMOKE = Config(num_steps=8, num_units=4, num_updates=4, batch_size=4, num_test=64, num_pairs=16)


class Texts(NamedTuple):
    """A padded batch."""

    tokens: jax.Array
    """(B, T), word numbers; synonym s of class c is c S + s."""
    mask: jax.Array
    """(B, T), true where there is a word."""
    labels: jax.Array
    """(B,), 1 for positive."""
    decided: jax.Array
    """(B,), 0 for texts whose score is zero."""


class Judge(rd.Result):
    """How well one model judges."""

    name: str
    accuracy: float
    accuracy_by_length: np.ndarray
    pair_accuracy: float
    pairs_told_apart: float
    """The share of pairs whose two texts get different answers, both right."""


class Sentiment(rd.Result):
    """The judges, what the network reads into a pair of texts word by word, and the word vectors."""

    judges: tuple[Judge, ...]
    lengths: np.ndarray
    padding_effect: float
    """The largest change of a logit when twice as much padding, of other words, is added."""
    example_words: tuple[str, ...]
    example_logits: np.ndarray
    """(2, 2, T): for each of two texts of a pair, the logit after each word by the network and by the bag."""
    word_vectors: np.ndarray
    word_classes: np.ndarray


class Bag(eqx.Module):
    """A bag of words: the logit is the sum of one number for each word, and a bias."""

    weights: jax.Array
    bias: jax.Array

    def last(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        return (self.bias + jnp.sum(jnp.where(mask, self.weights[tokens], 0)))[None]


class NewTexts(eqx.Module):
    """New texts for every batch: the classes of `rnndyn.tasks.negation`, each word drawn among its synonyms."""

    classes: Any
    num_synonyms: int = eqx.field(static=True)

    def __call__(self, key: Any) -> Texts:
        class_key, synonym_key = jax.random.split(key)
        trials = self.classes(class_key)
        mask = jnp.any(trials.inputs > 0, axis=-1)
        classes = jnp.argmax(trials.inputs, axis=-1)
        tokens = classes * self.num_synonyms + jax.random.randint(synonym_key, classes.shape, 0, self.num_synonyms)
        return Texts(tokens, mask, trials.targets[:, -1, 0], jnp.max(trials.mask, axis=1))


def compute(config: Config) -> Sentiment:
    """Train the bag of words and both networks on the same texts, and judge new ones."""
    one_hot_key, vector_key, fit_key, test_key, pair_key = jax.random.split(jax.random.key(config.seed), 5)
    num_words = NUM_CLASSES * config.num_synonyms
    texts = lambda size: NewTexts(
        rd.tasks.batches(
            "negation",
            size,
            num_steps=config.num_steps,
            min_words=config.min_words,
            modifier_probability=config.modifier_probability,
        ),
        config.num_synonyms,
    )
    models = {
        "bag of words": Bag(jnp.zeros(num_words), jnp.zeros(())),
        "GRU, one-hot": reader(rd.OneHot(num_words), num_words, config, one_hot_key),
        "GRU, vectors": reader(
            eqx.nn.Embedding(num_words, config.embedding_size, key=vector_key),
            config.embedding_size,
            config,
            vector_key,
        ),
    }
    trained = {
        name: rd.fit(
            model,
            cross_entropy,
            texts(config.batch_size),
            optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01)),
            num_steps=config.num_updates,
            max_grad_norm=config.max_grad_norm,
            key=fit_key,
        ).model
        for name, model in models.items()
    }
    test = texts(config.num_test)(test_key)
    pairs = negated_pairs(config, pair_key)
    lengths = np.arange(config.min_words, config.num_steps + 1)
    judges = tuple(judge(name, model, test, pairs, lengths) for name, model in trained.items())
    network, bag = trained["GRU, vectors"], trained["bag of words"]
    longer = pad_further(test, num_words)
    effect = jnp.max(jnp.abs(logits(network, test.tokens, test.mask) - logits(network, longer.tokens, longer.mask)))
    words, traces = read_example(network, bag, config)
    return Sentiment(
        judges=judges,
        lengths=lengths,
        padding_effect=float(effect),
        example_words=words,
        example_logits=traces,
        word_vectors=np.asarray(network.embedding.weight),
        word_classes=np.repeat(np.arange(NUM_CLASSES), config.num_synonyms),
    )


def reader(embedding: Any, width: int, config: Config, key: Any) -> rd.TokenRNN:
    """A GRU that reads words and ends in one logit."""
    cell_key, readout_key = jax.random.split(key)
    cell = rd.GRUCell(width, config.num_units, key=cell_key)
    return rd.TokenRNN(embedding, rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key)))


@eqx.filter_jit
def logits(model: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The logits (B,) after the last words."""
    return jax.vmap(lambda tokens, mask: model.last(tokens, mask=mask)[0])(tokens, mask)


def cross_entropy(model: Any, batch: Texts) -> jax.Array:
    """The mean over the decided texts."""
    errors = optax.sigmoid_binary_cross_entropy(logits(model, batch.tokens, batch.mask), batch.labels)
    return jnp.sum(errors * batch.decided) / jnp.maximum(jnp.sum(batch.decided), 1)


def judge(name: str, model: Any, test: Texts, pairs: tuple[Texts, Texts], lengths: np.ndarray) -> Judge:
    """Accuracies on new texts, by length, and on pairs."""
    decided = np.asarray(test.decided) > 0
    right = (np.asarray(logits(model, test.tokens, test.mask)) > 0) == (np.asarray(test.labels) > 0)
    length = np.asarray(test.mask).sum(axis=1)
    by_length = [right[decided & (length == n)].mean() if (decided & (length == n)).any() else np.nan for n in lengths]
    each = np.stack(
        [(np.asarray(logits(model, side.tokens, side.mask)) > 0) == (np.asarray(side.labels) > 0) for side in pairs]
    )
    return Judge(
        name=name,
        accuracy=float(right[decided].mean()),
        accuracy_by_length=np.array(by_length),
        pair_accuracy=float(each.mean()),
        pairs_told_apart=float(each.all(axis=0).mean()),
    )


def negated_pairs(config: Config, key: Any) -> tuple[Texts, Texts]:
    """Texts of a negation, two words of one sign and neutral ones, with the negation before or after the two.

    Both texts of a pair have the same words, so a bag of words gives them one answer, and opposite labels.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    length = rng.integers(config.min_words, config.num_steps + 1, config.num_pairs)
    classes = np.full((2, config.num_pairs, config.num_steps), NEUTRAL)
    rows, place = np.arange(config.num_pairs), rng.integers(0, length - 2)
    positive = rng.random(config.num_pairs) < 0.5
    strong = np.where(positive, rng.integers(0, 2, (2, config.num_pairs)), rng.integers(3, 5, (2, config.num_pairs)))
    for side, negation_at in ((0, 0), (1, 2)):
        classes[side, rows, place + negation_at] = NEGATION
        for word, offset in zip(strong, (1, 2) if side == 0 else (0, 1)):
            classes[side, rows, place + offset] = word
    # A pair keeps its words: the synonyms go with the words and not with the places.
    synonyms = rng.integers(0, config.num_synonyms, (config.num_pairs, config.num_steps))
    order = np.tile(np.arange(config.num_steps), (config.num_pairs, 1))
    for offset, source in ((0, 1), (1, 2), (2, 0)):
        order[rows, place + offset] = place + source
    synonyms = np.stack([synonyms, np.take_along_axis(synonyms, order, axis=1)])
    mask = jnp.arange(config.num_steps) < length[:, None]
    tokens = jnp.asarray(classes * config.num_synonyms + synonyms)
    ones = jnp.ones(config.num_pairs)
    return Texts(tokens[0], mask, jnp.asarray(~positive, float), ones), Texts(
        tokens[1], mask, jnp.asarray(positive, float), ones
    )


def pad_further(texts: Texts, num_words: int) -> Texts:
    """The same texts with as many steps again of padding, in which words stand that must not be read."""
    noise = jax.random.randint(jax.random.key(1), texts.tokens.shape, 0, num_words)
    tokens = jnp.concatenate([jnp.where(texts.mask, texts.tokens, noise), noise], axis=1)
    return texts._replace(tokens=tokens, mask=jnp.concatenate([texts.mask, jnp.zeros_like(texts.mask)], axis=1))


def read_example(network: Any, bag: Any, config: Config) -> tuple[tuple[str, ...], np.ndarray]:
    """Two texts of the same words, read word by word."""
    orders = ((5, 1, 0, 2, 2), (1, 0, 5, 2, 2))
    traces = []
    for classes in orders:
        tokens = jnp.asarray(classes) * config.num_synonyms
        prefixes = jnp.tril(jnp.ones((len(classes), len(classes)), bool))
        rows = jnp.tile(tokens, (len(classes), 1))
        traces.append([np.asarray(logits(model, rows, prefixes)) for model in (network, bag)])
    return tuple(" ".join(EXAMPLES[c] for c in classes) for classes in orders), np.array(traces)


def report(result: Sentiment) -> str:
    """Accuracies beside what is expected of them."""
    lines = ["                new texts   pairs   pairs told apart"]
    for each in result.judges:
        lines.append(f"{each.name:<15} {each.accuracy:8.3f} {each.pair_accuracy:8.3f} {each.pairs_told_apart:12.3f}")
    lines.append("expected: bag of words at chance (0.5) on pairs, networks above 0.95")
    lines.append(f"largest change of a logit by more padding: {result.padding_effect:.1e}")
    for words, (network, bag) in zip(result.example_words, result.example_logits):
        lines.append(f'"{words}": logit of the network {network[-1]:+.1f}, of the bag {bag[-1]:+.1f}')
    return "\n".join(lines)


def plot(result: Sentiment) -> Figure:
    """Accuracies, accuracy against length, a pair read word by word, and the word vectors."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.2), width_ratios=[1.05, 1, 1.25, 1])
    colors = [plotting.COLORS[c] for c in ("grey", "sky", "blue")]
    for place, (each, color) in enumerate(zip(result.judges, colors)):
        heights = (each.accuracy, each.pair_accuracy)
        x = np.arange(2) + 0.28 * (place - 1)
        axes[0].bar(x, heights, width=0.26, color=color, label=each.name)
        for at, value in zip(x, heights):
            axes[0].text(at, value + 0.015, f"{100 * value:.0f}", ha="center", va="bottom", fontsize=6)
    axes[0].axhline(0.5, color="black", linewidth=0.7, linestyle=":")
    axes[0].set_xticks(range(2), ["new\ntexts", "negated\npairs"])
    axes[0].set(ylim=(0.4, 1.55), yticks=[0.4, 0.6, 0.8, 1.0], ylabel="share judged right (bars: in %)")
    axes[0].legend(loc="upper left", fontsize=6.5, borderaxespad=0)
    axes[0].set_title("a  accuracy")
    for each, color in zip(result.judges, colors):
        axes[1].plot(result.lengths, each.accuracy_by_length, "o-", markersize=2, color=color)
    axes[1].set(xlabel="words in the text", ylabel="share judged right", ylim=(0.6, 1.02))
    axes[1].set_title("b  by length")
    draw_example(axes[2], result)
    projection = plotting.principal_components(result.word_vectors, 2)
    points = projection(result.word_vectors)
    is_word = result.word_classes != NEGATION
    shown = axes[3].scatter(*points[is_word].T, c=VALENCES[result.word_classes[is_word]], s=12, cmap="coolwarm_r")
    axes[3].scatter(*points[~is_word].T, marker="^", color="black", s=14)
    lowest = points[~is_word][np.argmin(points[~is_word][:, 1])]
    axes[3].annotate("negations", lowest, xytext=(0, -9), textcoords="offset points", ha="center", fontsize=6.5)
    axes[3].set(xlabel=projection.label(0), ylabel=projection.label(1), xticks=[], yticks=[])
    axes[3].margins(0.18)
    axes[3].set_title("d  word vectors")
    bar = figure.colorbar(shown, ax=axes[3], shrink=0.8, ticks=[-2, 0, 2])
    bar.set_label("valence")
    return figure


def draw_example(axes: Any, result: Sentiment) -> None:
    """The logit of the network after each word of two texts with the same words."""
    axes.axhline(0, color=plotting.COLORS["grey"], linewidth=0.8)
    styles = (("orange", "o", -1), ("green", "s", 1))
    for words, (network, _), (color, marker, side) in zip(result.example_words, result.example_logits, styles):
        axes.plot(network, marker=marker, color=plotting.COLORS[color], markersize=3)
        for place, (word, value) in enumerate(zip(words.split(), network)):
            axes.annotate(word, (place, value), xytext=(-7, 8 * side), textcoords="offset points", ha="center",
                          va="center", fontsize=6, color=plotting.COLORS[color])  # fmt: skip
    reach = 1.35 * np.max(np.abs(result.example_logits[:, 0]))
    axes.set(xlabel="word", ylabel="logit of the GRU", ylim=(-reach, reach), xlim=(-1.0, 4.6), xticks=range(5))
    axes.set_xticks(range(5), [str(place + 1) for place in range(5)])
    axes.set_title("c  the same words")
