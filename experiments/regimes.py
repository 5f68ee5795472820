"""The fates of a recurrent state: fixed point, cycle, quasi-periodic motion, chaos, or several at once.

Random tanh, GRU and LSTM networks over their gain (the scale of the recurrent weights) and their leak (the share of the
state that a step renews). For each the attractors from many initial states, and how fast the network forgets which
inputs it has seen: the rate at which two states with different histories approach each other under the same input.
"""

import dataclasses
import itertools
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import rnndyn as rd
from experiments._settings import NotNegative, PositiveFraction, Seed, check, one_of
from rnndyn import plotting

CAPTION = """Fixed points, cycles, quasi-periodic motion and chaos over gain and leak.

Columns: tanh, GRU and LSTM networks; five random networks at each gain and leak.

- **a, b, c** where most of their initial states go, as shares of the networks (legend above), a row for each leak;
  white dots, the share with several attractors.
- **d, e, f** the exponent conditional on random input, above zero where the network does not forget its past: dots,
  networks; lines, medians, one for each leak.
- **g, h, i** the same exponent, grouped by what the network does without input; grey line, zero.
"""

FATES = ("fixed point", "cycle", "invariant circle", "chaotic", "undecided")
SHORT = ("fixed\npoint", "cycle", "circle", "chaos", "un-\ndecided")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    families: tuple[Annotated[str, one_of(("tanh", "GRU", "LSTM"))], ...] = ("tanh", "GRU", "LSTM")
    gains: tuple[float, ...] = (0.8, 1.2, 1.6, 2.0, 2.5, 3.2, 4.5)
    """Standard deviation of a recurrent weight, times the root of the number of units."""
    leaks: tuple[PositiveFraction, ...] = (0.1, 0.4, 0.9)
    """tanh: dt / tau. GRU: 1 - z, LSTM: i = 1 - f, at zero input and state, set by the biases of the gates."""
    num_networks: int = 5
    """Random draws; each is looked at with every gain and leak."""
    num_units: int = 20
    bias: NotNegative = 0.3
    """Standard deviation of the biases; without any, every attractor would have a mirror image."""
    num_starts: int = 10
    max_steps: int = 4096
    max_representatives: int = 2
    """Orbits of each network that do not return and are looked at one by one."""
    drive: NotNegative = 0.3
    """Standard deviation of the input (one channel, white); its weights are standard normal."""
    num_histories: int = 4
    num_history: int = 300
    """Steps of different input."""
    num_common: int = 300
    """Steps of the same input after that."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    families=("tanh",),
    gains=(0.5, 4.0),
    leaks=(0.9,),
    num_networks=2,
    num_units=4,
    num_starts=8,
    max_steps=1024,
    num_history=40,
    num_common=100,
)


class Family(rd.Result):
    """One kind of network: arrays over networks, leaks and gains.

    - `fates`: what the largest basin leads to, index into `FATES`.
    - `num_attractors`: how many attractors were found.
    - `undecided`: the share of initial states without a verdict.
    - `exponents`: the largest Lyapunov exponent on that attractor, NaN where undecided.
    - `conditional`: the largest conditional exponent under noise input, nats per step: the network forgets its history
        at this rate where it is negative.
    - `conditional_stderr`: its standard error.
    - `distance_left`: the median distance of two states with different histories after the common input, as a fraction
        of that before it.
    """

    name: str
    fates: np.ndarray
    num_attractors: np.ndarray
    undecided: np.ndarray
    exponents: np.ndarray
    conditional: np.ndarray
    conditional_stderr: np.ndarray
    distance_left: np.ndarray


class Regimes(rd.Result):
    """All kinds of networks."""

    families: tuple[Family, ...]
    gains: np.ndarray
    leaks: np.ndarray


def compute(config: Config) -> Regimes:
    """Classify every network, and drive all of them."""
    families = tuple(study_family(name, config) for name in config.families)
    return Regimes(families, np.array(config.gains), np.array(config.leaks))


def study_family(name: str, config: Config) -> Family:
    """One kind of network: the random numbers of each draw are the same at every gain and leak."""
    shape = (config.num_networks, len(config.leaks), len(config.gains))
    cells = [
        make_cell(name, gain, leak, draw, config)
        for draw, leak, gain in itertools.product(range(config.num_networks), config.leaks, config.gains)
    ]
    size = rd.as_map(cells[0]).state_size
    starts = np.random.default_rng(config.seed).uniform(-1, 1, (config.num_starts, size))
    fates, counts, undecided, exponents = [], [], [], []
    for cell in cells:
        found = rd.find_attractors(
            rd.as_map(cell),
            starts,
            max_map_steps=config.max_steps,
            max_representatives=config.max_representatives,
            progress=False,
        )
        fates.append(FATES.index(found.kinds[0] if len(found) else "undecided"))
        counts.append(len(found))
        undecided.append(found.undecided_fraction)
        exponents.append(found.attractors[0].exponents[0] if len(found) else np.nan)
    conditional, stderr, left = forgetting(cells, config)
    columns = (np.array(fates), np.array(counts), np.array(undecided), np.array(exponents), conditional, stderr, left)
    return Family(name, *(column.reshape(shape) for column in columns))


def make_cell(name: str, gain: float, leak: float, draw: int, config: Config) -> Any:
    """A random network without training; gain and leak are arrays in it, so that all share their compilations."""
    num_gates = {"tanh": 1, "GRU": 3, "LSTM": 4}[name]
    size = config.num_units
    rng = np.random.default_rng([config.seed, num_gates, draw])
    weight_ih = rng.standard_normal((num_gates * size, 1))
    weight_hh = gain * rng.standard_normal((num_gates * size, size)) / np.sqrt(size)
    bias = config.bias * rng.standard_normal(num_gates * size)
    keep = np.log((1 - leak) / leak)
    if name == "tanh":
        return rd.LeakyCell.from_weights(weight_ih, weight_hh, bias, dt=1.0, tau=jnp.asarray(1 / leak))
    if name == "GRU":
        bias[size : 2 * size] = keep
        return rd.GRUCell.from_weights(weight_ih, weight_hh, bias, np.zeros(size))
    bias[: 2 * size] = np.repeat([-keep, keep], size)
    return rd.LSTMCell.from_weights(weight_ih, weight_hh, bias)


def forgetting(cells: list, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conditional exponents of all networks, their errors, and what is left of the distance of two states."""
    history_key, common_key = jax.random.split(jax.random.key(config.seed))
    shape = (2, config.num_histories, config.num_history, 1)
    histories = config.drive * jax.random.normal(history_key, shape, jnp.float32)
    common = config.drive * jax.random.normal(common_key, (config.num_common, 1), jnp.float32)
    maps = [rd.as_driven_map(cell) for cell in cells]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *maps)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None, None))
    def drive(f: Any, histories: Any, common: Any) -> tuple[Any, Any, Any]:
        zero = jnp.zeros(f.state_size, common.dtype)
        last = lambda x, inputs: rd.trajectory(f, x, len(inputs), inputs)[-1]
        before = jax.vmap(jax.vmap(lambda inputs: last(zero, inputs)))(histories)
        after = jax.vmap(jax.vmap(lambda x: last(x, common)))(before)
        distances = [jnp.linalg.norm(states[0] - states[1], axis=-1) for states in (before, after)]
        spectrum = rd.max_lyapunov_exponent(f, before[0, 0], config.num_common, inputs=common)
        return spectrum.exponent, spectrum.stderr, jnp.median(distances[1] / distances[0])

    return tuple(np.asarray(a, float) for a in drive(stacked, histories, common))  # pyright: ignore[reportReturnType]


