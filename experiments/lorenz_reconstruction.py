"""The Lorenz system learned from samples, and its copy judged (Hess, Monfared, Brenner & Durstewitz 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.
What they learned is judged by what nobody trained them for: where their states lie, their spectrum of frequencies,
Lyapunov exponents and dimension, how long they stay with a true trajectory, and their equilibria, which are certified.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, NotNegative, Seed, check, check_order
from rnndyn import plotting

CAPTION = """The Lorenz system learned from samples (Hess et al. 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.

- **a, b** states of the system and of a network that runs by itself; orange dots, equilibria, of the network filled
  where existence and the number of unstable directions are proved.
- **c** a trajectory (black) and what that network makes of its start (orange): the prediction whose valid time is the
  median.
- **d** for how long predictions stay valid (error below 0.4 standard deviations): medians and quartiles over starts,
  a dot for each network, before (grey) and after (blue) training.
- **e** their largest exponents; dotted, that of the system.

By default (600 ReLUs, 2000 updates) four or five of five networks have D_stsp below 0.3, and all the dimension 2.06;
predictions stay valid for 3.7 to 4.3 Lyapunov times; the largest exponent is too small, 0.82 to 0.90; and two of five
have all three equilibria proved with the right stability (of the others one wing is stable: it is off the attractor,
and its spiral grows by 0.2 % a step). The regression alone is as good: at this size 2000 updates of forcing change
little. Training amplifies rounding, so that two machines differ by about as much as two seeds.
"""

systems = rd.tasks.dynamical_systems

SYSTEM = systems.Lorenz63()
TRUE_UNSTABLE = (1, 2, 2)
"""Unstable directions of the origin and of the two wings, from the eigenvalues of the vector field."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dt: float = 0.02
    """Time between samples."""
    num_series: int = 30
    """From random states of a box around the attractor; how they get there is part of the data."""
    num_samples: int = 1300
    """Of each series."""
    noise: NotNegative = 0.0
    """Standard deviation of the noise on every sample, in standard deviations of the variables."""
    num_hidden: int = 600
    """ReLUs of the shallow networks, whose state has the three variables."""
    ridge: float = 1e-8
    """Of the regression that training starts from."""
    strength: Fraction = 0.05
    """Alpha of the forcing: some times 1 - exp(-lambda dt), below which gradients can grow."""
    window: int = 30
    """Samples of a training sequence."""
    num_updates: int = 2000
    batch_size: int = 16
    learning_rate: float = 5e-5
    """At the start; it falls to a hundredth along a cosine."""
    max_grad_norm: float = 1.0
    num_networks: int = 5
    """From different random weights."""
    num_starts: int = 50
    """Predictions of each network."""
    horizon: int = 600
    """Steps of a prediction."""
    num_judged: int = 20_000
    """Steps of the long runs that measure exponents and where states lie."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "window", "num_samples")
        check_order(self, "horizon", "num_judged")


SMOKE = Config(
    num_series=3, num_samples=40, num_hidden=8, window=6, num_updates=3, batch_size=3, num_networks=2, num_starts=3,
    horizon=20, num_judged=200, ridge=1e-3,
)  # fmt: skip


class LorenzReconstruction(rd.Result):
    """One row of every array for each network; the pairs hold the networks before and after training."""

    regressed: "Judgement"
    """What the regression alone is worth."""
    trained: "Judgement"
    null: np.ndarray
    """D_stsp and D_H of the true system against itself, from another start."""
    true_points: np.ndarray
    """Where the equilibria of the system are, in standard deviations."""
    points: np.ndarray
    """Those of the trained networks, (networks, 3, 3); NaN where there is none."""
    distances: np.ndarray
    """How far they are from the true ones, in standard deviations."""
    num_unstable: np.ndarray
    """Their unstable directions; -1 where there is none."""
    certified: np.ndarray
    """Whether existence and the unstable directions are proved."""
    truth: np.ndarray
    """Some true states, for the figure."""
    copy: np.ndarray
    """As many of the network whose predictions stay valid for the median time."""
    true_run: np.ndarray
    """One true trajectory, first variable, for the figure."""
    run: np.ndarray
    """Its prediction by that network."""
    dt: float

    @property
    def shown(self) -> int:
        """The network in the figure: its valid time is the median of all."""
        return middle(self.trained.valid_time)

    @property
    def has_wings(self) -> np.ndarray:
        """Whether all three equilibria of a network are certified with the right unstable directions."""
        return (self.certified & (self.num_unstable == TRUE_UNSTABLE)).all(axis=1)


class Judgement(rd.Result):
    """Measures of some networks, a row each."""

    valid_times: np.ndarray
    """(networks, starts), in Lyapunov times of the system."""
    exponents: np.ndarray
    """(networks, 3), per unit of time; NaN where the run does not stay finite."""
    dimension: np.ndarray
    """Kaplan-Yorke dimension."""
    divergence: np.ndarray
    """D_stsp."""
    spectral: np.ndarray
    """D_H."""
    one_step: np.ndarray
    """Root mean square error of one step, in standard deviations."""

    @property
    def valid_time(self) -> np.ndarray:
        """The median over the starts."""
        return np.median(self.valid_times, axis=1)


def middle(values: np.ndarray) -> int:
    """The index of the median, of an even number the lower of the two."""
    return int(np.argsort(values)[(len(values) - 1) // 2])


def compute(config: Config) -> LorenzReconstruction:
    """Make the data, train, and judge the networks before and after."""
    data_key, box_key, test_key, start_key, fit_key = jax.random.split(jax.random.key(config.seed), 5)
    box = jax.random.uniform(box_key, (config.num_series, 3), minval=-1.0, maxval=1.0)
    starts = np.array([0.0, 0.0, 24.0]) + np.array([18.0, 24.0, 22.0]) * np.asarray(box, float)
    sample = lambda num_steps, **options: systems.sample_system(SYSTEM, num_steps, dt=config.dt, **options)
    series = sample(config.num_samples, starts=starts, num_transient=0, noise=config.noise, key=data_key).standardize()
    test = sample(config.num_judged, num_series=2, key=test_key).standardize(like=series)
    cells = [
        rd.training.shallow_start(series, config.num_hidden, ridge=config.ridge, dtype=np.float32, key=key)
        for key in jax.random.split(start_key, config.num_networks)
    ]
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[rd.RNN(cell, identity_readout()) for cell in cells])
    loss = rd.training.forced_loss(config.strength, fixed_readout=True)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.01)
    fitted = rd.fit_ensemble(
        models,
        loss,
        systems.SeriesWindows(series, config.window, config.batch_size, dtype=np.float32),
        optax.adam(schedule),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        carry=loss.first_carry(),
        key=fit_key,
    )
    trained = [jax.tree.map(lambda leaf, i=i: leaf[i], fitted.last_models.cell) for i in range(config.num_networks)]
    truth, other = test.values
    before, _ = judge(cells, truth, config)
    after, runs = judge(trained, truth, config)
    assert series.scale is not None
    true_points = series.scale.apply(np.asarray(SYSTEM.equilibria, float))
    found = [equilibria_near(cell, true_points) for cell in trained]
    points, num_unstable, certified = (np.array(column) for column in zip(*found))
    shown = middle(after.valid_time)
    num_shown = min(4000, config.num_judged)
    first = np.linspace(0, config.num_judged - config.horizon - 1, config.num_starts).astype(int)
    # Of its predictions, the one that stays valid for the median time.
    start = first[middle(after.valid_times[shown])]
    with jax.enable_x64(True):
        run = rd.trajectory(rd.as_map(doubled(trained[shown])), truth[start], config.horizon)
    return LorenzReconstruction(
        regressed=before,
        trained=after,
        null=np.array([float(rd.state_space_divergence(truth, other)), float(rd.spectrum_distance(truth, other))]),
        true_points=true_points,
        points=points,
        distances=np.linalg.norm(points - true_points, axis=2),
        num_unstable=num_unstable,
        certified=certified,
        truth=truth[:num_shown],
        copy=runs[shown][:num_shown],
        true_run=truth[start + 1 : start + 1 + config.horizon, 0],
        run=np.asarray(run)[:, 0],
        dt=config.dt,
    )


def identity_readout() -> eqx.nn.Linear:
    """The three variables themselves."""
    readout = eqx.nn.Linear(3, 3, use_bias=False, key=jax.random.key(0))
    return eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(3))


def doubled(cell: Any) -> Any:
    """The network with exactly these weights, to be computed in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), cell)


