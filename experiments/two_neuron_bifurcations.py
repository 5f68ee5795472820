r"""Two neurons: where their input makes them switch, oscillate or double, and a road to chaos (Haschke & Steil 2005).

The bifurcations of $x' = \tanh(W x + b)$ are known in the plane of its two inputs b: with the slopes $d_i = 1 - x_i^2$
the Jacobian has trace $d_1 w_{11} + d_2 w_{22}$ and determinant $d_1 d_2 \det W$, so a fold, a flip and a
Neimark-Sacker point each give $d_2$ as a function of $d_1$, and $b = \mathrm{artanh}(x) - W x$ for either sign of each
$x_i$ (Haschke & Steil 2005; Pasemann 2002). Curves found by continuation are set against these. Wang's network
$x' = \sigma(\mu W x)$ with W of rank one (Wang 1991) is a map of an interval; its period doubles until it is chaotic.
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
from experiments._settings import check, check_increasing
from rnndyn import plotting

CAPTION = """Two neurons: closed forms, and a road to chaos (Haschke & Steil 2005; Wang 1991).

- **a, b** bifurcations in the plane of the two inputs for two weight matrices: folds orange, Neimark-Sacker green,
  flips pink and dashed, found by continuation; small dots, closed forms; triangles, circles, diamonds: cusps and strong
  resonances.
- **c** Wang's network over its gain: above, what remains of an orbit; below, its largest exponent, blue where
  negative and orange where positive; dotted, flips, found by continuation.
- **d** how many times shorter each gap between flips is than the one before; dashed, Feigenbaum's constant.
"""

NETWORKS = {"a": ((2.0, -1.5), (1.5, 1.0)), "b": ((-2.0, 3.0), (-3.0, 0.5))}
"""Weights whose curves are drawn: folds and Neimark-Sacker points; flips and Neimark-Sacker points."""
WANG = ((-5.0, 5.0), (-25.0, 25.0))
FEIGENBAUM = 4.669201609
"""The limit of the ratios of gaps of every family of maps with a quadratic maximum (Feigenbaum 1978)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    window: float = 4.0
    """Inputs from -window to window."""
    num_lines: int = 5
    """Values of the second input at which bifurcations over the first are looked for."""
    gains: tuple[float, float] = (0.5, 4.5)
    """Of Wang's network."""
    depth: int = 7
    """Generations of its doublings that are continued: cycles of period 1, 2, 4, ..."""
    num_gains: int = 900
    """Of the orbit diagram."""
    num_states: int = 150
    num_steps: int = 3000
    """Of the average that is the exponent."""

    def __post_init__(self) -> None:
        check(self)
        check_increasing(self, "gains")


SMOKE = Config(num_lines=1, depth=1, num_gains=30, num_states=20, num_steps=200)


class Curves(rd.Result):
    """The bifurcations of one network in its input plane."""

    weights: np.ndarray
    curves: tuple[rd.BifurcationCurve, ...]
    deviation: float
    """The largest distance of a computed curve from the closed form."""
    missing: float
    """The fraction of the closed form, inside the window, that no computed curve passes."""


class TwoNeurons(rd.Result):
    """The input planes, and Wang's network."""

    planes: tuple[Curves, ...]
    doublings: np.ndarray
    """Gains at which cycles of period 1, 2, 4, ... flip."""
    diagram: rd.BifurcationDiagram
    orbits: rd.OrbitDiagram


class Plane(eqx.Module):
    """x' = tanh(W x + b) over b."""

    weights: np.ndarray

    def __call__(self, x: Any, b: Any) -> Any:
        return jnp.tanh(self.weights @ x + b)


class Line(eqx.Module):
    """x' = tanh(W x + b) over the first entry of b."""

    weights: np.ndarray
    second: np.ndarray

    def __call__(self, x: Any, p: Any) -> Any:
        return jnp.tanh(self.weights @ x + jnp.stack([jnp.asarray(p), jnp.asarray(self.second)]))


