"""Chaos, and its opposite, as theorems: horseshoes in maps and networks, and networks that must forget.

A positive Lyapunov exponent that was measured speaks of one orbit of finite length. Here chaos is proved: sets along an
orbit that leaves a saddle and comes back to it are shown to be laid across one another, with a lower bound of the
topological entropy. The map of Henon (1976) and the logistic map, the two chaotic neurons of Pasemann (2002), and echo
state networks that learned these maps and run on their own output; maps that are not chaotic must be refused. And
driven networks: where one metric is proved in which every input contracts, they have the echo state property
(Jaeger 2001).
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

import rnndyn as rd
from experiments._driven_networks import Drive, DrivenNetworks, driven_networks
from experiments._settings import CountOrZero, check, check_same_length, one_of
from rnndyn import plotting

CAPTION = """Chaos, and its opposite, as theorems: horseshoes in maps and networks, and networks that must forget.

Everything called proved holds for the exact maps, from inequalities in outward rounded arithmetic.

- **a** the map of Henon: states (grey), and the sets of the horseshoe (blue) in their order along an orbit that leaves
  a saddle (cross) and comes back to it; orange, the images of their two ends. Each set is laid across the next: the
  images of its ends lie beyond the ends of the next set.
- **b** the same for the two chaotic neurons of Pasemann (2002).
- **c** proved lower bound of the topological entropy (blue) beside the measured largest exponent (orange, four standard
  errors) and, for the map of Henon, the higher bound that Newhouse et al. (2008) proved (black cross). The entropy of
  a horseshoe may exceed the exponent of a typical orbit: rare orbits count as much. Below the line, maps that must be
  refused: stable, periodic and quasi-periodic.
- **d** driven random tanh networks: proved upper bound of the largest conditional exponent for every input between two
  bounds (blue) beside the exponent measured under random ones (orange); crosses at the edge, no proof, filled where an
  input was found under which nearby states separate.
"""

HENON_ENTROPY = 0.46469
"""A lower bound of the topological entropy of the map of Henon at a = 1.4, b = 0.3, proved by Newhouse, Berz, Grote &
Makino (2008), *On the estimation of topological entropy on surfaces*, Contemporary Mathematics 469, 243 (abstract)."""

PASEMANN = (np.array([[-5.0, 1.5], [-1.5, 0.0]]), np.array([-4.5, 0.0]))
"""Weights and bias of two chaotic neurons: Pasemann (2002), *Complex dynamics and the structure of small neural
networks*, Network 13, 195: [[-20, 6], [-6, 0]] and (-2, 3) for logistic units y, here for tanh units, y = (1 + x) / 2;
the numbers are quoted from memory, and everything proved here is proved of these."""


class Henon(eqx.Module):
    """(x, y) -> (1 - a x^2 + y, b x)."""

    a: float = 1.4
    b: float = 0.3

    def __call__(self, x: Any) -> Any:
        return jnp.stack([1 - self.a * x[0] ** 2 + x[1], self.b * x[0]])


class Logistic(eqx.Module):
    """x -> r x (1 - x)."""

    r: float = 3.9

    def __call__(self, x: Any) -> Any:
        return self.r * x * (1 - x)


class Tanh(eqx.Module):
    """x -> tanh(W x + b)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(jnp.asarray(self.weight, x.dtype) @ x + jnp.asarray(self.bias, x.dtype))


MAPS = {
    "Henon": (Henon(), (0.1, 0.1)),
    "logistic": (Logistic(), (0.3,)),
    "two neurons": (Tanh(*PASEMANN), (0.1, -0.2)),
}
# A rotation by an angle that is no rational part of a circle, grown until tanh holds it: an invariant circle.
_TURN = 1.2 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
ORDERLY = {
    "Henon, stable": (Henon(a=0.2), (0.1, 0.1)),
    "Henon, period 4": (Henon(a=1.0), (0.1, 0.1)),
    "two neurons, circle": (Tanh(_TURN, np.zeros(2)), (0.1, -0.2)),
}


