r"""Cliffs of the loss lie on folds: one recurrent unit (Doya 1992; Pascanu, Mikolov & Bengio 2013).

The unit $x_{t+1} = w \sigma(x_t) + b$ has two stable states between two folds. A loss of the last state, from a start
on the upper one, falls off a cliff where that state ends: on the curve of its fold, up to the $\pi^2 / (a T^2)$ in b
that the state needs to pass the place where the fixed point was within T steps. There the gradient explodes, and a
step of gradient descent throws the parameters far away unless the gradient is clipped.
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Inside, Real, at_least, check, check_increasing
from rnndyn import plotting

CAPTION = """The cliff of the loss lies on a fold (Doya 1992; Pascanu, Mikolov & Bengio 2013).

One unit, x' = w σ(x) + b.

- **a** its fixed points over b at w = 5: solid stable, dashed unstable, orange dots the folds.
- **b, c** loss after 50 steps, and the norm of its gradient, over w and b (colour bars, powers of ten); white, the
  two curves of folds, which meet at the cusp.
- **d** the loss over b at w = 5 for six lengths T; dotted, the fold.
- **e** distance of the steepest point from the fold over T; line, π² / (|a| T²).
- **f** loss in gradient descent: plain (orange) is thrown off, clipped (blue) stays.
"""

KNOWN_FOLDS = (-2.65561, -2.34439)
"""At w = 5: b = ln(s / (1 - s)) - 5 s with s = (1 +- sqrt(1/5)) / 2."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    weight: float = 5.0
    """At which the diagram over b is drawn."""
    weights: tuple[float, float] = (3.0, 7.0)
    biases: tuple[Real, Real] = (-4.0, -1.4)
    """The window of the maps."""
    initial_state: Real = 2.5
    target: Inside = 0.7
    """Of sigma(x_T)."""
    num_steps: int = 50
    """T of the maps and of gradient descent."""
    lengths: tuple[int, ...] = (12, 25, 50, 100, 200, 400)
    """T for which the cliff is measured against the fold."""
    resolution: Annotated[int, at_least(2)] = 400
    """Points along each side of the maps."""
    start: tuple[Real, Real] = (5.0, -2.3)
    """(w, b) where gradient descent starts."""
    learning_rate: float = 0.1
    max_grad_norm: float = 0.1
    num_updates: int = 200

    def __post_init__(self) -> None:
        check(self)
        check_increasing(self, "weights", "biases")


SMOKE = Config(resolution=20, lengths=(12, 25), num_updates=10)


class Cliffs(rd.Result):
    """The folds of the unit, and the loss around them."""

    branch: rd.Branch
    curve: rd.BifurcationCurve
    weights: np.ndarray
    biases: np.ndarray
    losses: np.ndarray
    """(B, W), one row per bias."""
    grad_norms: np.ndarray
    lengths: np.ndarray
    profiles: np.ndarray
    """Loss over `profile_biases` at the one weight, for each length."""
    profile_biases: np.ndarray
    offsets: np.ndarray
    """How far below the fold the slope of the loss over b is largest, for each length."""
    paths: np.ndarray
    """(w, b) of gradient descent, plain and clipped."""
    path_losses: np.ndarray
    path_grad_norms: np.ndarray


class Unit(eqx.Module):
    """x' = w sigma(x) + b over b."""

    weight: np.ndarray

    def __call__(self, x: Any, b: Any) -> Any:
        return self.weight * jax.nn.sigmoid(x) + b


def step(x: Any, p: Any) -> Any:
    """x' = w sigma(x) + b over p = (w, b)."""
    return p[0] * jax.nn.sigmoid(x) + p[1]


