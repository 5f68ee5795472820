"""How a network reads "not good": negation against a bag of words (Maheswaranathan & Sussillo 2020).

A modifier negates the two words after it. A bag of words cannot know which words those were; a network can, and a bag
of words that is told where the modifiers stood recovers most of the difference. In the network the modifier throws
the state off its line attractor for as long as it matters.
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
from experiments._settings import Fraction, NotNegative, Seed, check
from rnndyn import plotting

CAPTION = """How a network reads "not good" (Maheswaranathan & Sussillo 2020).

A modifier negates the two words after it. One network of GRU units, one draw of the texts.

- **a** share of texts judged right by a bag of words (grey), a bag that is told where modifiers stood (light blue),
  and the network (blue).
- **b** states of the network while reading, coloured by the output from negative (red) to positive (blue), and slow
  points (black), in two principal components. The two bands above are states just after a modifier.
- **c** how far the state is displaced by "not", along the line attractor (blue circles) and off it (orange squares),
  in units of the step of "good", over the words that follow.
- **d** what "good" does to the logit when it is read so many words after "not" (orange), and without (blue).
"""

GOOD, NEUTRAL, MODIFIER = 0, 2, 5


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_words: int = 40
    """Length of a text."""
    modifier_probability: Fraction = 0.1
    num_units: int = 32
    num_updates: int = 2500
    batch_size: int = 64
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    weight_decay: NotNegative = 0.1
    """Takes out what training does not need; without it further modes stay slow by accident."""
    max_grad_norm: float = 1.0
    num_test: int = 4096
    """Texts to judge by; the bags of words are fitted to four times as many."""
    num_candidates: int = 300
    slow_time: float = 20.0
    num_response_words: int = 8
    """Neutral words over which the impulse response is followed."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    num_words=6, num_units=4, num_updates=4, batch_size=4, num_test=32, num_candidates=32, num_response_words=3
)


class Negation(rd.Result):
    """Accuracies, the slow manifold, and what a modifier does to the state on it.

    - `network`, `bag`, `bag_with_modifiers`: shares of new texts judged rightly.
    - `pairs_network`, `pairs_bag`: the same on pairs of texts that differ only in where the modifier stands.
    - `slow`: the slow points, with the neutral word held.
    - `along`, `off`: displacement of the state by the modifier, 0 ... words after it, along the slow mode and off it,
        in units of the step that the word "good" makes along the line; medians over the manifold.
    - `effect_plain`, `effect_negated`: change of the logit by "good", k words after a modifier, against without one.
    """

    network: float
    bag: float
    bag_with_modifiers: float
    pairs_network: float
    pairs_bag: float
    slow: rd.SlowPoints
    along: np.ndarray
    off: np.ndarray
    effect_plain: np.ndarray
    effect_negated: np.ndarray
    example_states: np.ndarray
    example_logits: np.ndarray

    @property
    def recovered(self) -> float:
        """The share of the gain over a bag of words that modifier features recover."""
        return (self.bag_with_modifiers - self.bag) / (self.network - self.bag)


def compute(config: Config) -> Negation:
    """Train the network and both bags of words, then follow the modifier through the state space."""
    cell_key, readout_key, fit_key, bag_key, test_key, search_key = jax.random.split(jax.random.key(config.seed), 6)
    cell = rd.GRUCell(6, config.num_units, key=cell_key)
    model = rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))
    options = {"num_steps": config.num_words, "modifier_probability": config.modifier_probability}
    model = rd.fit(
        model,
        rd.training.over_trials(rd.training.sigmoid_cross_entropy),
        rd.tasks.batches("negation", config.batch_size, **options),
        optax.adamw(
            optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01),
            weight_decay=config.weight_decay,
        ),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        key=fit_key,
    ).last_model
    training = rd.tasks.batches("negation", 4 * config.num_test, **options)(bag_key)
    test = rd.tasks.batches("negation", config.num_test, **options)(test_key)
    bag = fit_logistic(jnp.sum(training.inputs, axis=1), training)
    bag_with_modifiers = fit_logistic(with_modifiers(training.inputs), training)
    states = eqx.filter_jit(eqx.filter_vmap(model.states))(test.inputs)
    logits = jax.vmap(jax.vmap(model.readout))(states)[..., 0]
    pairs = modifier_pairs(test.inputs)
    neutral = jax.nn.one_hot(NEUTRAL, 6)
    slow = rd.find_slow_points(
        rd.as_map(model.cell, neutral),
        rd.sample_candidates(states, config.num_candidates, key=search_key, noise=0.02),
        slow_time=config.slow_time,
    )
    along, off, plain, negated = modifier_response(model, slow, config.num_response_words)
    return Negation(
        network=accuracy(logits[:, -1], test),
        bag=accuracy(bag(jnp.sum(test.inputs, axis=1)), test),
        bag_with_modifiers=accuracy(bag_with_modifiers(with_modifiers(test.inputs)), test),
        pairs_network=pair_accuracy(lambda text: eqx.filter_vmap(model.last)(text)[:, 0], pairs),
        pairs_bag=pair_accuracy(lambda text: bag(jnp.sum(text, axis=1)), pairs),
        slow=slow,
        along=along,
        off=off,
        effect_plain=plain,
        effect_negated=negated,
        example_states=np.asarray(states[:60]),
        example_logits=np.asarray(logits[:60]),
    )


