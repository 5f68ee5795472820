"""Character-level language models of Python source: what vanilla, GRU and LSTM networks learn, and what they then are.

Networks of equal size read the standard library and are judged on modules they have not seen, beside unigrams,
bigrams, gzip and xz. Then the trained networks are taken as dynamical systems: units that follow brackets and
indentation, Lyapunov exponents while reading, fixed points while one character is held, and the cycles into which they
fall when they read their own likeliest characters.
"""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._python_source import source_features, telling_passage
from experiments._settings import Seed, check, one_of
from rnndyn import plotting

CAPTION = """Character models of Python source, and the cycles they fall into (Karpathy, Johnson & Fei-Fei 2016).

One network of each kind, with a budget of updates that stays behind gzip on the same text.

- **a** bits per held-out character over the text read, a colour for each cell; dashed, bigrams of the training text,
  and gzip and xz of the held-out text alone; in the legend, the value on all of the held-out text.
- **b** first exponents while reading, with error bars, same colours; grey, zero.
- **c** share of free runs, each reading its own likeliest character, that end in a cycle.
- **d, e** held-out source, coloured by one unit (violet low, orange or brown high) that follows the place in the
  line, and one that follows the depth of brackets; r, the correlation.
- **f** what each network writes at temperature 0.6.
- **g** the longest cycle of each at temperature 0; dots are blanks.
"""

