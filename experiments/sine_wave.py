"""A sine generator lives on an invariant circle for each input (Sussillo & Barak 2013).

One network turns a constant input into a sine wave of the frequency that the input asks for. With the input held, its
states settle on a closed curve on which they never repeat: no search for periodic points can find it. Inside the
curve is one unstable fixed point whose complex pair of multipliers turns at nearly the pace of the curve.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Seed, check, check_order
from rnndyn import plotting

CAPTION = """A sine generator lives on an invariant circle for each input (Sussillo & Barak 2013).

One GRU network. Colour, from violet to yellow: the input that is held, from low to high frequency.

- **a** output at three inputs over the target (grey).
- **b** the invariant circles and, as crosses, the unstable fixed point inside each, in three principal components.
- **c** frequency over the input: grey line, what was trained; blue circles, the rotation number of the curve; orange
  crosses, the angle of the leading multiplier of the fixed point.
- **d** that multiplier in the complex plane; grey, the unit circle.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 32
    num_steps: int = 100
    num_frequencies: int = 51
    min_frequency: float = 0.1
    max_frequency: float = 0.6
    """Of the targets, radians per step."""
    num_updates: int = 1800
    batch_size: int = 32
    learning_rate: float = 1e-2
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    levels: tuple[int, ...] = (1, 6, 11, 16, 21, 26, 31, 36, 41, 46, 51)
    """Which of the frequencies to analyse."""
    num_candidates: int = 128
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "min_frequency", "max_frequency")
        check_order(self, "levels", "num_frequencies")


SMOKE = Config(num_units=6, num_steps=12, num_updates=3, batch_size=4, levels=(1,), num_candidates=16)


class InputLevel(rd.Result):
    """What one held input does.

    - `level`: the input.
    - `target`: the trained frequency, radians per step.
    - `circle`: what the states settle on.
    - `fixed_points`: all that were found.
    """

    level: float
    target: float
    circle: rd.InvariantCircle
    fixed_points: rd.FixedPoints

    @property
    def frequency(self) -> float:
        """How fast the states turn, radians per step; zero at a fixed point."""
        return 2 * np.pi * self.circle.rotation_number

    @property
    def nearest(self) -> int:
        """Which fixed point is the closest to the mean of the curve (to the state 0 where there is none)."""
        middle = self.circle.mean if self.circle.converged else np.zeros(self.fixed_points.points.shape[1])
        return int(np.argmin(np.linalg.norm(self.fixed_points.points - middle, axis=1)))

    @property
    def inside(self) -> np.ndarray:
        """That fixed point."""
        return self.fixed_points.points[self.nearest]

    @property
    def pair(self) -> complex:
        """Its leading multiplier, in the upper half plane."""
        leading = self.fixed_points.multipliers[self.nearest, 0]
        return complex(leading.real, abs(leading.imag))


class SineWave(rd.Result):
    """The network at every input level."""

    validation_loss: float
    levels: tuple[InputLevel, ...]
    example_outputs: np.ndarray
    example_targets: np.ndarray