def judge(cells: list[Any], truth: np.ndarray, config: Config) -> tuple[Judgement, np.ndarray]:
    """All measures of the networks, and their long runs (networks, steps, 3)."""
    first = np.linspace(0, len(truth) - config.horizon - 1, config.num_starts).astype(int)
    future = np.stack([truth[i + 1 : i + 1 + config.horizon] for i in first])
    exponent = SYSTEM.published.exponents[0]
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(doubled, cells))

        @eqx.filter_jit
        def measure(cells: Any, truth: Any, starts: Any) -> tuple[Any, ...]:
            def one(cell: Any) -> tuple[Any, ...]:
                f = rd.as_map(cell)
                spectrum = rd.lyapunov_spectrum(f, starts[0], len(truth), num_transient=500, dt=config.dt)
                predictions = jax.vmap(lambda x: rd.trajectory(f, x, config.horizon))(starts)
                step = jax.vmap(f)(truth[:-1])
                run = rd.trajectory(f, starts[0], len(truth), num_transient=500)
                return spectrum.exponents, spectrum.kaplan_yorke_dimension, predictions, step, run

            return eqx.filter_vmap(one)(cells)

        measured = measure(stacked, jnp.asarray(truth), jnp.asarray(truth[first]))
        exponents, dimension, predictions, steps, runs = (np.asarray(value) for value in measured)
        times = [
            np.asarray(rd.valid_prediction_time(future, p, lyapunov_exponent=exponent, dt=config.dt).times)
            for p in predictions
        ]
        # A network that leaves for infinity has no place and no spectrum, one that settles no spectrum.
        bounded = [bool(np.isfinite(run).all()) for run in runs]
        moves = [stays and bool((np.std(run, axis=0) > 1e-9).all()) for run, stays in zip(runs, bounded)]
        divergence = [float(rd.state_space_divergence(truth, r)) if ok else np.nan for r, ok in zip(runs, bounded)]
        spectral = [float(rd.spectrum_distance(truth, r)) if ok else np.nan for r, ok in zip(runs, moves)]
    finite = np.asarray(np.isfinite(exponents).all(axis=1))
    return (
        Judgement(
            valid_times=np.array(times),
            exponents=np.where(finite[:, None], exponents, np.nan),
            dimension=np.where(finite, dimension, np.nan),
            divergence=np.array(divergence),
            spectral=np.array(spectral),
            one_step=np.sqrt(np.mean((steps - truth[1:]) ** 2, axis=(1, 2))),
        ),
        runs,
    )