class Held(eqx.Module):
    """A line with its parameter held: one structure, so one compilation for all of them."""

    line: Line
    first: np.ndarray

    def __call__(self, x: Any) -> Any:
        return self.line(x, self.first)


class Wang(eqx.Module):
    """x' = sigma(mu W x) over mu."""

    weights: np.ndarray

    def __call__(self, x: Any, gain: Any) -> Any:
        return jax.nn.sigmoid(gain * (self.weights @ x))


def compute(config: Config) -> TwoNeurons:
    """The curves of both networks, and the diagrams of Wang's."""
    planes = tuple(find_curves(np.array(weights), config) for weights in NETWORKS.values())
    wang = Wang(np.array(WANG))
    start = np.asarray(rd.trajectory(lambda x: wang(x, 1.0), np.array([0.3, 0.8], np.float32), 1, num_transient=500))[0]
    diagram = rd.bifurcation_diagram(
        wang, start, 1.0, config.gains, depth=config.depth, max_period=2**config.depth, max_step=0.02
    )
    gains = np.linspace(*config.gains, config.num_gains)
    orbits = rd.orbit_diagram(
        wang, np.array([0.3, 0.8]), gains, num_states=config.num_states, num_steps=config.num_steps, progress=False
    )
    by_period = {branch.period: branch.of_kind("flip") for branch in reversed(diagram.branches)}
    doublings = [min(event.parameter for event in by_period[p]) for p in sorted(by_period) if by_period[p]]
    return TwoNeurons(planes, np.array(doublings), diagram, orbits)


def find_curves(weights: np.ndarray, config: Config) -> Curves:
    """Every curve that bifurcations over the first input, at some values of the second, lie on."""
    span = (-config.window, config.window)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.95, 0.95, 9)] * 2), axis=-1).reshape(-1, 2)
    curves: list[rd.BifurcationCurve] = []
    # Not zero: there the odd network has pitchforks.
    for second in np.linspace(-0.3, 0.3, config.num_lines) * config.window + 0.05:
        line = Line(weights, np.array(second))
        branches: list[rd.Branch] = []
        for first in (-0.5, 0.55):
            found = rd.find_fixed_points(Held(line, np.array(first)), grid, progress=False)
            for point in found.points:
                if any(passes(branch, point, first) for branch in branches):
                    continue
                branches.append(rd.continue_fixed_points(line, point, first, span))
                for event in branches[-1].bifurcations:
                    place = np.array([event.parameter, second])
                    if event.kind == "branch point" or any(holds(curve, event, place) for curve in curves):
                        continue
                    curves.append(rd.continue_bifurcation(Plane(weights), event, place, (span, span)))
    deviation = max((deviation_of(weights, curve) for curve in curves), default=np.nan)
    return Curves(weights, tuple(curves), deviation, missing_fraction(weights, curves, config.window))


def passes(branch: rd.Branch, point: np.ndarray, parameter: float) -> bool:
    """Whether a branch runs through a point: its own points there are at most 0.05 of the lengths apart."""
    there = np.abs(branch.parameters - parameter) / 8 + np.linalg.norm(branch.points - point, axis=1)
    return bool(there.min() < 0.06)


def holds(curve: rd.BifurcationCurve, event: rd.Bifurcation, place: np.ndarray) -> bool:
    """Whether an event lies on a curve, as far as its points tell: they are at most 0.05 of its width apart."""
    if curve.kind != event.kind:
        return False
    there = np.linalg.norm(curve.parameters - place, axis=1) + np.linalg.norm(curve.points - event.point, axis=1)
    return bool(there.min() < 0.4)


def second_slope(weights: np.ndarray, kind: str, first: np.ndarray) -> np.ndarray:
    """d_2 of a bifurcation with the slope d_1: where 1 - tr + det, 1 + tr + det or det - 1 vanishes."""
    det = np.linalg.det(weights)
    (a, _), (_, d) = weights
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "fold":
            return (1 - a * first) / (d - det * first)
        if kind == "flip":
            return -(1 + a * first) / (d + det * first)
        return 1 / (det * first)