@dataclasses.dataclass(frozen=True)
class Config(Drive):
    """Everything that decides the result."""

    maps: tuple[Annotated[str, one_of(MAPS)], ...] = tuple(MAPS)
    """Chaotic maps."""
    learned: tuple[Annotated[str, one_of(("Henon", "logistic"))], ...] = ("logistic",)
    """Maps that echo state networks learn."""
    num_units: tuple[int, ...] = (16,)
    """Of each of these networks."""
    spectral_radius: float = 0.05
    """Of the echo state networks: little memory, as these maps need none."""
    ridge: float = 1e-6
    orderly: tuple[Annotated[str, one_of(ORDERLY)], ...] = tuple(ORDERLY)
    """Maps that are not chaotic."""
    num_states: int = 3000
    """Of the trajectory that tells where to look."""
    num_transient: CountOrZero = 500
    max_loops: int = 1
    """Homoclinic orbits along which loops are laid."""

    def __post_init__(self) -> None:
        check(self)
        check_same_length(self, "learned", "num_units")


SMOKE = Config(
    maps=("two neurons",),
    learned=("logistic",),
    num_units=(2,),
    orderly=("two neurons, circle",),
    num_states=200,
    num_transient=100,
    num_steps=200,
    max_loops=1,
    gains=(0.5, 3.0),
    num_driven=3,
)


class ProvedMap(rd.Result):
    """One map: the proof, or why there is none, and what was measured.

    - `kind`: "map", "network" (which learned one) or "orderly".
    - `states` (T, N): of the trajectory. `others_bound`: of the entropy, as others proved it; NaN where none did.
    - `exponent`, `stderr`: the largest exponent. `training_error`: of one step, in standard deviations; NaN for a map.
    - `images` (M, 2, 33, N): of the ends p = -1 and p = 1 of the sets; drawn for two variables only, else empty.
    - `accepted`: whether a second program accepts the proof of a network; `None` where it has nothing to read.
    """

    name: str
    kind: str
    proof: rd.ChaosProof
    states: np.ndarray
    others_bound: float
    exponent: float
    stderr: float
    training_error: float
    images: np.ndarray
    accepted: bool | None


class ProvedChaos(rd.Result):
    """All maps and networks of the study."""

    maps: tuple[ProvedMap, ...]
    driven: DrivenNetworks


def compute(config: Config) -> ProvedChaos:
    """Try to prove that each map is chaotic, and that each driven network is not."""
    found = [one_map(name, "map", MAPS[name][0], MAPS[name][1], config) for name in config.maps]
    for index, (name, size) in enumerate(zip(config.learned, config.num_units)):
        network, start, error = learned_network(name, size, index, config)
        found.append(one_map(f"{size} units, {name}", "network", network, start, config, error))
    found += [one_map(name, "orderly", ORDERLY[name][0], ORDERLY[name][1], config) for name in config.orderly]
    return ProvedChaos(tuple(found), driven_networks(config))


def one_map(name: str, kind: str, f: Any, start: Any, config: Config, training_error: float = np.nan) -> ProvedMap:
    """Prove what can be proved of one map, and measure its largest exponent."""
    start = jnp.asarray(start, jnp.float32)
    states = np.asarray(rd.trajectory(f, start, config.num_states, num_transient=config.num_transient))
    proof = rd.prove_chaos(f, states.astype(np.float64), max_loops=config.max_loops)
    growth = rd.lyapunov_spectrum(f, states[-1], config.num_steps, num_exponents=1)
    accepted = rd.check_chaos(proof, f.weight, f.bias).accepted if proof.proved and isinstance(f, Tanh) else None
    return ProvedMap(
        name=name,
        kind=kind,
        proof=proof,
        states=states,
        others_bound=HENON_ENTROPY if name == "Henon" else np.nan,
        exponent=float(growth.exponents[0]),
        stderr=float(growth.stderr[0]),
        training_error=training_error,
        images=images_of_ends(f, proof),
        accepted=accepted,
    )


