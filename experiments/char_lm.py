"""Character-level language models of Python source: what vanilla, GRU and LSTM networks learn, and what they then are.

Networks of equal size read the standard library and are judged on modules they have not seen, beside unigrams,
bigrams, gzip and xz. Then the trained networks are taken as dynamical systems: units that follow brackets and
indentation, Lyapunov exponents while reading, fixed points while one character is held, and the cycles into which they
fall when they read their own likeliest characters.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._char_dynamics import Examination, Network, Unit, examine, following_units
from experiments._char_models import (
    CELLS,
    Parts,
    Training,
    held_out_bits,
    in_three_parts,
    primed_deflate_bits,
    train,
)
from experiments._settings import check, one_of
from rnndyn import plotting

CAPTION = """Character models of Python source, and the cycles they fall into (Karpathy, Johnson & Fei-Fei 2016).

One network of each kind that is named, trained once through a part of the text and then judged on other modules, beside
what gzip and xz make of these modules alone.

- **a** bits per character over the text read, a colour for each cell: lines, of a sample of validation text; stars, of
  all held-out text; dashed, of the same: bigrams of the training text, gzip and xz of the held-out text alone.
- **b** first exponents while reading, with error bars, same colours; grey, zero.
- **c** share of free runs, each reading its own likeliest character, that end in a cycle.
- **d, e** held-out source, coloured by one unit (violet low, orange or brown high) for each of the two features of the
  text that units follow best; r, the correlation, on text by which the unit was not chosen.