def deviation_of(weights: np.ndarray, curve: rd.BifurcationCurve) -> float:
    """How far the points and inputs of a curve are from the closed form, at their own d_1."""
    slopes = 1 - curve.points**2
    inputs = np.arctanh(curve.points) - curve.points @ weights.T
    expected = second_slope(weights, curve.kind, slopes[:, 0])
    return float(max(np.abs(expected - slopes[:, 1]).max(), np.abs(inputs - curve.parameters).max()))


def closed_form(weights: np.ndarray, kind: str, window: float) -> list[np.ndarray]:
    """Inputs (M, 2) along every curve of a kind in the window; NaN between its pieces."""
    first = 1 / np.cosh(np.linspace(0, 8, 20_001)) ** 2
    second = second_slope(weights, kind, first)
    trace = first * weights[0, 0] + second * weights[1, 1]
    valid = (second > 0) & (second <= 1) & ((np.abs(trace) < 2) | (kind != "neimark-sacker"))
    x = np.sqrt(1 - np.stack([first, np.where(valid, second, np.nan)], axis=1))
    pieces = []
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        state = x * signs
        inputs = np.arctanh(state) - state @ weights.T
        inputs[np.abs(inputs).max(axis=1) > window] = np.nan
        pieces.append(inputs)
    return pieces


def missing_fraction(weights: np.ndarray, curves: list[rd.BifurcationCurve], window: float) -> float:
    """The part of the closed form farther from every computed curve of its kind than these have gaps."""
    missing, total = 0, 0
    for kind in ("fold", "flip", "neimark-sacker"):
        near = [curve.parameters for curve in curves if curve.kind == kind]
        for piece in closed_form(weights, kind, 0.98 * window):
            inputs = piece[np.isfinite(piece).all(axis=1)][::20]
            total += len(inputs)
            if near and len(inputs):
                points = np.concatenate(near)
                distances = np.min(np.linalg.norm(inputs[:, None] - points[None], axis=2), axis=1)
                missing += int(np.sum(distances > 0.08 * window))
            else:
                missing += len(inputs)
    return missing / max(total, 1)


def report(result: TwoNeurons) -> str:
    """Curves against their closed form, and the doublings of Wang's network."""
    lines = []
    for letter, plane in zip("ab", result.planes):
        kinds = [curve.kind for curve in plane.curves]
        special = distinct([point for curve in plane.curves for point in curve.special_points])
        lines.append(
            f"{letter}  W = {plane.weights.tolist()}: "
            + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            + " curves; "
            + ", ".join(f"{special.count(kind)} points {kind}" for kind in sorted(set(special)))
        )
        lines.append(
            f"   largest deviation from the closed form {plane.deviation:.1e}; not found {100 * plane.missing:.1f} %"
        )
    doublings = result.doublings
    lines.append("Wang's network doubles its period at mu = " + ", ".join(f"{mu:.10f}" for mu in doublings))
    if len(doublings) > 2:
        ratio = gap_ratios(doublings)
        lines.append(
            f"   ratios of the gaps {', '.join(f'{r:.4f}' for r in ratio)}; the last is "
            f"{ratio[-1] / FEIGENBAUM - 1:+.2%} off {FEIGENBAUM:.4f} (Feigenbaum 1978)"
        )
    orbits = result.orbits
    chaotic = orbits.parameters[orbits.is_chaotic]
    if len(chaotic):
        lines.append(
            f"   chaotic first at mu = {chaotic[0]:.3f}, largest exponent {orbits.exponents.max():.3f} nats per step"
        )
    return "\n".join(lines)


def gap_ratios(doublings: np.ndarray) -> np.ndarray:
    """How many times shorter each gap between doublings is than the one before."""
    gaps = np.diff(doublings)
    return gaps[:-1] / gaps[1:]