def images_of_ends(f: Any, proof: rd.ChaosProof) -> np.ndarray:
    """Where f takes the ends of the sets of a horseshoe in the plane."""
    if proof.centers.shape[1] != 2 or len(proof.centers) == 0:
        return np.zeros((0, 2, 33, proof.centers.shape[1]))
    across = np.linspace(-1, 1, 33)
    ends = np.stack([np.stack([np.full(33, side), across], axis=-1) for side in (-1.0, 1.0)])
    points = proof.centers[:, None, None] + np.einsum("mij,esj->mesi", proof.axes, ends)
    return np.asarray(jax.vmap(jax.vmap(jax.vmap(f)))(jnp.asarray(points, jnp.float32)))


def learned_network(name: str, size: int, index: int, config: Config) -> tuple[Tanh, np.ndarray, float]:
    """An echo state network that learned a map, closed over its output: the map of its units, a state, an error."""
    f, start = MAPS[name]
    series = np.asarray(rd.trajectory(f, jnp.asarray(start, jnp.float32), 4000, num_transient=100), np.float64)
    network = rd.reservoir(
        series.shape[1],
        size,
        spectral_radius=config.spectral_radius,
        input_scaling=1.0,
        bias_scaling=0.5,
        num_connections=size,
        squares=False,
        key=jax.random.fold_in(jax.random.key(config.seed), index),
    )
    trained = network.fit(series, ridge=config.ridge)
    cell = trained.cell
    weight = cell.reservoir.weight_hh + cell.reservoir.weight_ih @ cell.weight_out
    bias = cell.reservoir.bias + cell.reservoir.weight_ih @ cell.bias_out
    start = trained.synchronize(series[None, :200])[0]
    return Tanh(np.asarray(weight), np.asarray(bias)), start, float(np.max(trained.training_error))


def report(result: ProvedChaos) -> str:
    """What was proved of each map, and why not of the others."""
    lines = ["map                    entropy >=   exponent measured     second program   what was proved"]
    words = {None: "cannot read it", True: "accepts", False: "refuses"}
    for one in result.maps:
        proof = one.proof
        bound = f"{proof.entropy_bound:10.4f}" if proof.proved else "         -"
        second = words[one.accepted] if proof.proved else "-"
        loops = (
            f"a horseshoe; loops of {', '.join(map(str, proof.loop_lengths))} steps" if proof.proved else proof.reason
        )
        lines.append(f"{one.name:<22} {bound}   {one.exponent:8.4f} +- {one.stderr:6.4f}     {second:<16} {loops}")
    lines.append(
        f"\nMap of Henon: entropy >= {HENON_ENTROPY}, proved by Newhouse et al. (2008, Contemp. Math. 469, abstract)."
    )
    for one in result.maps:
        if one.kind == "network":
            lines.append(f"{one.name}: error of one step {one.training_error:.1e} standard deviations.")
    lines.append("\ngain   conditional exponent <=   measured           second program")
    driven = result.driven
    for k, gain in enumerate(driven.gains):
        none = "refuted by an input" if driven.refuted[k] else "open"
        bound = none if np.isnan(driven.bounds[k]) else f"{driven.bounds[k]:.4f}"
        second = "-" if np.isnan(driven.bounds[k]) else words[bool(driven.accepted[k])]
        lines.append(f"{gain:4.2f}   {bound:>22}   {driven.exponents[k]:8.4f} +- {driven.stderr[k]:6.4f}   {second}")
    return "\n".join(lines)


def plot(result: ProvedChaos) -> Figure:
    """Horseshoes in the plane, bounds beside measurements, and contraction."""
    figure, axes = plt.subplots(2, 2, figsize=(plotting.PAGE_WIDTH, 5.6), width_ratios=[1, 1.05])
    for letter, ax, name in zip("ab", axes[0], ("Henon", "two neurons")):
        found = [one for one in result.maps if one.name == name]
        ax.set_title(f"{letter}  {name}")
        if found:
            draw_horseshoe(ax, found[0])
        else:
            ax.axis("off")
    draw_bounds(axes[1, 0], result.maps)
    draw_contraction(axes[1, 1], result.driven)
    return figure


