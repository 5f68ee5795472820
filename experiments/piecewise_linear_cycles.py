"""Every cycle of small piecewise-linear networks, with proof (Eisenmann, Monfared, Göring & Durstewitz 2023).

Between its ReLU borders such a network is linear, so a cycle is a sequence of linear regions and one linear system. All
admissible sequences are searched: the lists are complete. The cycles of the shallow network with two units are all
unstable up to period 6, and its states wander for a thousand steps before they leave for good. Two planar networks have
a stable cycle of period 16 and 27, beside an unstable one of the same period.
"""

import dataclasses
from typing import Annotated, Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Seed, check, one_of
from rnndyn import plotting

CAPTION = """Every cycle of small piecewise-linear networks, with proof (Eisenmann et al. 2023).

- **a** a shallow network of two units: grey lines, borders of its linear regions; grey dots, states on the way; its
  cycles of period 2 (orange) and 4 (blue).
- **b** cycles of each period: bars, proved here; circles, those that the tests of the authors' program SCYFI ask
  for.
- **c** share of states that have not left yet, by step, with the fitted decay.
- **d, e** two planar networks with a stable (black) and an unstable (orange) cycle of the same period, and the fixed
  point (cross); grey lines, borders.
"""

SCYFI = {1: 0, 2: 2, 3: 0, 4: 1}
"""Cycles of the shallow network by period that the tests of SCYFI ask for (test/shPLRNN_tests.jl in the authors'
program, test_finding_2_cycle_4_cycle_M2_H10 and its _nothing); they say nothing of longer ones."""

SHALLOW: dict[str, Any] = {
    "diagonal": [0.6172450705591427, 0.5261273846061184],
    "weight_hh": [
        [
            *[-1.022331291385995, -0.6068651009735164, 0.005478115970447768, -0.6765758765817282, 0.17667276783032312],
            *[-0.37241595029711383, -0.2799681077442852, 1.6336122869854053, 0.7388068389577566, 0.43655916960874785],
        ],
        [
            *[-0.23031703096807454, -0.155167269588236, 1.1743020054655264, 1.4693401983283279, -1.141192841208352],
            *[0.11938698490497139, 0.6192500266755361, 0.03950302999313116, -0.9179498107708933, -0.1216362805456489],
        ],
    ],
    "bias": [-0.5480895548836227, -0.2922735885352696],
    "hidden_weight": [
        [1.753949852408234, -0.692574927107241],
        [-0.45303568496148183, -0.5365936668032565],
        [0.07984706960954363, -0.48651643130319855],
        [-1.0455124065967838, -0.22986736948781128],
        [0.048362883726876985, 0.8959123953895494],
        [-1.0545422354241465, 0.5685368747406444],
        [-0.43826625604171476, -2.1955495493951815],
        [-0.8981129185384389, -0.6454540072455006],
        [0.6162103523913983, -0.8644618121879155],
        [-1.2236281701654421, -2.059927291272103],
    ],
    "hidden_bias": [
        *[0.5352937111114038, -1.110030373073419, -1.3146036515301616, 0.2748467715335772, -1.4155203620983157],
        *[0.7891282169615852, -0.13084812694281087, -0.40652418385647066, -0.9383323642698853, -0.9983356016811977],
    ],
}
"""The published shallow network, two units and ten ReLUs (a test system of SCYFI, the authors' program)."""

PLANAR = {16: (0.8377689, -0.64375), 27: (0.9777689, -0.14375)}
"""A_11 and W_12 of the two planar networks, by the period of their long cycles: test_finding_16_cycle_2D and
test_finding_27_cycle_2D of SCYFI (test/convPLRNN_tests.jl), which ask for two cycles of that period each."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    max_period: int = 6
    """Of the shallow network."""
    planar_periods: tuple[Annotated[int, one_of(PLANAR)], ...] = (16, 27)
    """Which planar networks; each is searched up to its period."""
    num_starts: int = 20_000
    """States of the square |z| <= `extent` that are followed."""
    extent: float = 40.0
    num_steps: int = 8000
    num_seen: int = 120
    """Steps shown of one of them."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(max_period=2, planar_periods=(16,), num_starts=50, num_steps=20, num_seen=10)