def distinct(points: list[rd.SpecialPoint]) -> list[str]:
    """The kind of every special point; one that two curves pass through, as both do at 1:1, counts once."""
    kept: list[rd.SpecialPoint] = []
    for point in points:
        if not any(
            point.kind == other.kind
            and np.allclose(point.parameters, other.parameters, atol=1e-6)
            # A degenerate point is known to a root of the error.
            and np.allclose(point.points, other.points, atol=1e-4)
            for other in kept
        ):
            kept.append(point)
    return [point.kind for point in kept]


def plot(result: TwoNeurons) -> Figure:
    """Both input planes; the orbit diagram of Wang's network, its exponent, and the ratios of its doublings."""
    figure = plt.figure(figsize=(plotting.PAGE_WIDTH, 3.4))
    grid = figure.add_gridspec(1, 3, width_ratios=[1, 1, 1.25])
    right = grid[2].subgridspec(3, 1, height_ratios=[2, 1, 1])
    for column, plane in enumerate(result.planes):
        draw_plane(figure.add_subplot(grid[column]), plane, "ab"[column])
    top = figure.add_subplot(right[0])
    bottom = figure.add_subplot(right[1], sharex=top)
    plotting.plot_orbit_diagram(result.orbits, lambda x: x[..., 1] - x[..., 0], axes=(top, bottom))
    for number, gain in enumerate(result.doublings):
        for ax in (top, bottom):
            ax.axvline(
                gain,
                color=plotting.BIFURCATION_COLORS["flip"],
                linestyle=":",
                linewidth=0.8,
                label="flip" if number == 0 else None,
            )
    top.tick_params(labelbottom=False)
    top.set(title="c  Wang's network", ylabel="$x_2 - x_1$")
    bottom.set(xlabel=r"gain $\mu$", ylabel="$\\lambda_1$\n(nats/step)", ylim=(-1.5, 0.8))
    # Left of the first flip: the rest of the plot is full.
    top.legend(loc="lower left", bbox_to_anchor=(0.0, 0.02), handlelength=1.0, handletextpad=0.4, borderpad=0.0)
    draw_ratios(figure.add_subplot(right[2]), gap_ratios(result.doublings))
    return figure


def draw_ratios(ax: Any, ratios: np.ndarray) -> None:
    """The ratios of the gaps between doublings, beside their limit."""
    ax.plot(np.arange(1, len(ratios) + 1), ratios, "o", color=plotting.BIFURCATION_COLORS["flip"], markersize=3.5)
    ax.axhline(FEIGENBAUM, color=plotting.COLORS["black"], linestyle="--", linewidth=0.8)
    ax.set(
        title="d  ratios of gaps", xlabel="gap", ylabel="ratio", ylim=(2.5, 5.2), xlim=(0.5, max(len(ratios), 5) + 0.5)
    )


def draw_plane(ax: Any, plane: Curves, letter: str) -> None:
    """Computed curves, the closed form as dots upon them, and points of codimension two."""
    plotting.plot_bifurcation_curves(plane.curves, ax=ax)
    for line in ax.lines:
        # Beside the other curves their colour alone does not tell them to all readers.
        if line.get_color() == plotting.BIFURCATION_COLORS["flip"] and line.get_linestyle() == "-":
            line.set_linestyle((0, (4, 1.5)))
    window = max((np.abs(curve.parameters).max() for curve in plane.curves), default=1.0)
    for kind in ("fold", "flip", "neimark-sacker"):
        for k, piece in enumerate(closed_form(plane.weights, kind, window)):
            label = "closed form" if kind == "fold" and k == 0 else None
            ax.plot(*piece[::150].T, ".", color=plotting.COLORS["black"], markersize=1.2, zorder=2.5, label=label)
    rows = "; ".join("  ".join(f"{w:g}".replace("-", "−") for w in row) for row in plane.weights)
    ax.set(title=f"{letter}  W = [{rows}]", xlabel="input $b_1$", ylabel="input $b_2$")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, columnspacing=1.0)