def draw_horseshoe(ax: Any, one: ProvedMap) -> None:
    """The sets c + A z of a horseshoe in the plane, and the images of their ends."""
    ax.plot(*one.states[:, :2].T, ".", color="#C8C8C8", markersize=1, zorder=1)
    proof = one.proof
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    span, written = np.ptp(one.states[:, :2], axis=0), []
    for k, (center, axes) in enumerate(zip(proof.centers, proof.axes)):
        outline = center + corners @ axes.T
        ax.add_patch(
            Polygon(outline, facecolor="#0072B230", edgecolor=plotting.COLORS["blue"], linewidth=0.9, zorder=3)
        )
        for end in one.images[k]:
            ax.plot(*end.T, color=plotting.COLORS["orange"], linewidth=1.3, solid_capstyle="round", zorder=4)
        # Of sets that lie on one another the first is numbered.
        if k >= len(proof.saddle) and not any(np.all(np.abs(center - other) < 0.07 * span) for other in written):
            written.append(center)
            ax.annotate(str(k), center, (4, 4), textcoords="offset points", fontsize=6.5, zorder=6)
    ax.plot(*proof.centers[len(proof.saddle) - 1 :].T, color=plotting.COLORS["grey"], linewidth=0.5, zorder=2)
    ax.plot(*proof.saddle.T, "x", color="black", markersize=5, zorder=6)
    ax.set(xlabel="first variable", ylabel="second variable")


def draw_bounds(ax: Any, maps: tuple[ProvedMap, ...]) -> None:
    """Entropy bounds and exponents, one row for each map."""
    for y, one in enumerate(maps):
        if one.proof.proved:
            ax.barh(y, one.proof.entropy_bound, height=0.5, color=plotting.COLORS["blue"], alpha=0.8, zorder=2)
        else:
            ax.text(
                0.04,
                y,
                "refused" if one.kind == "orderly" else "not proved",
                va="center",
                fontsize=6.5,
                color=plotting.COLORS["grey"],
            )
        ax.errorbar(
            one.exponent, y, xerr=4 * one.stderr, fmt="o", color=plotting.COLORS["orange"], markersize=4, zorder=3
        )
        if np.isfinite(one.others_bound):
            ax.plot(one.others_bound, y, "x", color="black", markersize=5, zorder=3)
    patch = Rectangle((0, 0), 1, 1, color=plotting.COLORS["blue"], alpha=0.8)
    marks = [
        Line2D([], [], linestyle="", marker=m, color=c) for m, c in (("o", plotting.COLORS["orange"]), ("x", "black"))
    ]
    ax.legend([patch, *marks], ["entropy, proved", "exponent, measured", "entropy, by others"], loc="lower right")
    num_chaotic = sum(one.kind != "orderly" for one in maps)
    ax.axhline(num_chaotic - 0.5, color=plotting.COLORS["grey"], linewidth=0.6)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(range(len(maps)), [one.name for one in maps])
    ax.set(ylim=(len(maps) - 0.4, -0.6), xlabel="nats a step", title="c  how chaotic")


def draw_contraction(ax: Any, driven: DrivenNetworks) -> None:
    """Proved bounds of conditional exponents and measured ones against the gain."""
    proved = np.isfinite(driven.bounds)
    ax.plot(
        driven.gains[proved], driven.bounds[proved], "s-", color=plotting.COLORS["blue"], markersize=4, label="proved"
    )
    ax.errorbar(
        driven.gains,
        driven.exponents,
        yerr=4 * driven.stderr,
        fmt="o-",
        color=plotting.COLORS["orange"],
        markersize=4,
        label="measured",
    )
    top = 0.04 if len(driven.gains) == 0 else max(0.1, float(np.max(driven.exponents)) + 0.1)
    for gain in driven.gains[~proved & ~driven.refuted]:
        ax.plot(gain, top, "x", color=plotting.COLORS["blue"], markersize=5)
    for gain in driven.gains[driven.refuted]:
        ax.plot(gain, top, "X", color=plotting.COLORS["blue"], markersize=6)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(xlabel="gain g", ylabel="largest conditional exponent", title="d  every input contracts")
    ax.legend(loc="lower right")
