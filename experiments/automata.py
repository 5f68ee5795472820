"""Which automaton a trained network is, proved for every string (Tomita's languages; Kolen 1994, Casey 1996).

Networks that answer after every symbol learn a regular language; samples say that they make no error, and a proof
that none of any length does. The proof needs images of sets to shrink; noise on the states in training, and a small
price for what is left of it after a symbol, is what makes them.
"""

import dataclasses
import functools
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import rnndyn as rd
from experiments._languages import LANGUAGES, MOST_STATES, Draws, Grammar, Learner, NoisyLoss, grammar_of
from experiments._settings import NotNegative, Seed, check, one_of
from rnndyn import plotting

CAPTION = """Which automaton a trained network is, proved for every string (languages of Tomita 1982).

One network for each language and kind answers after every symbol. In training noise is added to its states, and what
is left of it after a symbol is a part of the loss. More seconds may prove more: each proof is given the same number.

- **a** states of one proved network along long strings, in two principal components, coloured by the state of the
  automaton, and the outlines of the boxes that the proof stores.
- **b** which networks are proved to be their language's automaton for every string (filled), with the distance of all
  answers from the threshold that is proved; crosses, no proof and no error in samples; "errs", wrong on some strings.
- **c** how much the product of the Jacobians along random strings stretches at the most: the largest over strings, a
  line for each network, colours as in **d**. Above the dashed line sets may grow.
- **d** after how many symbols the images of the stored boxes lie in a stored box again.
"""