def compute(config: Config) -> SineWave:
    """Train the network, then look at every input level by itself."""
    cell_key, readout_key, fit_key, test_key, search_key = jax.random.split(jax.random.key(config.seed), 5)
    cell = rd.GRUCell(1, config.num_units, key=cell_key)
    task = {
        "num_steps": config.num_steps,
        "num_frequencies": config.num_frequencies,
        "min_frequency": config.min_frequency,
        "max_frequency": config.max_frequency,
    }
    fitted = rd.fit(
        rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key)),
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches("sine_wave", config.batch_size, **task),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01)),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        key=fit_key,
    )
    model = fitted.last_model
    test = rd.tasks.batches("sine_wave", 64, **task)(test_key)
    outputs = np.asarray(eqx.filter_jit(eqx.filter_vmap(model))(test.inputs))
    states = np.asarray(eqx.filter_jit(eqx.filter_vmap(model.states))(test.inputs))
    candidates = rd.sample_candidates(states, config.num_candidates, key=search_key, noise=0.1)
    frequencies = np.linspace(config.min_frequency, config.max_frequency, config.num_frequencies)
    levels = []
    for index in config.levels:
        level = index / config.num_frequencies + 0.25
        f = rd.as_map(model.cell, np.array([level]))
        levels.append(
            InputLevel(
                level=level,
                target=float(frequencies[index - 1]),
                circle=rd.find_invariant_circle(f, np.asarray(states[0, -1]), progress=False),
                fixed_points=rd.find_fixed_points(f, candidates, until_complete=True, progress=False),
            )
        )
    order = np.argsort(np.asarray(test.inputs)[:, 0, 0])
    chosen = order[[0, len(order) // 2, -1]]
    return SineWave(
        validation_loss=float(np.mean((outputs - np.asarray(test.targets)) ** 2)),
        levels=tuple(levels),
        example_outputs=outputs[chosen, :, 0],
        example_targets=np.asarray(test.targets)[chosen, :, 0],
    )


def report(result: SineWave) -> str:
    """One row for each input level."""
    lines = [
        f"mean squared error on new trials: {result.validation_loss:.1e}",
        "input   trained    settles on         turns at   residual  largest normal  fixed points  pair: modulus, angle",
        "        (rad/step)                    (rad/step)           multiplier      (stable)",
    ]
    for one in result.levels:
        largest = float(one.circle.multipliers[0]) if one.circle.multipliers.size else float("nan")
        pair = one.pair
        lines.append(
            f"{one.level:.3f}  {one.target:10.4f}  {one.circle.kind:17}  {one.frequency:10.5f}  "
            f"{one.circle.residual:8.1e}  {largest:14.4f}  "
            f"{len(one.fixed_points):6d} ({one.fixed_points.is_stable.sum()})    {abs(pair):8.4f}, {np.angle(pair):.4f}"
        )
    return "\n".join(lines)


def plot(result: SineWave) -> Figure:
    """Outputs, the curves of all inputs with the fixed points inside, frequencies, and the complex pairs."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 2.5))
    grid = figure.add_gridspec(1, 4, width_ratios=[1, 1.35, 1, 1])
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(result.levels)))
    draw_outputs(figure.add_subplot(grid[0]), result, colors)
    draw_curves(figure.add_subplot(grid[1], projection="3d"), result, colors)
    draw_frequencies(figure.add_subplot(grid[2]), result)
    draw_pairs(figure.add_subplot(grid[3]), result, colors)
    return figure


def draw_outputs(ax: Any, result: SineWave, colors: Any) -> None:
    """Three trials: targets and outputs."""
    for row, (output, target) in enumerate(zip(result.example_outputs, result.example_targets)):
        color = colors[[0, len(colors) // 2, -1][row]]
        ax.plot(target - 2.6 * row, color=plotting.COLORS["grey"], linewidth=2.2, alpha=0.5)
        ax.plot(output - 2.6 * row, color=color, linewidth=0.9)
    ax.set(title="a  output and target", xlabel="step $t$", yticks=[])
    ax.spines["left"].set_visible(False)


def draw_curves(ax: Any, result: SineWave, colors: Any) -> None:
    """Invariant circles in three principal components, with the fixed points inside."""
    curves = [one.circle.curve(np.linspace(0, 1, 257)) for one in result.levels if one.circle.converged]
    if not curves:
        # An untrained network: all states settle on fixed points.
        ax.set_axis_off()
        return
    projection = plotting.principal_components(np.concatenate(curves), 3)
    for one, color in zip(result.levels, colors):
        if one.circle.converged:
            ax.plot(*projection(one.circle.curve(np.linspace(0, 1, 257))).T, color=color, linewidth=1.1)
        ax.plot(*projection(one.inside).T, "X", color=color, markersize=4, markeredgewidth=0)
    ax.set_title("b  curves, fixed points", y=1.0)
    for axis, name in zip((ax.xaxis, ax.yaxis, ax.zaxis), ("PC 1", "PC 2", "PC 3")):
        axis.set_ticklabels([])
        axis.set_tick_params(length=0)
        axis.pane.set_facecolor("white")
        axis.pane.set_edgecolor("#DDDDDD")
        axis._axinfo["grid"].update(color="#EEEEEE", linewidth=0.5)
        axis.set_label_text(name)
        axis.labelpad = -12
    ax.set_box_aspect(None, zoom=0.95)


def draw_frequencies(ax: Any, result: SineWave) -> None:
    """Frequencies against the input: trained, on the curve, and of the complex pair."""
    levels = [one.level for one in result.levels]
    ax.plot(levels, [one.target for one in result.levels], color=plotting.COLORS["grey"], label="trained")
    ax.plot(levels, [one.frequency for one in result.levels], "o", color=plotting.COLORS["blue"], label="curve")
    ax.plot(
        levels,
        [np.angle(one.pair) for one in result.levels],
        "X",
        color=plotting.COLORS["orange"],
        markeredgewidth=0,
        label=r"$\arg\,\mu$",
    )
    ax.set(title="c  frequency", xlabel="input $u$", ylabel=r"$\omega$ (rad per step)", ylim=(0, None))
    ax.legend(loc="lower right", borderpad=0, handletextpad=0.3)


def draw_pairs(ax: Any, result: SineWave, colors: Any) -> None:
    """The leading multipliers of the fixed points inside, outside the unit circle."""
    angle = np.linspace(-0.12, 1.0, 100)
    ax.plot(np.cos(angle), np.sin(angle), color=plotting.COLORS["grey"], linewidth=0.8)
    ax.text(0.58, 0.5, r"$|\mu| = 1$", color=plotting.COLORS["grey"])
    for one, color in zip(result.levels, colors):
        ax.plot(one.pair.real, one.pair.imag, "X", color=color, markeredgewidth=0, markersize=4.5)
    ax.set(title="d  complex pair", xlabel=r"Re $\mu$", ylabel=r"Im $\mu$", xlim=(0.5, 1.35), ylim=(-0.1, 0.95))