CELLS = {
    "vanilla": rd.VanillaCell,
    "GRU": rd.GRUCell,
    # Without a bias to its forget gates an LSTM starts by forgetting within two characters (Jozefowicz et al. 2015).
    "LSTM": functools.partial(rd.LSTMCell, bias_init=rd.initializers.forget_gate_bias(1.0)),
}
LEARNING_RATES = {"vanilla": 6e-3, "GRU": 1.2e-2, "LSTM": 2.4e-2}
"""For GRU and LSTM the best of 6e-3, 1.2e-2 and 1.8e-2 (LSTM: 2.4e-2) on held-out text, at 62 thousand parameters. Of
the vanilla network 1.2e-2 is no better than 6e-3 there (2.25 and 2.28 bits per character), and ended at 3.31 with 40
thousand parameters."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result.

    Three kinds of 62 thousand parameters, in four minutes of one core: `--cells vanilla GRU LSTM --num-parameters 62000
    --num-updates 1200`. An LSTM of 200 thousand, in six: `--cells LSTM --num-parameters 200000 --num-updates 3500
    --learning-rate 8e-3`. It needs 1.84 bits per character, gzip 1.95, xz 1.73.
    """

    path: str | None = None
    """A file or folder of text; the standard library of this Python by default."""
    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("vanilla", "LSTM")
    num_layers: int = 1
    num_parameters: int = 40_000
    """Of every network, at most."""
    embedding_size: int = 32
    min_count: int = 20
    """Rarer characters are replaced."""
    num_updates: int = 1000
    batch_size: int = 32
    window: int = 64
    """Characters between truncations of the gradient; the states are carried on."""
    learning_rate: float | None = None
    """At the start; it falls to a twentieth along a cosine. By default that of `LEARNING_RATES`."""
    max_grad_norm: float = 1.0
    validate_every: int = 100
    num_read: int = 24_000
    """Held-out characters on which units are looked at."""
    num_exponents: int = 8
    num_exponent_steps: int = 1500
    held: str = " \ne"
    """Characters that are held while fixed points are searched."""
    num_candidates: int = 12
    num_settle: int = 1000
    """Steps with the character held before a search starts there."""
    num_prompts: int = 16
    num_free: int = 1500
    """Characters of a free run."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        if self.path is not None and not Path(self.path).exists():
            raise ValueError(f"path: got {self.path}; allowed is a file or a folder that exists.")


SMOKE = Config(
    path=argparse.__file__,
    cells=("LSTM",),
    num_parameters=4500,
    embedding_size=4,
    num_updates=3,
    batch_size=4,
    window=8,
    num_read=2400,
    num_exponents=2,
    num_exponent_steps=30,
    held="e",
    num_candidates=4,
    num_settle=5,
    num_prompts=2,
    num_free=60,
)


class Network(rd.Result):
    """One trained network."""

    name: str
    num_units: int
    num_parameters: int
    first_loss: float
    """The loss of the first window in nats, over T ln V."""
    steps: np.ndarray
    """Updates made at each validation."""
    curve: np.ndarray
    """Bits per character at each of them, on a sample of the held-out text."""
    bits: float
    """Bits per character on all of the held-out text."""
    exponents: rd.LyapunovSpectrum
    """Conditional exponents while held-out text is read."""
    num_fixed_points: np.ndarray
    """With each of the held characters."""
    num_stable: np.ndarray
    index_sums: np.ndarray
    """1 when all fixed points are found and none is degenerate (a unit that keeps its state for ever makes one so)."""
    spectral_radii: np.ndarray
    """Largest multiplier of the most stable fixed point with each of them; NaN without a fixed point."""
    periods: np.ndarray
    """Period of the cycle into which the free run from each prompt fell; 0 where it did not."""
    cycle_text: str
    """The characters of the longest cycle."""
    sample: str
    """Text drawn at temperature 0.6."""


class Unit(rd.Result):
    """The unit that follows a feature of the text best."""

    feature: str
    correlation: float
    """On the second half of the text; the unit was chosen on the first."""
    text: str
    values: np.ndarray


class CharLM(rd.Result):
    """The baselines, the networks, and the units of the best one."""

    baselines: rd.tasks.TextBaselines
    networks: tuple[Network, ...]
    units: tuple[Unit, ...]
    held: str
    chars_per_update: int


def compute(config: Config) -> CharLM:
    """Read the text, train every network, look at it as a dynamical system."""
    text = rd.tasks.read_text(config.path, min_count=config.min_count)
    baselines = rd.tasks.text_baselines(text)
    models, networks = zip(*[study_cell(name, text, config) for name in config.cells])
    best = models[int(np.argmin([network.bits for network in networks]))]
    return CharLM(
        baselines, networks, following_units(best, text, config), config.held, config.batch_size * config.window
    )


def study_cell(name: str, text: rd.tasks.Text, config: Config) -> tuple[rd.TokenRNN, Network]:
    """A network of one kind: trained, then looked at."""
    model, fit = train(name, text, config)
    return model, examine(name, model, fit, text, config)


def train(name: str, text: rd.tasks.Text, config: Config) -> tuple[rd.TokenRNN, rd.training.FitResult]:
    """A network of the given kind, trained on the text as one long stream."""
    key = jax.random.key(config.seed)
    model = make(name, largest_width(name, text.vocabulary, config), text.vocabulary, config, key)
    rate = config.learning_rate or LEARNING_RATES[name]
    curve_batch = text.validation.batch(16, min(1024, len(text.validation) // 20))
    fit = rd.fit(
        model,
        rd.training.truncated_bptt(rd.training.softmax_cross_entropy),
        text.train.stream(config.batch_size, config.window),
        optax.adam(optax.cosine_decay_schedule(rate, config.num_updates, alpha=0.05)),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        carry=rd.training.start_states(model, config.batch_size),
        validation=curve_batch,
        metric=rd.training.over_trials(rd.training.softmax_cross_entropy),
        validate_every=config.validate_every,
        key=key,
    )
    return fit.last_model, fit


def make(name: str, width: int, vocabulary: rd.Vocabulary, config: Config, key: Any) -> rd.TokenRNN:
    """Word vectors of the characters, layers of cells, and a linear readout of the logits."""
    return rd.TokenRNN(*make_parts(name, width, vocabulary.size, config, key), vocabulary)


# One program: each array that is drawn by itself compiles by itself.
@eqx.filter_jit
def make_parts(name: str, width: int, num_characters: int, config: Config, key: Any) -> tuple[Any, Any]:
    """The word vectors, and the network that reads them."""
    embedding_key, readout_key, *keys = jax.random.split(key, 2 + config.num_layers)
    sizes = [config.embedding_size, *[width] * config.num_layers]
    cells = [CELLS[name](sizes[layer], width, key=keys[layer]) for layer in range(config.num_layers)]
    readout = eqx.nn.Linear(width, num_characters, key=readout_key)
    # Small, so that the first predictions are nearly even and the first loss is T ln V.
    readout = jax.tree.map(lambda leaf: 0.1 * leaf, readout)
    network = rd.RNN(cells[0], readout) if config.num_layers == 1 else rd.StackedRNN(cells, readout)
    return eqx.nn.Embedding(num_characters, config.embedding_size, key=embedding_key), network


def largest_width(name: str, vocabulary: rd.Vocabulary, config: Config) -> int:
    """The most units with which the network has no more parameters than allowed."""
    fits, too_large = 1, config.num_parameters
    while too_large - fits > 1:
        width = (fits + too_large) // 2
        model = eqx.filter_eval_shape(make, name, width, vocabulary, config, jax.random.key(0))
        if count_parameters(model) > config.num_parameters:
            too_large = width
        else:
            fits = width
    return fits


def count_parameters(model: Any) -> int:
    """Trained numbers of a model, or of its shapes."""
    floats = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model) if floats(leaf))


def examine(name: str, model: rd.TokenRNN, fit: rd.training.FitResult, text: rd.tasks.Text, config: Config) -> Network:
    """What a trained network scores on held-out text, and what it does as a dynamical system."""
    ids = text.validation.ids(0, config.num_exponent_steps + 200)
    inputs = model.embed(ids)
    driven = rd.as_driven_map(model.cell)
    start = driven.flatten(model.start())
    spectrum = rd.lyapunov_spectrum(
        driven,
        start,
        len(inputs) - 200,
        inputs=inputs,
        num_exponents=min(config.num_exponents, start.size),
        num_transient=200,
    )
    states = rd.trajectory(driven, start, len(inputs), inputs=inputs)
    counts, stable, index_sums, radii = [], [], [], []
    met = np.asarray(states)[np.linspace(0, len(states) - 1, config.num_candidates).astype(int)]
    for character in config.held:
        held = rd.as_map(model.cell, model.embed(text.vocabulary.encode(character))[0])
        # Half of the candidates are where the held character leads to, half are states met in reading.
        settled = [rd.trajectory(held, x, config.num_settle)[-1] for x in met[::2]]
        candidates = np.concatenate([settled, met[1::2]])
        found = rd.find_fixed_points(held, candidates, max_rounds=1, progress=False)
        counts.append(len(found))
        stable.append(int(np.sum(found.is_stable)))
        index_sums.append(found.index_sum)
        largest = np.max(np.abs(found.multipliers), axis=1) if len(found) else np.array([np.nan])
        radii.append(float(np.min(largest)))
    periods, cycle_text = free_runs(model, text, config)
    prompt = text.validation.text(0, 200)
    return Network(
        name=name,
        num_units=jax.tree.leaves(model.start())[0].shape[-1],
        num_parameters=count_parameters(model),
        first_loss=float(fit.history.losses[0] / np.log(text.vocabulary.size)),
        steps=fit.history.validation_steps,
        curve=fit.history.validation_losses / np.log(2),
        bits=held_out_bits(model, text.validation),
        exponents=spectrum,
        num_fixed_points=np.array(counts),
        num_stable=np.array(stable),
        index_sums=np.array(index_sums),
        spectral_radii=np.array(radii),
        periods=periods,
        cycle_text=cycle_text,
        sample=rd.generate(model, prompt, 400, temperature=0.6, key=jax.random.key(config.seed)),
    )


def held_out_bits(model: rd.TokenRNN, part: rd.tasks.TextPart, num_places: int = 32, window: int = 256) -> float:
    """Bits per character on the whole of a text, read from `num_places` places with the states carried along."""
    window = min(window, len(part) // num_places - 1)
    loss = eqx.filter_jit(rd.training.truncated_bptt(rd.training.softmax_cross_entropy))
    states, losses = rd.training.start_states(model, num_places), []
    for batch in part.stream(num_places, window):
        value, states = loss(model, jax.tree.map(jnp.asarray, batch), states)
        losses.append(float(value))
    return float(np.mean(losses) / np.log(2))


def free_runs(model: rd.TokenRNN, text: rd.tasks.Text, config: Config) -> tuple[np.ndarray, str]:
    """The periods of the cycles that the network falls into when it reads its likeliest character, and the longest."""
    prompts, _ = text.validation.batch(config.num_prompts, 100)

    @eqx.filter_jit
    def run(model: rd.TokenRNN, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.tree.map(lambda leaf: leaf[-1], model.states(prompt))

        def step(state: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            token = jnp.argmax(model.read(state))
            state, _logits = model.step(state, token)
            return state, (token, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state)])[:8])

        return jax.lax.scan(step, state, length=config.num_free)[1]

    tokens, states = (np.asarray(a) for a in jax.lax.map(lambda prompt: run(model, prompt), jnp.asarray(prompts)))
    periods = np.array([period(*pair) for pair in zip(tokens, states)])
    if not periods.any():
        return periods, ""
    longest = int(np.argmax(periods))
    return periods, text.vocabulary.decode(tokens[longest][-periods[longest] :])


def period(tokens: np.ndarray, states: np.ndarray) -> int:
    """The period of the last half of a run, 0 when it has none; characters and states (to 1e-4) must repeat."""
    tokens, states = tokens[len(tokens) // 2 :], states[len(states) // 2 :]
    for p in range(1, len(tokens) // 2):
        if (tokens[p:] == tokens[:-p]).all() and np.max(np.abs(states[-1] - states[-1 - p])) < 1e-4:
            return p
    return 0


def following_units(model: rd.TokenRNN, text: rd.tasks.Text, config: Config) -> tuple[Unit, ...]:
    """For every feature of the text the unit that correlates best with it, chosen and judged on different halves."""
    ids = text.validation.ids(0, config.num_read)
    states = model.states(ids)
    # The memory of an LSTM is in c; h is what it shows of it.
    states = np.asarray(states[-1] if isinstance(states, tuple) else states, float)
    source = text.vocabulary.decode(ids)
    half = len(ids) // 2
    chosen = []
    for name, values in source_features(source).items():
        first, second = (correlations(states[part], values[part]) for part in (slice(half), slice(half, None)))
        unit = int(np.argmax(np.abs(first)))
        place = telling_passage(name, source)
        trace = np.sign(first[unit]) * (states[:, unit] - states[:, unit].mean()) / states[:, unit].std()
        chosen.append(Unit(name, float(abs(second[unit])), source[place], trace[place]))
    return tuple(chosen)


def correlations(states: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson correlation of every unit with a feature; 0 where one of them is constant."""
    a, b = states - states.mean(axis=0), values - values.mean()
    scale = np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2))
    return np.divide(b @ a, scale, out=np.zeros(a.shape[1]), where=scale > 0)