def with_modifiers(inputs: jax.Array) -> jax.Array:
    """Counts of each word, and of each word one and two places after a modifier."""
    modifier = inputs[..., MODIFIER]
    after_one = jnp.pad(modifier, ((0, 0), (1, 0)))[:, :-1]
    after_two = jnp.pad(modifier, ((0, 0), (2, 0)))[:, :-2]
    features = [
        jnp.sum(inputs * weight[..., None], axis=1) for weight in (jnp.ones_like(modifier), after_one, after_two)
    ]
    return jnp.concatenate(features, axis=1)


def fit_logistic(features: jax.Array, texts: Any) -> Any:
    """Logistic regression on features `(B, D)` by full-batch descent; gives the logit as a function of features."""
    scale = jnp.std(features, axis=0) + 1e-3

    def loss(weights: Any, _: Any = None) -> jax.Array:
        logits = features / scale @ weights["w"] + weights["b"]
        errors = optax.sigmoid_binary_cross_entropy(logits, texts.targets[:, -1, 0])
        return jnp.sum(errors * texts.mask[:, -1]) / jnp.sum(texts.mask[:, -1])

    start = {"w": jnp.zeros(features.shape[1]), "b": jnp.zeros(())}
    optimizer = optax.adam(0.1)

    def step(carry: Any, _: Any) -> Any:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=500))(start)
    return lambda features: features / scale @ weights["w"] + weights["b"]


def accuracy(logits: jax.Array, texts: Any) -> float:
    """The share of decided texts that the sign of the logit judges rightly."""
    right = (logits > 0) == (texts.targets[:, -1, 0] > 0)
    return float(jnp.sum(right * texts.mask[:, -1]) / jnp.sum(texts.mask[:, -1]))