def compute(config: Config) -> Cliffs:
    """Continue the folds, map the loss and its gradient, and descend."""
    unit = Unit(np.array(config.weight))
    branch = rd.continue_fixed_points(unit, np.array([config.initial_state]), config.biases[1], config.biases)
    upper = min(branch.of_kind("fold"), key=lambda fold: fold.parameter)
    curve = rd.continue_bifurcation(
        step, upper, (config.weight, upper.parameter), (config.weights, config.biases), max_step=0.02
    )
    with jax.enable_x64(True):
        weights = np.linspace(*config.weights, config.resolution)
        biases = np.linspace(*config.biases, config.resolution)
        grid = jnp.stack(jnp.meshgrid(weights, biases), axis=-1)
        both = lambda p: loss_and_gradient(p, config.num_steps, config.initial_state, config.target)
        losses, gradients = jax.jit(jax.vmap(jax.vmap(both)))(grid)
        below = np.geomspace(1e-6, 1, 4000)
        at = jnp.stack([jnp.full_like(below, config.weight), upper.parameter - below], axis=-1)
        offsets, profiles = [], []
        profile_biases = np.linspace(upper.parameter - 0.12, upper.parameter + 0.06, 600)
        for length in config.lengths:
            both = lambda p, n=length: loss_and_gradient(p, n, config.initial_state, config.target)
            slopes = jax.jit(jax.vmap(both))(at)[1][:, 1]
            offsets.append(below[np.argmax(np.abs(slopes))])
            profile = jnp.stack([jnp.full_like(profile_biases, config.weight), profile_biases], axis=-1)
            profiles.append(jax.jit(jax.vmap(both))(profile)[0])
        paths = [descend(config, norm) for norm in (np.inf, config.max_grad_norm)]
    return Cliffs(
        branch=branch,
        curve=curve,
        weights=weights,
        biases=biases,
        losses=np.asarray(losses),
        grad_norms=np.linalg.norm(gradients, axis=-1),
        lengths=np.array(config.lengths),
        profiles=np.stack(profiles),
        profile_biases=profile_biases,
        offsets=np.array(offsets),
        paths=np.stack([path for path, _, _ in paths]),
        path_losses=np.stack([values for _, values, _ in paths]),
        path_grad_norms=np.stack([norms for _, _, norms in paths]),
    )


def loss_and_gradient(p: Any, num_steps: int, initial_state: float, target: float) -> Any:
    """(sigma(x_T) - target)^2 and its gradient in (w, b)."""

    def loss(p: Any) -> Any:
        last = jax.lax.fori_loop(0, num_steps, lambda _, x: step(x, p), jnp.asarray(initial_state))
        return (jax.nn.sigmoid(last) - target) ** 2

    return loss(p), jax.jacfwd(loss)(p)