Language = Annotated[str, one_of(LANGUAGES)]
CellName = Annotated[str, one_of(("vanilla", "gru", "lstm"))]


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    languages: tuple[Language, ...] = ("1", "2", "3", "4", "5", "6", "7", "parity")
    """Of the vanilla networks."""
    gated_languages: tuple[Language, ...] = ("2", "parity")
    cells: tuple[CellName, ...] = ("vanilla", "gru", "lstm")
    num_units: int = 32
    num_updates: int = 700
    """With a tenth of the noise, and as many again with all of it and with `contraction`."""
    batch_size: int = 32
    length: int = 24
    noise: NotNegative = 0.3
    """Standard deviation of what is added to every state in training."""
    contraction: NotNegative = 0.1
    """Weight of what is left of the noise after a symbol, beside the cross-entropy."""
    weight_decay: NotNegative = 0.1
    """Decoupled, relative to the learning rate (Loshchilov & Hutter 2019)."""
    learning_rate: float = 1e-2
    num_test: int = 500
    """Strings of 200 symbols to judge by, after every symbol."""
    budget: float = 25.0
    """Seconds for each proof."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    languages=("2",),
    gated_languages=("2",),
    cells=("vanilla",),
    num_units=4,
    num_updates=4,
    batch_size=4,
    length=8,
    num_test=8,
    budget=2.0,
)


NAMES = {"vanilla": "vanilla", "gru": "GRU", "lstm": "LSTM"}
CELLS = {"vanilla": rd.VanillaCell, "gru": rd.GRUCell, "lstm": rd.LSTMCell}


def train(config: Config, languages: tuple[str, ...], cell_name: str) -> list[Any]:
    """Networks that answer after every symbol, one for each language, trained together."""
    model_key, fit_key = jax.random.split(jax.random.key(config.seed))

    def make(key: jax.Array, grammar: Grammar) -> Learner:
        cell_key, readout_key = jax.random.split(key)
        cell = CELLS[cell_name](2, config.num_units, key=cell_key)
        return Learner(rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key)), grammar)

    together = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(grammar_of(name) for name in languages))
    learners = eqx.filter_vmap(make)(jax.random.split(model_key, len(languages)), together)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.1)
    # Counting modulo three or four is learned with little noise, before anything has to be forgotten, or not at all.
    for share, contraction, key in zip((0.1, 1.0), (0.0, config.contraction), jax.random.split(fit_key)):
        trained = rd.fit_ensemble(
            learners,
            NoisyLoss(jnp.asarray(share * config.noise), jnp.asarray(contraction)),
            Draws(config.batch_size, config.length),
            functools.partial(optax.adamw, weight_decay=config.weight_decay),
            learning_rate=schedule,
            num_steps=config.num_updates,
            max_grad_norm=1.0,
            key=key,
            progress=False,
        )
        learners = trained.last_models
    return [trained.member(i).last_model.network for i in range(len(languages))]


class FirstOutput(eqx.Module):
    """The readout of a network on its flat state, which begins with h."""

    readout: Any
    hidden_size: int = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.readout(x[: self.hidden_size])[0]


def certify(model: Any, language: str, budget: float) -> rd.AutomatonCertificate:
    """The proof, or what stands in its way, for a trained network."""
    g = rd.as_driven_map(model.cell)
    return rd.certify_automaton(
        g,
        g.flatten(model.cell.initial_state()),
        jnp.eye(2),
        FirstOutput(model.readout, model.cell.hidden_size),
        LANGUAGES[language],
        budget=budget,
        progress=False,
    )


TEST_LENGTH, NUM_SHOWN, LONGEST_PRODUCT, NUM_PRODUCTS = 200, 600, 12, 64


class Judged(rd.Result):
    """One network: what samples say of it, and what is proved.

    - `accuracy`: the share of answers after every symbol of new strings that are right.
    - `stretch`: the largest norm of the product of the Jacobians along 1, 2, ... symbols, over random strings.
    - `states`, `places`: states along some strings, with those of the automaton.
    """

    language: str
    cell: str
    accuracy: float
    stretch: np.ndarray
    states: np.ndarray
    places: np.ndarray
    proof: rd.AutomatonCertificate


class Automata(rd.Result):
    """All networks of the study."""

    networks: tuple[Judged, ...]

    @property
    def num_certified(self) -> int:
        """How many are proved to be their automaton."""
        return sum(network.proof.certified for network in self.networks)


def compute(config: Config) -> Automata:
    """Train, try and prove one network of every kind for every language of its kind."""
    kinds = [(cell, config.languages if cell == "vanilla" else config.gated_languages) for cell in config.cells]
    return Automata(
        tuple(
            judge(config, language, cell, model)
            for cell, languages in kinds
            for language, model in zip(languages, train(config, languages, cell))
        )
    )


def judge(config: Config, language: str, cell_name: str, model: Any) -> Judged:
    """One network."""
    g = rd.as_driven_map(model.cell)
    draws = Draws(config.num_test, TEST_LENGTH)(jax.random.key(config.seed + 1))
    inputs, answers, places = grammar_of(language).read(*draws)
    places = np.asarray(places)
    start = g.flatten(model.cell.initial_state())
    states = np.asarray(run(g, start, inputs))
    found = np.asarray(jax.vmap(jax.vmap(FirstOutput(model.readout, model.cell.hidden_size)))(jnp.asarray(states)))
    shown = slice(None, None, max(1, states[:, 20:].size // states.shape[-1] // NUM_SHOWN))
    return Judged(
        language=language,
        cell=cell_name,
        accuracy=float(np.mean((found > 0) == (np.asarray(answers) > 0))),
        stretch=np.asarray(stretches(g, start, inputs[:NUM_PRODUCTS])).max(axis=0),
        states=states[:, 20:].reshape(-1, states.shape[-1])[shown],
        places=places[:, 20:].ravel()[shown],
        proof=certify(model, language, config.budget),
    )


@eqx.filter_jit
def run(g: Any, start: jax.Array, inputs: jax.Array) -> jax.Array:
    """States along strings."""
    return jax.vmap(lambda string: rd.trajectory(g, start, len(string), inputs=string))(inputs)


@eqx.filter_jit
def stretches(g: Any, start: jax.Array, inputs: jax.Array) -> jax.Array:
    """Norms of the products of the Jacobians along the last symbols of strings, from the state before them."""

    def along(string: jax.Array) -> jax.Array:
        states = rd.trajectory(g, start, len(string), inputs=string)
        before, read = states[-LONGEST_PRODUCT - 1 : -1], string[-LONGEST_PRODUCT:]

        def grow(product: jax.Array, given: Any) -> Any:
            product = jax.jacfwd(g)(*given) @ product
            return product, jnp.linalg.norm(product, 2)

        return jax.lax.scan(grow, jnp.eye(start.size), (before, read))[1]

    return jax.vmap(along)(inputs)


def report(result: Automata) -> str:
    """The table of the networks, and how many are proved."""
    lines = ["language  cell     accuracy  proved  margin   sets  symbols to the next set  stretch of 1 and 8 symbols"]
    for network in result.networks:
        proof = network.proof
        numbers = (
            f"yes     {proof.margin:6.2f}  {len(proof.states):5d}  {int(proof.lengths.max()):23d}"
            if proof.certified
            else f"no      {'':6}  {'':5}  {'':23}"
        )
        lines.append(
            f"{network.language:8}  {NAMES[network.cell]:7}  {network.accuracy:8.4f}  {numbers}  "
            f"{network.stretch[0]:.2f}, {network.stretch[7]:.3f}"
        )
        if not proof.certified:
            lines.append(f"          {proof.reason}")
    lines.append(
        f"proved: {result.num_certified} of {len(result.networks)} (Kolen 1994 and Casey 1996 on why samples do not "
        "suffice; Weiss, Goldberg & Yahav 2018 extract without a proof)"
    )
    return "\n".join(lines)


def plot(result: Automata) -> Figure:
    """States and boxes of one network, what is proved of each, stretching, and how long sets are followed."""
    figure, axes = plt.subplots(1, 4, figsize=(plotting.PAGE_WIDTH, 2.1), width_ratios=[1.15, 1.1, 1, 1])
    proved = [network for network in result.networks if network.proof.certified] or list(result.networks)
    shown = max(proved, key=lambda network: len(np.unique(network.places)))
    draw_boxes(axes[0], shown)
    draw_proved(axes[1], result)
    for network in result.networks:
        color = plotting.CELL_COLORS[NAMES[network.cell]]
        axes[2].semilogy(np.arange(1, len(network.stretch) + 1), network.stretch, color=color, linewidth=0.8)
    axes[2].axhline(1, color=plotting.COLORS["grey"], linestyle="--", linewidth=0.8)
    axes[2].set(title="c  products of Jacobians", xlabel="symbols", ylabel="largest norm")
    for cell in dict.fromkeys(network.cell for network in result.networks):
        lengths = [n.proof.lengths for n in result.networks if n.cell == cell and n.proof.certified]
        if lengths:
            counts = np.bincount(np.concatenate(lengths))
            share = np.cumsum(counts) / counts.sum()
            axes[3].step(np.arange(len(share)), share, where="post", color=plotting.CELL_COLORS[NAMES[cell]])
        axes[3].plot([], [], color=plotting.CELL_COLORS[NAMES[cell]], label=NAMES[cell])
    axes[3].set(title="d  until a stored set", xlabel="symbols", ylabel="share of images", ylim=(0, 1.05))
    axes[3].legend(loc="lower right")
    return figure


def draw_boxes(axes: Axes, network: Judged) -> None:
    projection = plotting.principal_components(network.states, 2)
    flat = projection(network.states)
    proof = network.proof
    color = lambda place: plotting.COLORS[("blue", "orange", "green", "black", "yellow")[place]]
    for k in range(len(proof.states)):
        corners = draw_outline(projection, proof.centers[k], proof.radii[k][:, None] * proof.frames[k])
        axes.fill(*corners.T, facecolor="none", edgecolor=color(int(proof.states[k])), linewidth=0.5)
    for place in np.unique(network.places):
        rows = network.places == place
        axes.plot(*flat[rows].T, "o", color=color(int(place)), markersize=1.5, markeredgewidth=0, label=str(place))
    axes.set(
        title=f"a  {NAMES[network.cell]}, language {network.language}",
        xlabel=projection.label(0),
        ylabel=projection.label(1),
        xticks=[],
        yticks=[],
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)  # room for the legend
    axes.legend(
        title="state of the automaton",
        loc="lower center",
        ncols=MOST_STATES,
        fontsize=6,
        title_fontsize=6,
        handlelength=0.7,
        handletextpad=0.3,
        columnspacing=0.8,
        borderpad=0.1,
    )


def draw_outline(projection: Any, center: np.ndarray, generators: np.ndarray) -> np.ndarray:
    """The outline of a projected box: the edges, ordered by direction, once forth and once back."""
    middle = projection(center[None])[0]
    edges = projection(center + generators) - middle
    edges = np.where((edges[:, 1] < 0)[:, None], -edges, edges)
    edges = edges[np.argsort(np.arctan2(edges[:, 1], edges[:, 0]))]
    forth = middle - edges.sum(axis=0) + 2 * np.concatenate([np.zeros((1, 2)), np.cumsum(edges, axis=0)])
    return np.concatenate([forth, 2 * middle - forth])


def draw_proved(axes: Axes, result: Automata) -> None:
    languages = list(dict.fromkeys(network.language for network in result.networks))
    cells = list(dict.fromkeys(network.cell for network in result.networks))
    for network in result.networks:
        x, y = cells.index(network.cell), languages.index(network.language)
        color = plotting.CELL_COLORS[NAMES[network.cell]]
        if network.proof.certified:
            axes.add_patch(Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, color=color, alpha=0.4, linewidth=0))
            axes.text(x, y, f"{network.proof.margin:.2g}", ha="center", va="center", fontsize=6.5)
        elif network.accuracy < 1:
            axes.text(x, y, "errs", ha="center", va="center", fontsize=6.5, color=plotting.COLORS["grey"])
        else:
            axes.plot([x], [y], "x", color=plotting.COLORS["grey"], markersize=6)
    axes.set(
        xlim=(-0.5, len(cells) - 0.5), ylim=(len(languages) - 0.5, -0.5), title="b  proved margin", ylabel="language"
    )
    axes.set_xticks(range(len(cells)), [NAMES[cell] for cell in cells])
    axes.set_yticks(range(len(languages)), languages)
    axes.tick_params(length=0)
