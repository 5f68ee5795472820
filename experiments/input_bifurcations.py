"""The fold that makes a memory switch: a trained flip-flop network as its input pulse is turned on.

A network of 100 tanh units learns to hold two bits. At zero input each of its four memories is a stable fixed point.
While a pulse is held, the memory that it contradicts moves towards a saddle, meets it at a fold and is gone; the state
then travels to the other memory. The fold is thus the weakest input that switches, however long it is held. Just above
it the state passes slowly through the place where the memory was, in about $\\pi / \\sqrt{a b (u - u^*)}$ steps (the
passage time of $\\xi' = \\xi + b (u - u^*) + a \\xi^2$), and shorter pulses have to be stronger.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, Seed, check
from experiments._training import train_networks
from rnndyn import plotting

CAPTION = """The fold that makes a memory switch.

One network of 100 tanh units.

- **a** fixed points of a two-bit memory over a held input, seen through the output of bit 1: solid stable, dashed
  unstable, orange dots the folds at u*.
- **b** steps until bit 1 switches over the distance from the fold, for both values of bit 2 (circles, crosses);
  lines, the passage time of the normal form, which holds near the fold alone.
- **c** weakest pulse that switches, in units of u*, over how long it lasts; grey, u*.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 100
    num_steps: int = 48
    """Length of a trial."""
    pulse_probability: Fraction = 0.15
    """Of a pulse per bit and step."""
    batch_size: int = 32
    num_updates: int = 600
    learning_rate: float = 3e-3
    """At the start; it falls to a hundredth along a cosine."""
    num_candidates: int = 128
    """Starting points of the search for fixed points, drawn from visited states."""
    max_input: float = 0.06
    """Up to which held inputs are followed."""
    num_excesses: int = 25
    """Inputs above the fold at which the switch is timed, spaced evenly in their logarithm."""
    durations: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    """Lengths of pulses, in steps, whose smallest sufficient strength is bisected."""
    max_wait: int = 4000
    """Steps after which a state that has not switched is taken to stay."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    num_units=12, num_steps=12, batch_size=8, num_updates=60, num_candidates=64, num_excesses=3, durations=(1, 8)
)


class InputBifurcations(rd.Result):
    """What a held input does to the memories of one network."""

    validation_loss: float
    fixed_points: rd.FixedPoints
    readout: np.ndarray
    """Weights (2, N + 1) of the two bits, the bias last."""
    branches: tuple[rd.Branch, ...]
    """Every curve of fixed points over the first input that passes through one at zero input."""
    second_bits: np.ndarray
    """The other bit, -1 or 1, of each memory whose first bit is -1."""
    thresholds: np.ndarray
    """The parameter of the fold at which each of these memories ends."""
    rates: np.ndarray
    """a b of the normal form at each of these folds."""
    excesses: np.ndarray
    waits: np.ndarray
    """Steps until the bit has switched, for each memory and each input `threshold + excess`."""
    durations: np.ndarray
    strengths: np.ndarray
    """The weakest pulse that switches the bit, for each memory and duration."""


def compute(config: Config) -> InputBifurcations:
    """Train the network, follow its fixed points over the input, and time its switches."""
    fit_key, trial_key, candidate_key = jax.random.split(jax.random.key(config.seed), 3)
    fitted, states = train(config, fit_key, trial_key)
    cell, readout = fitted.model.cell, fitted.model.readout
    found = rd.find_fixed_points(
        rd.as_map(cell), rd.sample_candidates(states, config.num_candidates, key=candidate_key), progress=False
    )
    read = np.concatenate([readout.weight, readout.bias[:, None]], axis=1).astype(float)
    over_input = rd.input_parameter(cell, np.zeros(2), np.array([1.0, 0.0]))
    span = (-config.max_input, config.max_input)
    branches: list[rd.Branch] = []
    for point in found.points:
        branch = rd.continue_fixed_points(over_input, point, 0.0, span)
        # A curve through several of the points ends where it has ended before.
        if not any(same_ends(branch, other) for other in branches):
            branches.append(branch)
    memories = found.points[found.is_stable]
    bits = memories @ read[:, :-1].T + read[:, -1]
    starts, folds, second_bits = [], [], []
    for memory, (first, second) in zip(memories, bits):
        if first > 0:
            continue
        branch = rd.continue_fixed_points(over_input, memory, 0.0, span)
        after = [event for event in branch.of_kind("fold") if event.index >= branch.start]
        if after:
            starts.append(memory)
            second_bits.append(np.sign(second))
            folds.append(after[0])
    thresholds = np.array([fold.parameter for fold in folds])
    excesses = np.geomspace(1e-2, 10, config.num_excesses)[None] * thresholds[:, None]
    waits = np.zeros_like(excesses)
    strengths = np.zeros((len(folds), len(config.durations)))
    with jax.enable_x64(True):
        network = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, over_input)
        for k, start in enumerate(starts):
            waits[k] = switch_times(network, start, thresholds[k] + excesses[k], read[0], config.max_wait)
            strengths[k] = switching_strengths(network, start, np.array(config.durations), read[0])
    return InputBifurcations(
        validation_loss=float(fitted.history.validation_losses[-1]),
        fixed_points=found,
        readout=read,
        branches=tuple(branches),
        second_bits=np.array(second_bits),
        thresholds=thresholds,
        rates=np.array([fold.coefficient * input_effect(over_input, fold) for fold in folds]),
        excesses=excesses,
        waits=waits,
        durations=np.array(config.durations),
        strengths=strengths,
    )


def train(config: Config, fit_key: Any, trial_key: Any) -> tuple[Any, np.ndarray]:
    """The trained network, and states that it visits."""
    task = {"num_bits": 2, "num_steps": config.num_steps, "pulse_probability": config.pulse_probability}
    trained = train_networks(
        "flip_flop",
        task,
        lambda key: rd.VanillaCell(2, config.num_units, key=key),
        2,
        tuple(jax.random.split(fit_key)),
        num_networks=1,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        num_validation=128,
        num_looks=6,
    )
    fitted = trained.member(0)
    trials = rd.tasks.batches("flip_flop", 64, **task)(trial_key)
    return fitted, np.asarray(eqx.filter_vmap(fitted.model.states)(trials.inputs))


def same_ends(a: rd.Branch, b: rd.Branch) -> bool:
    """Whether two curves end at the same points, which are polished to rounding, in either order."""
    return any(
        np.allclose(a.points[[0, -1]], b.points[order], atol=1e-6)
        and np.allclose(a.parameters[[0, -1]], b.parameters[order])
        for order in ([0, -1], [-1, 0])
    )


def input_effect(f: Any, fold: rd.Bifurcation) -> float:
    """b = <p, dF/du>: how fast the unfolding parameter of the normal form grows with the input."""
    with jax.enable_x64(True):
        jacobian, by_input = (np.asarray(d) for d in jax.jacfwd(f, (0, 1))(jnp.asarray(fold.point), fold.parameter))
    left, _, right = np.linalg.svd(jacobian - np.eye(len(jacobian)))
    q, p = right[-1], left[:, -1]
    # As in `Bifurcation.coefficient`: q of length one, its largest entry positive, and <p, q> = 1.
    q = q * np.sign(q[np.argmax(np.abs(q))])
    return float(p @ by_input / (p @ q))


@eqx.filter_jit
def switch_times(f: Any, start: Any, inputs: Any, read: Any, max_wait: int) -> Any:
    """Steps until the bit that `read` reads turns positive, from `start` under each held input; at most `max_wait`."""

    def one(u):
        def waiting(carry):
            x, count = carry
            return (read[:-1] @ x + read[-1] < 0) & (count < max_wait)

        return jax.lax.while_loop(waiting, lambda carry: (f(carry[0], u), carry[1] + 1), (jnp.asarray(start), 0))[1]

    return jax.vmap(one)(jnp.asarray(inputs))


@eqx.filter_jit
def switching_strengths(f: Any, start: Any, durations: Any, read: Any) -> Any:
    """The weakest pulse of each duration after which the bit is positive in the end, by bisection in (0, 4)."""

    def ends_positive(u, duration):
        held = lambda k, x: f(x, jnp.where(k < duration, u, 0.0))
        # 300 steps without input: memories attract with time constants of a few steps.
        x = jax.lax.fori_loop(0, duration + 300, held, jnp.asarray(start))
        return read[:-1] @ x + read[-1] > 0

    def one(duration):
        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            enough = ends_positive(middle, duration)
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        low, high = jax.lax.fori_loop(0, 30, halve, (0.0, 4.0))
        return (low + high) / 2

    return jax.lax.map(one, jnp.asarray(durations))


def report(result: InputBifurcations) -> str:
    """Thresholds, the passage time against the normal form, and the residuals."""
    counts = np.bincount(result.fixed_points.num_unstable, minlength=3)
    lines = [
        f"validation MSE {result.validation_loss:.3g}; fixed points at zero input with 0, 1, 2 unstable directions: "
        + ", ".join(map(str, counts[:3])),
        f"{len(result.branches)} curves of fixed points over the first input, {sum(map(len, result.branches))} points, "
        f"largest residual {max((b.residuals.max() for b in result.branches), default=0):.1e}",
        "bit 2   weakest input u*    steps at u* + 1%   normal form   weakest one-step pulse",
    ]
    for k, threshold in enumerate(result.thresholds):
        predicted = np.pi / np.sqrt(result.rates[k] * result.excesses[k, 0])
        lines.append(
            f"{result.second_bits[k]:>+6.0f}  {threshold:.12f}  {result.waits[k, 0]:16.0f}   {predicted:11.0f}   "
            f"{result.strengths[k, 0]:.4f}"
        )
    return "\n".join(lines)


def plot(result: InputBifurcations) -> Figure:
    """The diagram, the slow passage, and strength against duration."""
    figure, axes = plt.subplots(1, 3, figsize=(plotting.PAGE_WIDTH, 2.4))
    draw_diagram(axes[0], result)
    names = [f"bit 2 is ${bit:+.0f}$" for bit in result.second_bits]
    styles = zip(names, ("blue", "orange"), ("o", "x"), (5, 4))
    for (name, color, marker, size), threshold, rate, excess, waits, strengths in zip(
        styles, result.thresholds, result.rates, result.excesses, result.waits, result.strengths
    ):
        style = {"color": plotting.COLORS[color], "markersize": size, "markerfacecolor": "none", "label": name}
        axes[1].loglog(excess, waits, marker, **style)
        axes[1].loglog(excess, np.pi / np.sqrt(rate * excess), color=plotting.COLORS[color], linewidth=0.8)
        axes[2].semilogx(result.durations, strengths / threshold, marker + "-", linewidth=0.8, **style)
    axes[1].set(title="b  steps to switch", xlabel="$u_1 - u^*$", ylabel="steps until bit 1 switches")
    axes[2].axhline(1, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    axes[2].set(title="c  weakest pulse", xlabel="duration (steps)", ylabel="amplitude $/\\ u^*$", yscale="log")
    axes[2].set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[2].minorticks_off()
    if result.thresholds.size:
        axes[1].legend(title=r"lines: $\pi/\sqrt{ab(u_1 - u^*)}$", title_fontsize=7)
        axes[2].legend()
    else:
        for ax in axes[1:]:
            ax.text(0.5, 0.5, "no memory ends at a fold", transform=ax.transAxes, ha="center", va="center")
    return figure


def draw_diagram(ax: Any, result: InputBifurcations) -> None:
    """The first output of every fixed point over the first input."""
    read = result.readout[0]
    plotting.plot_bifurcation_diagram(result.branches, lambda x: x @ read[:-1] + read[-1], ax=ax)
    ax.axvline(0, color=plotting.COLORS["grey"], linewidth=0.6, zorder=0)
    ax.set(title="a  fixed points", xlabel="held input $u_1$", ylabel="output of bit 1")
    ax.set_xticks([-0.05, 0, 0.05])
    ax.legend(loc="center left")