def equilibria_near(cell: Any, true_points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fixed point of the network nearest to each true equilibrium: where, how unstable, and whether proved."""
    f = rd.as_map(doubled(cell))
    found = rd.find_fixed_points(f, np.concatenate([true_points, 0.9 * true_points, 1.1 * true_points]), progress=False)
    points = np.full(true_points.shape, np.nan)
    num_unstable, certified = np.full(len(points), -1), np.zeros(len(points), bool)
    for row, true in enumerate(true_points):
        if not len(found.points):
            break
        nearest = int(np.argmin(np.linalg.norm(found.points - true, axis=1)))
        certificate = rd.certify_fixed_point(f, found.points[nearest])
        points[row] = found.points[nearest]
        certified[row] = certificate.certified and certificate.num_unstable >= 0
        # Where it is not proved, what the multipliers say.
        num_unstable[row] = certificate.num_unstable if certified[row] else found.num_unstable[nearest]
    return points, num_unstable, certified


def report(result: LorenzReconstruction) -> str:
    """Every network in a line, before and after training, beside what was asked for."""
    published = SYSTEM.published
    lines = [
        "                 one step   D_stsp     D_H   valid time   exponents                    dimension",
        f"  system                   {result.null[0]:7.3f} {result.null[1]:7.3f}                "
        f"{published.exponents[0]:7.3f} {published.exponents[1]:7.3f} {published.exponents[2]:8.3f}  "
        f"{published.kaplan_yorke_dimension:8.3f}   (exponents: {published.source}; D: against itself)",
    ]
    for name, judged in (("regression", result.regressed), ("trained", result.trained)):
        for row in range(len(judged.dimension)):
            values = judged.exponents[row]
            lines.append(
                f"  {name:<11} {row + 1:2d}  {judged.one_step[row]:8.5f} {judged.divergence[row]:8.3f} "
                f"{judged.spectral[row]:7.3f} {judged.valid_time[row]:9.2f}      {values[0]:7.3f} {values[1]:7.3f} "
                f"{values[2]:8.3f}  {judged.dimension[row]:8.3f}"
            )
    lines.append("equilibria of the trained networks: distance in standard deviations, unstable directions (1, 2, 2)")
    for row in range(len(result.distances)):
        marks = [
            f"{distance:.3f} / {count} {'proved' if proved else 'not proved'}"
            for distance, count, proved in zip(result.distances[row], result.num_unstable[row], result.certified[row])
        ]
        lines.append(f"  {row + 1:2d}  " + ", ".join(marks))
    judged, number = result.trained, len(result.distances)
    wanted = {
        "D_stsp at most 0.3": judged.divergence <= 0.3,
        "largest exponent within 0.03 of 0.906": np.abs(judged.exponents[:, 0] - 0.906) <= 0.03,
        "dimension within 0.05 of 2.06": np.abs(judged.dimension - 2.06) <= 0.05,
        "valid for 4 Lyapunov times in the median": judged.valid_time >= 4,
        "three equilibria proved, with the right stability, within 0.3": result.has_wings
        & (result.distances <= 0.3).all(axis=1),
    }
    lines += [f"  {name}: {int(np.sum(held))} of {number} networks" for name, held in wanted.items()]
    return "\n".join(lines)


def plot(result: LorenzReconstruction) -> Figure:
    """Both attractors, a prediction, valid times, exponents."""
    figure, axes = plt.subplots(
        1, 5, figsize=(plotting.PAGE_WIDTH, 2.0), width_ratios=[1, 1, 1.35, 0.9, 0.9], layout="constrained"
    )
    draw_attractor(axes[0], result.truth, result.true_points, np.ones(3, bool), "a  system")
    shown = result.shown
    draw_attractor(axes[1], result.copy, result.points[shown], result.certified[shown], "b  network")
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    draw_prediction(axes[2], result)
    draw_times(axes[3], result)
    draw_exponents(axes[4], result)
    return figure


def draw_attractor(axes: Any, states: np.ndarray, points: np.ndarray, proved: np.ndarray, title: str) -> None:
    """States in the plane of x and z, and equilibria: filled where they are proved."""
    axes.plot(states[:, 0], states[:, 2], color=plotting.COLORS["blue"], linewidth=0.25)
    for point, is_proved in zip(points, proved):
        face = plotting.COLORS["orange"] if is_proved else "white"
        axes.plot(point[0], point[2], "o", color=plotting.COLORS["orange"], markerfacecolor=face, markersize=4)
    axes.set(xlabel="$x$ / s.d.", ylabel="$z$ / s.d.")
    axes.set_title(title, loc="left")


def draw_prediction(axes: Any, result: LorenzReconstruction) -> None:
    """One trajectory and its prediction, over time in Lyapunov times."""
    time = result.dt * SYSTEM.published.exponents[0] * np.arange(1, len(result.run) + 1)
    axes.plot(time, result.true_run, color="black", linewidth=1.0, label="system")
    axes.plot(time, result.run, color=plotting.COLORS["orange"], linewidth=0.8, label="network")
    axes.set(xlabel="time / Lyapunov times", ylabel="$x$ / s.d.", ylim=(-2.6, 4.2), xlim=(0, time[-1]))
    axes.set_yticks([-2, 0, 2])
    axes.legend(loc="upper right", ncols=2, fontsize=6.5, borderaxespad=0.1, columnspacing=0.8, handlelength=1)
    axes.set_title("c  prediction", loc="left")


def draw_times(axes: Any, result: LorenzReconstruction) -> None:
    """Median valid times of all networks, before and after training."""
    for place, (judged, color) in enumerate(((result.regressed, "grey"), (result.trained, "blue"))):
        number = len(judged.valid_time)
        x = place + 0.5 * (np.arange(number) - (number - 1) / 2) / max(number, 1)
        low, high = np.quantile(judged.valid_times, [0.25, 0.75], axis=1)
        axes.vlines(x, low, high, color=plotting.COLORS[color], linewidth=0.8)
        axes.plot(x, judged.valid_time, "o", color=plotting.COLORS[color], markersize=3)
    axes.set_xticks([0, 1], ["start", "trained"])
    axes.set(xlim=(-0.5, 1.5), ylim=(0, None), ylabel="valid / Lyapunov times")
    axes.set_title("d  valid time", loc="left")


def draw_exponents(axes: Any, result: LorenzReconstruction) -> None:
    """Largest exponents against the true one."""
    for place, (judged, color) in enumerate(((result.regressed, "grey"), (result.trained, "blue"))):
        number = len(judged.valid_time)
        x = place + 0.5 * (np.arange(number) - (number - 1) / 2) / max(number, 1)
        axes.plot(x, judged.exponents[:, 0], "o", color=plotting.COLORS[color], markersize=3)
    axes.axhline(SYSTEM.published.exponents[0], color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks([0, 1], ["start", "trained"])
    axes.set(xlim=(-0.5, 1.5), ylim=(0.6, 1.1), ylabel=r"$\lambda_1$ / time")
    axes.set_title("e  exponent", loc="left")