- **f** what each network writes at temperature 0.6.
- **g** the longest cycle of each at temperature 0; dots are blanks.
"""


@dataclasses.dataclass(frozen=True)
class Config(Training, Examination):
    """Everything that decides the result.

    Three kinds of 40 thousand parameters, in a minute and a half of one core: `--cells vanilla GRU LSTM
    --num-parameters 40000 --num-updates 450`, each at the best of four rates with `--learning-rates 0.02 0.04 0.08
    0.16`. They end within a tenth of a bit per character of each other.
    """

    path: str | None = None
    """A file or folder of text; the standard library of this Python by default."""
    min_count: int = 20
    """Rarer characters are replaced."""
    cells: tuple[Annotated[str, one_of(CELLS)], ...] = ("GRU",)
    learning_rates: tuple[float, ...] = (0.08,)
    """Of the matrices; a quarter of it for the biases. Of several, each kind takes what is best on validation text."""

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


class CharLM(rd.Result):
    """The baselines, the networks, and the units of the best one."""

    baselines: rd.tasks.TextBaselines
    primed_gzip: float
    """Bits per held-out character of DEFLATE, as in gzip, after the last 32 kB of the training text: all it can see."""
    num_validation: int
    """Characters of the validation text, the end of the training text, on which networks are not trained."""
    networks: tuple[Network, ...]
    units: tuple[Unit, ...]
    held: str
    chars_per_update: int


def compute(config: Config) -> CharLM:
    """Read the text, train every network, look at it as a dynamical system."""
    text = rd.tasks.read_text(config.path, min_count=config.min_count)
    baselines = rd.tasks.text_baselines(text)
    parts = in_three_parts(text)
    models, networks = zip(*[study_cell(name, parts, config) for name in config.cells])
    best = models[int(np.argmin([network.bits for network in networks]))]
    return CharLM(
        baselines=baselines,
        primed_gzip=primed_deflate_bits(text),
        num_validation=len(parts.validation),
        networks=networks,
        units=following_units(best, parts, config),
        held=config.held,
        chars_per_update=config.batch_size * config.window,
    )


def study_cell(name: str, parts: Parts, config: Config) -> tuple[rd.TokenRNN, Network]:
    """A network of one kind: trained at every rate, the best one looked at."""
    rates = config.learning_rates
    trained = [train(name, rate, parts, config) for rate in rates]
    bits = np.array([held_out_bits(fit.last_model, parts.validation) if len(rates) > 1 else np.nan for fit in trained])
    best = int(np.argmin(bits))
    model = trained[best].last_model
    return model, examine(name, model, trained[best], rates[best], bits, parts, config)


def report(result: CharLM) -> str:
    """Bits per character beside the baselines, and the dynamics of every network."""
    base = result.baselines
    lines = [
        f"text              {base.num_train - result.num_validation} characters to train on, {result.num_validation} "
        f"to choose by, {base.num_validation} held out; {base.num_characters} different",
        f"bits/character    uniform {base.uniform:.2f}, unigram {base.unigram:.2f}, bigram {base.bigram:.2f}; of the "
        f"held-out text alone: gzip {base.gzip:.2f}, xz {base.xz:.2f};",
        f"                  after text to train on: gzip {result.primed_gzip:.2f} (its window holds 32 kB of it), xz "
        f"{base.xz_after_training:.2f} (all of it)",
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
            f"{net.name} ({net.num_units} units, {net.num_parameters} parameters, learning rate {net.learning_rate:g})",
            f"  first loss / (T ln V)          {net.first_loss:.4f}   (1 at initialisation)",
            f"  bits/character, held out       {net.bits:.3f}   (gzip - network {base.gzip - net.bits:+.3f}, "
            f"xz - network {base.xz - net.bits:+.3f})",
            f"  largest exponent while reading {float(spectrum.exponents[0]):+.4f} ± {float(spectrum.stderr[0]):.4f} "
            "per character",
            f"  fixed points, held character   {held}",
            f"  free runs that end in a cycle  {len(cycles)} of {len(net.periods)}, periods "
            f"{', '.join(map(str, sorted(set(cycles.tolist())))) or 'none'}",
        ]
        if len(net.rate_bits) > 1:
            lines.append("  validation, by learning rate   " + ", ".join(f"{bits:.3f}" for bits in net.rate_bits))
    for unit in result.units:
        lines.append(f"best unit, {unit.feature:<18} correlation {unit.correlation:.2f} on text it was not chosen on")
    return "\n".join(lines)


def plot(result: CharLM) -> Figure:
    """Learning curves and scores; exponents; the text that units follow; a sample and the cycles."""
    text_height = 0.14 * (1 + num_lines(result)) * len(result.networks)
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 4.2 + text_height))
    grid = figure.add_gridspec(3, 8, height_ratios=[1.35, 0.9, text_height])
    draw_curves(figure.add_subplot(grid[0, :4]), result)
    draw_exponents(figure.add_subplot(grid[0, 4:6]), result)
    draw_cycles(figure.add_subplot(grid[0, 6:]), result)
    shown = sorted(result.units, key=lambda unit: -unit.correlation)[:2]
    for axes, unit, letter in zip((figure.add_subplot(grid[1, :4]), figure.add_subplot(grid[1, 4:])), shown, "de"):
        plotting.plot_text(unit.text, unit.values, font_size=6, ax=axes)
        axes.set_title(f"{letter}  unit for {unit.feature}, r = {unit.correlation:.2f}", loc="left")
    written, cycles = figure.add_subplot(grid[2, :4]), figure.add_subplot(grid[2, 4:])
    samples = []
    for net in result.networks:
        lines = [line[:60] for line in net.sample.splitlines() if line[:60].strip()][: num_lines(result)]
        samples += [f"{net.name}:", *(lines or ["  (nothing but blanks at the beginning of its lines)"])]
    plotting.plot_text("\n".join(samples), font_size=6, ax=written)
    written.set_title("f  first lines written, temperature 0.6", loc="left")
    loops = []
    for net in result.networks:
        visible = net.cycle_text.replace(" ", "·").replace("\n", "↵") or "(no cycle)"
        loops.append(f"{net.name}, period {len(net.cycle_text)}:\n  {(visible * 60)[:56]}\n")
    plotting.plot_text("\n".join(loops), font_size=6, ax=cycles)
    cycles.set_title("g  longest cycles, temperature 0", loc="left")
    return figure


def num_lines(result: CharLM) -> int:
    """Lines of text shown of every network."""
    return max(2, 5 // len(result.networks))


def draw_curves(axes: Any, result: CharLM) -> None:
    """Held-out bits per character against characters read, with the models that are not networks as lines."""
    base = result.baselines
    end = result.networks[0].steps[-1] * result.chars_per_update
    for net in result.networks:
        read = net.steps[1:] * result.chars_per_update / 1e6
        color = plotting.CELL_COLORS[net.name]
        axes.plot(read, net.curve[1:], "o-", markersize=2, color=color, label=f"{net.name}, validation text")
        axes.plot(end / 1e6, net.bits, "*", markersize=7, color=color, clip_on=False, zorder=3,
                  label=f"{net.name}, held-out text: {net.bits:.2f}")  # fmt: skip
    for name, value in (("bigram", base.bigram), ("gzip", base.gzip), ("xz", base.xz)):
        axes.axhline(value, color=plotting.COLORS["grey"], linewidth=0.8, linestyle="--")
        axes.text(end / 1e6 * 0.01, value, f"{name} {value:.2f}", ha="left", va="bottom", fontsize=6.5, color="0.35")
    axes.set(xlabel="characters read / million", ylabel="bits per character", xlim=(0, end / 1e6 * 1.02))
    axes.set_title("a  learning", loc="left")
    axes.margins(y=0.12)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.88))


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
    axes.set(xlim=(-0.8, len(result.networks) - 0.2), ylim=(0, 1.15), ylabel="share of free runs")
    axes.set_title("c  ends in a cycle", loc="left")