class PiecewiseLinearStudy(rd.Result):
    """All cycles found.

    - `shallow`: of the shallow network.
    - `planar`: of the planar ones.
    - `surviving`: the share of states of the shallow network still within 25 times the square, after each step.
    - `wandering`: the states of the one that stays longest, from its start.
    - `borders`: lines w . z + b = 0 between the linear regions of the shallow network, rows (w_1, w_2, b).
    """

    shallow: rd.EnumeratedCycles
    planar: tuple[rd.EnumeratedCycles, ...]
    surviving: np.ndarray
    wandering: np.ndarray
    borders: np.ndarray

    @property
    def lifetime(self) -> float:
        """Steps in which the number of states that stay falls by e, over the later half of what is left."""
        kept = np.flatnonzero((self.surviving < 0.5) & (self.surviving > 0.01))
        if kept.size < 2:
            return float("nan")
        return float(-1 / np.polyfit(kept, np.log(self.surviving[kept]), 1)[0])


def compute(config: Config) -> PiecewiseLinearStudy:
    """Enumerate the cycles of every network, and follow states of the shallow one."""
    # The published weights have sixteen digits.
    with jax.enable_x64(True):
        weights: dict[str, Any] = {name: np.array(value) for name, value in SHALLOW.items()}
        shallow = rd.PiecewiseLinearCell.from_weights(**weights)
        planar = [planar_network(*PLANAR[period]) for period in config.planar_periods]
        surviving, wandering = follow(rd.as_map(shallow), config)
    return PiecewiseLinearStudy(
        shallow=rd.enumerate_cycles(shallow, None, config.max_period, progress=False),
        planar=tuple(
            rd.enumerate_cycles(cell, None, period, progress=False)
            for cell, period in zip(planar, config.planar_periods)
        ),
        surviving=surviving,
        wandering=wandering,
        borders=np.column_stack([SHALLOW["hidden_weight"], SHALLOW["hidden_bias"]]),
    )


def planar_network(a11: float, w12: float) -> rd.PiecewiseLinearCell:
    """z' = A z + W relu(z) + h with the numbers that both networks of the tests of SCYFI share."""
    return rd.PiecewiseLinearCell.from_weights(
        np.array([a11, 0.96461297]), np.array([[0.0, w12], [0.52505308, 0.0]]), np.array([0.37298253, -0.97931491])
    )