def report(result: CharLM) -> str:
    """Bits per character beside the baselines, and the dynamics of every network."""
    base = result.baselines
    lines = [
        f"text              {base.num_train} characters to train on, {base.num_validation} held out, "
        f"{base.num_characters} different",
        f"bits/character    uniform {base.uniform:.2f}, unigram {base.unigram:.2f}, bigram {base.bigram:.2f}, "
        f"gzip {base.gzip:.2f}, xz {base.xz:.2f} (both of the held-out text alone), xz after the training text "
        f"{base.xz_after_training:.2f}",
    ]
    for net in result.networks:
        cycles = net.periods[net.periods > 0]
        held = ", ".join(
            f"{character!r}: {count} ({stable} stable, radius {radius:.3f}, index sum {index_sum})"
            for character, count, stable, radius, index_sum in zip(
                result.held, net.num_fixed_points, net.num_stable, net.spectral_radii, net.index_sums
            )
        )
        spectrum = net.exponents
        lines += [
            f"{net.name} ({net.num_units} units, {net.num_parameters} parameters)",
            f"  first loss / (T ln V)          {net.first_loss:.4f}   (1 at initialisation)",
            f"  bits/character, held out       {net.bits:.3f}   (bigram - network {base.bigram - net.bits:+.3f}, "
            f"xz - network {base.xz - net.bits:+.3f})",
            f"  largest exponent while reading {float(spectrum.exponents[0]):+.4f} ± {float(spectrum.stderr[0]):.4f} "
            "per character",
            f"  fixed points, held character   {held}",
            f"  free runs that end in a cycle  {len(cycles)} of {len(net.periods)}, periods "
            f"{', '.join(map(str, sorted(set(cycles.tolist())))) or 'none'}",
        ]
    for unit in result.units:
        lines.append(f"best unit, {unit.feature:<18} correlation {unit.correlation:.2f} on text it was not chosen on")
    return "\n".join(lines)