def report(result: Regimes) -> str:
    """How often each fate occurs, and how the networks of each fate forget."""
    number = result.families[0].fates.size
    lines = [
        f"{number} networks of each kind: {number // (result.leaks.size * result.gains.size)} at each gain and leak",
        "network  fate of the largest basin   networks   several  median conditional exponent   forget   distance left",
    ]
    for family in result.families:
        for index, fate in enumerate(FATES):
            of = family.fates == index
            if not of.any():
                continue
            lines.append(
                f"{family.name:<8} {fate:<27} {of.sum():8d}   {np.sum(of & (family.num_attractors > 1)):7d}   "
                f"{np.median(family.conditional[of]):27.3f}   {np.mean(family.conditional[of] < 0):6.0%}   "
                f"{np.median(family.distance_left[of]):13.1g}"
            )
        chaotic = (family.fates == FATES.index("chaotic")) & (family.conditional < 0)
        lines.append(
            f"{family.name:<8} chaotic alone, but forgetful under input: {chaotic.sum()}; initial states without a "
            f"verdict: {family.undecided.mean():.1%}"
        )
        moving = (family.fates != FATES.index("fixed point")).mean(axis=0)
        shares = "; ".join(
            f"leak {leak:g}: " + " ".join(f"{share:.1f}" for share in row) for leak, row in zip(result.leaks, moving)
        )
        lines.append(f"{family.name:<8} share that does not settle, by gain: {shares}")
    return "\n".join(lines)