def descend(config: Config, max_norm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, losses and gradient norms of gradient descent, the gradient clipped to `max_norm`."""

    def update(p: Any, _: None) -> Any:
        value, gradient = loss_and_gradient(p, config.num_steps, config.initial_state, config.target)
        norm = jnp.linalg.norm(gradient)
        scale = jnp.minimum(1, max_norm / norm)
        return p - config.learning_rate * scale * gradient, (p, value, norm)

    _, record = jax.jit(lambda p: jax.lax.scan(update, p, None, length=config.num_updates))(jnp.array(config.start))
    path, values, norms = (np.asarray(part) for part in record)
    return path, values, norms


def report(result: Cliffs) -> str:
    """Folds beside their closed form, the cusp, the cliff against the fold, and the descents."""
    folds = sorted(fold.parameter for fold in result.branch.of_kind("fold"))
    cusps = [point.parameters for point in result.curve.special_points if point.kind == "cusp"]
    upper = min(result.branch.of_kind("fold"), key=lambda fold: fold.parameter)
    lines = [
        "folds at w = 5       found "
        + ", ".join(f"{b:.10f}" for b in folds)
        + "   closed form "
        + ", ".join(map(str, KNOWN_FOLDS)),
        "cusp                 found " + ", ".join(f"({w:.10f}, {b:.10f})" for w, b in cusps) + "   closed form (4, -2)",
        f"largest gradient norm on the map {result.grad_norms.max():.3g}, median {np.median(result.grad_norms):.2g}",
        "T     cliff below the fold   pi^2 / (|a| T^2)",
    ]
    for length, offset in zip(result.lengths, result.offsets):
        lines.append(f"{length:<5} {offset:20.6f}   {np.pi**2 / (abs(upper.coefficient) * length**2):16.6f}")
    for name, path, losses, norms in zip(
        ("plain", "clipped"), result.paths, result.path_losses, result.path_grad_norms
    ):
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
        lines.append(
            f"{name:<8} descent: largest gradient norm {norms.max():.3g}, longest step {steps.max():.3g}, "
            f"last loss {losses[-1]:.2g}"
        )
    return "\n".join(lines)


def plot(result: Cliffs) -> Figure:
    """Diagram, maps of loss and gradient with the folds, the cliff over T, and descent with and without clipping."""
    figure, axes = plt.subplots(2, 3, figsize=(plotting.PAGE_WIDTH, 4.4))
    ax = axes[0, 0]
    plotting.plot_bifurcation_diagram(result.branch, ax=ax)
    ax.set(title="a  fixed points at w = 5", xlabel="b", ylabel="x")
    ax.legend(loc="upper left")
    draw_map(axes[0, 1], result, result.losses, "b  loss after 50 steps", r"$\log_{10}$ loss", (-4, 0))
    draw_map(
        axes[0, 2],
        result,
        result.grad_norms,
        "c  gradient norm",
        r"$\log_{10} |\partial L / \partial (w, b)|$",
        (-4, 2),
    )
    ax = axes[1, 0]
    fold = min(event.parameter for event in result.branch.of_kind("fold"))
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(result.lengths)))
    for length, profile, color in zip(result.lengths, result.profiles, colors):
        ax.plot(result.profile_biases, profile, color=color, label=str(length))
    ax.axvline(fold, color=plotting.COLORS["orange"], linestyle=":")
    ax.set(title="d  the cliff at w = 5", xlabel="b (dotted: fold)", ylabel="loss", xlim=(None, fold + 0.11))
    ax.legend(title="T (steps)", title_fontsize=7, loc="upper right", handlelength=1.0)
    ax = axes[1, 1]
    upper = min(result.branch.of_kind("fold"), key=lambda fold: fold.parameter)
    ax.loglog(result.lengths, result.offsets, "o", label="steepest point")
    ax.loglog(
        result.lengths,
        np.pi**2 / (abs(upper.coefficient) * result.lengths**2),
        color=plotting.COLORS["black"],
        linewidth=0.8,
        label=r"$\pi^2 / (|a| T^2)$",
    )
    ax.set(title="e  distance to the fold", xlabel="T (steps)", ylabel=r"$b_\mathrm{fold} - b$")
    ax.set_xticks(result.lengths, map(str, result.lengths))
    ax.minorticks_off()
    ax.legend()
    draw_descent(axes[1, 2], result)
    return figure


def draw_map(ax: Any, result: Cliffs, values: np.ndarray, title: str, label: str, limits: tuple[int, int]) -> None:
    """A map over (w, b) with the folds on it, and the two paths of descent on the loss."""
    extent = (result.weights[0], result.weights[-1], result.biases[0], result.biases[-1])
    with np.errstate(divide="ignore"):
        image = ax.imshow(
            np.log10(values), origin="lower", extent=extent, aspect="auto", vmin=limits[0], vmax=limits[1]
        )
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9, pad=0.02)
    ax.plot(*result.curve.parameters.T, color="white", linewidth=0.9)
    for point in result.curve.special_points:
        ax.plot(*point.parameters, "o", color="white", markersize=3)
        ax.annotate(
            "cusp", point.parameters, xytext=(-4, 4), textcoords="offset points", color="white", fontsize=7, ha="right"
        )
    ax.set(title=title, xlabel="w", ylabel="b", xlim=extent[:2], ylim=extent[2:])


def draw_descent(ax: Any, result: Cliffs) -> None:
    """Losses of both descents."""
    for name, losses, color in zip(("plain", "clipped"), result.path_losses, ("orange", "blue")):
        ax.semilogy(losses, color=plotting.COLORS[color], label=name)
    ax.set(title="f  gradient descent", xlabel="update", ylabel="loss", xlim=(0, 80), ylim=(None, 2))
    ax.legend(loc="upper center", ncol=2)