def follow(f: Any, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """How many random states are still around after each step, and the orbit of the one that stays longest."""
    starts = np.random.default_rng(config.seed).uniform(-config.extent, config.extent, (config.num_starts, 2))

    @jax.jit
    def run(states: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            states, stayed, age = carry
            states = jax.vmap(f)(states)
            stayed = stayed & (abs(states).max(axis=1) < 25 * config.extent)
            # What has left is kept from overflowing.
            return (jax.numpy.where(stayed[:, None], states, 0.0), stayed, age + stayed), stayed.mean()

        first = (states, jax.numpy.ones(len(states), bool), jax.numpy.zeros(len(states), int))
        (_, _, age), surviving = jax.lax.scan(step, first, length=config.num_steps)
        return surviving, age

    surviving, age = run(starts)
    longest = starts[int(np.argmax(age))]
    orbit = rd.trajectory(f, longest, config.num_seen)
    return np.asarray(surviving), np.asarray(orbit)


def report(result: PiecewiseLinearStudy) -> str:
    """Cycles by period beside those of the authors' program."""
    lines = ["shallow network, 2 units, 10 ReLUs", "period  cycles   SCYFI  proved  spectral radii"]
    for cycles in result.shallow:
        radii = ", ".join(f"{radius:.4f}" for radius in cycles.spectral_radii)
        theirs = SCYFI.get(cycles.period, "-")
        lines.append(f"{cycles.period:6d}  {len(cycles):6d}  {theirs:>6}  {cycles.proved!s:6}  {radii}")
    lines.append(
        f"states of the square that stay: a lifetime of {result.lifetime:.0f} steps (no cycle found is stable)"
    )
    for cycles in result.planar:
        found = {period: count for period, count in cycles.counts.items() if count}
        longest = list(cycles)[-1]
        lines.append(
            f"planar network: cycles by period {found}, every other period up to {longest.period} none; "
            f"proved {cycles.proved}; spectral radii {', '.join(f'{r:.4f}' for r in longest.spectral_radii)}"
        )
    return "\n".join(lines)


def plot(result: PiecewiseLinearStudy) -> Figure:
    """The shallow network in the plane, its cycles by period, how states leave it, and the planar networks."""
    num_planar = len(result.planar)
    figure, axes = plt.subplots(
        1, 3 + num_planar, figsize=(plotting.PAGE_WIDTH, 1.95), width_ratios=[1.25, 0.75, 0.9, *[1.1] * num_planar]
    )
    draw_shallow(axes[0], result)
    draw_counts(axes[1], result)
    draw_survival(axes[2], result)
    for place, (ax, cycles) in enumerate(zip(axes[3:], result.planar)):
        draw_planar(ax, cycles)
        ax.set_title(f"{'de'[place]}  period {list(cycles)[-1].period}")
    # Left of the ring there is room for the legend of both.
    axes[3].legend(loc="upper left", fontsize=6, handlelength=0.8, labelspacing=0.2, borderpad=0)
    return figure


def draw_shallow(ax: Any, result: PiecewiseLinearStudy) -> None:
    """The plane of the shallow network: borders of regions, a wandering orbit, the cycles."""
    ends = np.array([-60.0, 60.0])
    for w1, w2, b in result.borders:
        along = (ends, -(w1 * ends + b) / w2) if abs(w2) > abs(w1) else (-(w2 * ends + b) / w1, ends)
        ax.plot(*along, color="#D9D9D9", linewidth=0.5, zorder=0)
    ax.plot(*result.wandering.T, ".", color=plotting.COLORS["grey"], markersize=1.5, zorder=1)
    styles = {2: ("o", "orange"), 4: ("s", "blue")}
    for cycles in result.shallow:
        marker, color = styles.get(cycles.period, ("v", "black"))
        for number, points in enumerate(cycles.points):
            closed = np.concatenate([points, points[:1]])
            ax.plot(
                *closed.T,
                marker + "-",
                color=plotting.COLORS[color],
                linewidth=0.7,
                markersize=3,
                label=f"period {cycles.period}" if number == 0 else None,
            )
    ax.set(xlim=(-45, 45), ylim=(-45, 45), xlabel="$z_1$", ylabel="$z_2$", title="a  shallow network")
    ax.legend(loc="lower right", fontsize=6, handlelength=1, borderpad=0, handletextpad=0.3)


def draw_counts(ax: Any, result: PiecewiseLinearStudy) -> None:
    """Cycles by period; those that the authors' program is tested on as rings."""
    periods, counts = list(result.shallow.counts), list(result.shallow.counts.values())
    ax.bar(periods, counts, color=plotting.COLORS["sky"], width=0.6, label="proved")
    ax.plot(
        [p for p in periods if p in SCYFI],
        [SCYFI[p] for p in periods if p in SCYFI],
        "o",
        markerfacecolor="none",
        markeredgecolor=plotting.COLORS["black"],
        label="SCYFI",
        clip_on=False,
    )
    ax.set(title="b  counts", xlabel="period $p$", ylabel="cycles", ylim=(0, 3), xticks=periods, yticks=range(4))
    ax.legend(loc="upper right", handlelength=1, borderpad=0)


def draw_survival(ax: Any, result: PiecewiseLinearStudy) -> None:
    """The share of states that have not left."""
    steps = np.arange(1, len(result.surviving) + 1)
    shown = result.surviving > 1e-3
    ax.semilogy(steps[shown], result.surviving[shown], color=plotting.COLORS["blue"])
    ax.set(title="c  transient", xlabel="step $t$", ylabel="share of states left", ylim=(1e-3, 1.3))
    if np.isfinite(result.lifetime):
        ax.text(0.95, 0.9, rf"$e^{{-t/{result.lifetime:.0f}}}$", transform=ax.transAxes, ha="right", va="top")


def draw_planar(ax: Any, cycles: rd.EnumeratedCycles) -> None:
    """The long cycles of a planar network, its fixed point, and the borders of its regions."""
    long = list(cycles)[-1]
    ax.axhline(0, color="#D9D9D9", linewidth=0.6, zorder=0)
    ax.axvline(0, color="#D9D9D9", linewidth=0.6, zorder=0)
    for points, stable in zip(long.points, long.is_stable):
        # A cycle of a rotation-like map visits its points out of order; around its middle they make a curve.
        offset = points - points.mean(axis=0)
        curve = points[np.argsort(np.arctan2(offset[:, 1], offset[:, 0]))]
        curve = np.concatenate([curve, curve[:1]])
        color = plotting.COLORS["black" if stable else "orange"]
        ax.plot(*curve.T, "-", color=color, linewidth=0.4, alpha=0.5)
        ax.plot(
            *points.T,
            "o" if stable else "D",
            color=color,
            markersize=3 if stable else 2.5,
            markeredgewidth=0,
            label="stable" if stable else "unstable",
        )
    for points in cycles[1].points:
        ax.plot(
            *points.T, "X", color=plotting.COLORS["sky"], markersize=4.5, markeredgecolor="white", label="fixed point"
        )
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