def plot(result: Regimes) -> Figure:
    """Fates over gain and leak; the conditional exponent there; and the exponent for each fate."""
    num, num_leaks = len(result.families), result.leaks.size
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 1.2 + 0.75 * num_leaks + 3.3))
    grid = figure.add_gridspec(num_leaks + 2, num, height_ratios=[0.75] * num_leaks + [1.5, 1.5])
    for column, family in enumerate(result.families):
        for row, leak in enumerate(result.leaks):
            ax = figure.add_subplot(grid[row, column])
            draw_fates(ax, family, row)
            ax.set_xticks(range(result.gains.size), [f"{g:g}" for g in result.gains] if row == num_leaks - 1 else [])
            ax.set_yticks([0, 1])
            if row == 0:
                ax.set_title(f"{'abc'[column]}  {family.name}")
            if column == 0:
                ax.set_ylabel(f"share,\nleak {leak:g}")
            else:
                ax.tick_params(labelleft=False)
        ax.set_xlabel("gain $g$")
        middle, bottom = (figure.add_subplot(grid[num_leaks + k, column]) for k in (0, 1))
        draw_exponents(middle, family, result.leaks)
        middle.set_xticks(range(result.gains.size), [f"{g:g}" for g in result.gains])
        middle.set(title=f"{'def'[column]}  under random input", xlabel="gain $g$")
        if column == num - 1:
            middle.legend(loc="lower right")
        draw_forgetting(bottom, family)
        bottom.set_title(f"{'ghi'[column]}  by fate without input")
        if column == 0:
            for ax in (middle, bottom):
                ax.set_ylabel("conditional exponent\n(nats per step)")
    present = [fate for i, fate in enumerate(FATES) if any(np.any(f.fates == i) for f in result.families)]
    handles: list = [Patch(color=plotting.REGIME_COLORS[fate], label=fate) for fate in present]
    dot = Line2D([], [], marker="o", color="white", markersize=4, mec="black", mew=0.6, linestyle="")
    dot.set_label("several attractors")
    figure.legend(handles=[*handles, dot], loc="outside upper center", ncols=len(handles) + 1)
    return figure


def draw_fates(ax: Any, family: Family, row: int) -> None:
    """Shares of the networks of one leak, over the gain."""
    fates = family.fates[:, row]
    places, bottom = np.arange(fates.shape[1]), np.zeros(fates.shape[1])
    for index, fate in enumerate(FATES):
        share = np.mean(fates == index, axis=0)
        ax.bar(places, share, bottom=bottom, width=0.92, color=plotting.REGIME_COLORS[fate])
        bottom += share
    several = np.mean(family.num_attractors[:, row] > 1, axis=0)
    ax.plot(places[several > 0], several[several > 0], "o", color="white", markersize=3.5, mec="black", mew=0.6)
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(0, 1.1))


def draw_exponents(ax: Any, family: Family, leaks: np.ndarray) -> None:
    """The conditional exponent over the gain, for every leak."""
    places = np.arange(family.conditional.shape[2])
    for row, style in zip(range(family.conditional.shape[1]), itertools.cycle(("-", "--", ":"))):
        values = family.conditional[:, row]
        shift = 0.16 * (row - (family.conditional.shape[1] - 1) / 2)
        for one in values:
            ax.plot(places + shift, one, "o", color=plotting.COLORS["grey"], markersize=1.8, mew=0)
        label = f"leak {leaks[row]:g}"
        ax.plot(places + shift, np.median(values, axis=0), style, color="black", linewidth=1.2, label=label)
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)


def draw_forgetting(ax: Any, family: Family) -> None:
    """The conditional exponent of every network, by its fate without input."""
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, family.fates.shape)
    for index, fate in enumerate(FATES):
        of = family.fates == index
        color = plotting.REGIME_COLORS[fate] if fate != "undecided" else plotting.COLORS["grey"]
        ax.plot(index + jitter[of], family.conditional[of], "o", color=color, markersize=3, alpha=0.8, mew=0)
    ax.axhline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set_xticks(range(len(FATES)), SHORT)
    ax.set_xlim(-0.6, len(FATES) - 0.4)