def modifier_pairs(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Texts of one modifier, two strong words and neutral ones, with the modifier before or after the strong words.

    Both texts of a pair have the same words, and opposite labels.
    """
    num, length, width = inputs.shape
    words = np.full((2, num, length), NEUTRAL)
    rng = np.random.default_rng(0)
    place = rng.integers(0, length - 4, num)
    strong = rng.choice([0, 1, 3, 4], num)
    rows = np.arange(num)
    for offset in (1, 2):
        words[0, rows, place + offset] = strong
        words[1, rows, place + offset - 1] = strong
    words[0, rows, place] = MODIFIER
    words[1, rows, place + 2] = MODIFIER
    encoded = jax.nn.one_hot(words, width)
    positive = jnp.asarray(strong < NEUTRAL)
    return encoded, jnp.stack([~positive, positive])


def pair_accuracy(judge: Any, pairs: tuple[jax.Array, jax.Array]) -> float:
    """The share of the texts in pairs that are judged rightly."""
    texts, labels = pairs
    return float(np.mean([np.mean((judge(text) > 0) == label) for text, label in zip(texts, labels)]))


def modifier_response(model: Any, slow: rd.SlowPoints, num_words: int) -> tuple[np.ndarray, ...]:
    """The state after a modifier and neutral words, against neutral words only; and what "good" then does."""
    manifold = slow.manifold
    # The middle of the line: at its ends the network is sure, and words move it less.
    middle = np.argsort(np.abs(eqx.filter_vmap(model.readout)(jnp.asarray(manifold.points, jnp.float32))[:, 0]))
    chosen = middle[: max(len(middle) // 2, 1)]
    points = jnp.asarray(manifold.points[chosen], jnp.float32)
    word = lambda index: jax.nn.one_hot(index, 6)
    read = lambda words: eqx.filter_vmap(
        lambda x: rd.unroll(model.cell, jnp.stack([word(w) for w in words]), x)[-1], in_axes=0
    )(points)
    # Without a slow mode (an untrained network) the slowest one stands in.
    modes, selection = leading_modes(slow, chosen)
    good = np.abs(np.einsum("kn,kn->k", selection, np.asarray(read([GOOD]) - read([NEUTRAL]))))
    logit = lambda state: np.asarray(eqx.filter_vmap(model.readout)(state))[:, 0]
    along, off, plain, negated = [], [], [], []
    for count in range(num_words):
        quiet = [NEUTRAL] * count
        after, before = read([MODIFIER, *quiet]), read([NEUTRAL, *quiet])
        difference = np.asarray(after - before)
        amount = np.einsum("kn,kn->k", selection, difference)
        rest = difference - amount[:, None] * modes
        along.append(np.median(np.abs(amount) / good))
        off.append(np.median(np.linalg.norm(rest, axis=1) / good))
        plain.append(np.median(logit(read([NEUTRAL, *quiet, GOOD])) - logit(read([NEUTRAL, *quiet, NEUTRAL]))))
        negated.append(np.median(logit(read([MODIFIER, *quiet, GOOD])) - logit(read([MODIFIER, *quiet, NEUTRAL]))))
    return tuple(np.array(values) for values in (along, off, plain, negated))


def leading_modes(slow: rd.SlowPoints, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and left vectors of the slowest mode at the chosen points, real and biorthogonal."""
    manifold = slow.manifold
    if manifold.dimension == 0:
        size = manifold.points.shape[1]
        return np.eye(size)[np.zeros(len(chosen), int)], np.eye(size)[np.zeros(len(chosen), int)]
    modes = np.real(manifold.modes[chosen, :, 0])
    selection = np.real(manifold.selection[chosen, 0, :])
    return modes, selection / np.einsum("kn,kn->k", selection, modes)[:, None]


def report(result: Negation) -> str:
    """Accuracies beside the expectations, and how long the modifier acts."""
    manifold = result.slow.manifold
    times = np.median(manifold.time_constants, axis=0)
    lines = [
        f"accuracy on new texts       bag of words {result.bag:.3f}, network {result.network:.3f}, "
        f"bag with modifier features {result.bag_with_modifiers:.3f}",
        f"gain recovered by features  {result.recovered:.2f}   "
        "(Maheswaranathan & Sussillo 2020, abstract: > 0.90, of reviews)",
        f"pairs that differ in order  bag of words {result.pairs_bag:.3f} (chance 0.5), "
        f"network {result.pairs_network:.3f}",
        f"line attractor              dimension {manifold.dimension}, time constants "
        + ", ".join(f"{time:.0f}" for time in times)
        + " words",
        "words after the modifier    " + "  ".join(f"{k:6d}" for k in range(len(result.along))),
        "displacement along the line " + "  ".join(f"{v:6.2f}" for v in result.along),
        "displacement off the line   " + "  ".join(f"{v:6.2f}" for v in result.off),
        'effect of "good", plain     ' + "  ".join(f"{v:6.2f}" for v in result.effect_plain),
        'effect of "good", after not ' + "  ".join(f"{v:6.2f}" for v in result.effect_negated),
    ]
    return "\n".join(lines)


def plot(result: Negation) -> Figure:
    """Accuracies, the line attractor, the impulse response of the modifier, and the effect of a word after it."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.1), width_ratios=[0.9, 1.2, 1, 1])
    names = ("bag of\nwords", "bag +\nmodifiers", "network")
    values = (result.bag, result.bag_with_modifiers, result.network)
    colors = [plotting.COLORS[c] for c in ("grey", "sky", "blue")]
    axes[0].bar(names, values, color=colors, width=0.65)
    for place, value in enumerate(values):
        axes[0].text(place, value + 0.01, f"{value:.2f}", ha="center", fontsize=6.5)
    axes[0].tick_params(axis="x", labelsize=6)
    axes[0].set(title="a  accuracy", ylim=(0.5, 1.06), ylabel="share of texts right")
    manifold = result.slow.manifold
    projection = plotting.principal_components(result.example_states, 2)
    flat = projection(result.example_states).reshape(-1, 2)
    axes[1].scatter(*flat.T, c=np.clip(result.example_logits.ravel(), -8, 8), s=1.5, cmap="coolwarm_r", rasterized=True)
    axes[1].plot(*projection(manifold.points).T, "o", color="black", markersize=2, markeredgewidth=0)
    axes[1].set(title="b  states and slow points", xlabel=projection.label(0), ylabel=projection.label(1))
    axes[1].set(xticks=[], yticks=[])
    words = np.arange(len(result.along))
    axes[2].plot(words, result.along, "o-", color=plotting.COLORS["blue"], label="along the line")
    axes[2].plot(words, result.off, "s-", color=plotting.COLORS["orange"], label="off the line")
    axes[2].set(title='c  state after "not"', xlabel="words later", ylabel='displacement / "good"', ylim=(0, None))
    axes[2].legend()
    axes[3].axhline(0, color=plotting.COLORS["grey"], linewidth=0.8)
    axes[3].plot(words, result.effect_plain, "o-", color=plotting.COLORS["blue"], label='"good"')
    axes[3].plot(words, result.effect_negated, "s-", color=plotting.COLORS["orange"], label='"good" after "not"')
    axes[3].set(title='d  effect of "good"', xlabel='words after "not"', ylabel="change of the logit")
    axes[3].legend(loc="center right", bbox_to_anchor=(1.04, 0.56), fontsize=6, handlelength=0.9, borderpad=0)
    return figure