def plot(result: CharLM) -> Figure:
    """Learning curves and scores; exponents; the text that units follow; a sample and the cycles."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 5.2))
    grid = figure.add_gridspec(3, 8, height_ratios=[1.35, 0.9, 0.8])
    draw_curves(figure.add_subplot(grid[0, :4]), result)
    draw_exponents(figure.add_subplot(grid[0, 4:6]), result)
    draw_cycles(figure.add_subplot(grid[0, 6:]), result)
    shown = sorted(result.units, key=lambda unit: -unit.correlation)[:2]
    for axes, unit, letter in zip((figure.add_subplot(grid[1, :4]), figure.add_subplot(grid[1, 4:])), shown, "de"):
        plotting.plot_text(unit.text, unit.values, ax=axes)
        axes.set_title(f"{letter}  unit for {unit.feature}, r = {unit.correlation:.2f}", loc="left")
    written, cycles = figure.add_subplot(grid[2, :4]), figure.add_subplot(grid[2, 4:])
    samples = []
    for net in result.networks:
        lines = [line[:60] for line in net.sample.splitlines() if line[:60].strip()][:2]
        samples += [f"{net.name}:", *(lines or ["  (nothing but blanks at the beginning of its lines)"])]
    plotting.plot_text("\n".join(samples), ax=written)
    written.set_title("f  first two lines written, temperature 0.6", loc="left")
    loops = []
    for net in result.networks:
        visible = net.cycle_text.replace(" ", "·").replace("\n", "↵") or "(no cycle)"
        loops.append(f"{net.name}, period {len(net.cycle_text)}:\n  {(visible * 60)[:56]}\n")
    plotting.plot_text("\n".join(loops), ax=cycles)
    cycles.set_title("g  longest cycles, temperature 0", loc="left")
    return figure


def draw_curves(axes: Any, result: CharLM) -> None:
    """Held-out bits per character against characters read, with the models that are not networks as lines."""
    base = result.baselines
    end = result.networks[0].steps[-1] * result.chars_per_update
    for net in result.networks:
        read = net.steps[1:] * result.chars_per_update / 1e6
        axes.plot(read, net.curve[1:], "o-", markersize=2, color=plotting.CELL_COLORS[net.name],
                  label=f"{net.name}; all held-out text: {net.bits:.2f}")  # fmt: skip
    for name, value in (("bigram", base.bigram), ("gzip", base.gzip), ("xz", base.xz)):
        axes.axhline(value, color=plotting.COLORS["grey"], linewidth=0.8, linestyle="--")
        axes.text(end / 1e6 * 0.01, value, f"{name} {value:.2f}", ha="left", va="bottom", fontsize=6.5, color="0.35")
    axes.set(xlabel="characters read / million", ylabel="bits per character, sample", xlim=(0, end / 1e6 * 1.02))
    axes.set_title("a  learning", loc="left")
    axes.margins(y=0.12)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.86))


def draw_exponents(axes: Any, result: CharLM) -> None:
    """The first conditional exponents of every network."""
    axes.axhline(0, color=plotting.COLORS["grey"], linewidth=0.8)
    for net in result.networks:
        values = np.asarray(net.exponents.exponents)
        axes.errorbar(np.arange(1, len(values) + 1), values, yerr=2 * np.asarray(net.exponents.stderr), fmt="o-",
                      markersize=2.5, color=plotting.CELL_COLORS[net.name])  # fmt: skip
    axes.set(xlabel="index $i$", ylabel=r"exponent $\lambda_i$ / character")
    axes.set_title("b  while reading", loc="left")


def draw_cycles(axes: Any, result: CharLM) -> None:
    """The share of free runs that end in a cycle."""
    for place, net in enumerate(result.networks):
        share = np.mean(net.periods > 0)
        axes.bar(place, share, color=plotting.CELL_COLORS[net.name], width=0.6)
        axes.text(place, share + 0.02, f"{share:.2f}", ha="center", fontsize=6.5)
    axes.set_xticks(range(len(result.networks)), [net.name for net in result.networks], fontsize=6.5)
    axes.set(ylim=(0, 1.15), ylabel="share of free runs")
    axes.set_title("c  ends in a cycle", loc="left")
