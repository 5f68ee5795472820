"""The Lorenz system learned from samples, and its copy judged (Hess, Monfared, Brenner & Durstewitz 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.
What they learned is judged by what nobody trained them for: where their states lie, their spectrum of frequencies,
Lyapunov exponents and dimension, how long they stay with a true trajectory, and their equilibria, which are certified.
"""

import dataclasses
from typing import Annotated, Any

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.signal import savgol_filter

import rnndyn as rd
from experiments._copies import (
    Learned,
    Task,
    doubled,
    in_units_of,
    is_close,
    judged_lines,
    learn,
    num_exponents,
    runs_of,
)
from experiments._runge_kutta import RungeKutta
from experiments._settings import Fraction, Seed, at_least, check, check_order
from rnndyn import plotting

CAPTION = """The Lorenz system learned from samples (Hess et al. 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.

- **a, b** states of the system and of a network that runs by itself; orange dots, equilibria, of the network filled
  where existence and the number of unstable directions are proved.
- **c** a network that has seen samples with noise of 5 % of a standard deviation, smoothed by a cubic in every window
  of eleven.
- **d** a network that has seen x alone, by delay vectors: grey, of the system; blue, of the network.
- **e, f** a trajectory (black) and what a network makes of its start (orange): the prediction whose valid time is the
  median, of the networks of b and of c.
- **g** for how long predictions stay valid (error below 0.4 standard deviations): medians over starts, bars as long as
  half of them are apart, a dot for each network (five from clean samples), before (grey) and after (blue) training.
- **h** their largest exponents over those of the systems, with two standard errors.

What makes the copies good is where their kinks are: many ReLUs that share a few directions hardly miss a
step, and exponents, dimension and predictions follow; forcing has little left to mend. A regression
on noisy states is biased, and forcing from there does not make a copy of the system; once the samples are smoothed, the
regression does. Training amplifies rounding, so that two machines differ by about as much as two seeds.
"""

systems = rd.tasks.dynamical_systems

SYSTEM = systems.Lorenz63()
TRUE_UNSTABLE = (1, 2, 2)
"""Unstable directions of the origin and of the two wings, from the eigenvalues of the vector field."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dt: float = 0.01
    """Time between samples, as in the paper."""
    num_series: int = 24
    """From random states of a box around the attractor; how they get there is part of the data."""
    num_samples: int = 2000
    """Of each series."""
    num_hidden: int = 1000
    """ReLUs of the shallow networks, whose state has the three variables."""
    num_directions: int = 10
    """That the ReLUs share. Ten are as many as the cubic forms of three variables."""
    ridge: float = 1e-8
    """Of the regression that training starts from."""
    strength: Fraction = 0.05
    """Alpha of the forcing: some times 1 - exp(-lambda dt), below which gradients can grow."""
    window: int = 30
    """Samples of a training sequence."""
    num_updates: int = 300
    batch_size: int = 16
    learning_rate: float = 1e-6
    """At the start; it falls to a hundredth along a cosine. The weights of the regression are small and many."""
    max_grad_norm: float = 1.0
    num_networks: int = 5
    """From different random weights."""
    noise: float = 0.05
    """Standard deviation of the noise of the second task, in standard deviations of the variables."""
    smoothing_window: int = 11
    """Samples to which a polynomial is fitted, before the second task is learned."""
    smoothing_order: int = 3
    """Its degree."""
    noisy_hidden: int = 100
    noisy_ridge: float = 1e-6
    noisy_updates: int = 1000
    noisy_learning_rate: float = 1e-4
    num_delays: int = 3
    """Of the third task: values of x that make a state."""
    delay: int = 10
    """Samples between them."""
    delay_directions: int = 15
    with_sites: bool = False
    """A fourth task, Lorenz 96, in the report and in g and h. It takes about as long as the others together; what came
    of it is told in docs/reconstruction.md."""
    num_sites: Annotated[int, at_least(4)] = 20
    sites_dt: float = 0.05
    sites_hidden: int = 400
    sites_directions: int = 40
    """Two for each site: those along which the samples bend most. Random ones cannot carry so many products."""
    sites_ridge: float = 1e-6
    sites_updates: int = 600
    sites_learning_rate: float = 1e-4
    sites_strength: Fraction = 0.1
    num_starts: int = 50
    """Predictions of each network."""
    horizon: int = 1000
    """Steps of a prediction."""
    num_judged: int = 100_000
    """Steps of the runs that are compared, as many as the test series of Hess et al. have: D_stsp is the smaller the
    longer they are, and of short ones says little. A twentieth of it of Lorenz 96, where it is not made of cells."""
    num_runs: int = 8
    """Of the system, and of each network; of Lorenz 96 four at most."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "window", "num_samples")
        check_order(self, "horizon", "num_judged")
        check_order(self, "num_directions", "num_hidden")
        check_order(self, "sites_directions", "sites_hidden")
        check_order(self, "smoothing_order", "smoothing_window", strict=True)


SMOKE = Config(
    num_series=3, num_samples=60, num_hidden=8, num_directions=2, window=6, num_updates=3, batch_size=3, num_networks=1,
    num_starts=3, horizon=20, num_judged=800, num_runs=2, ridge=1e-3, noisy_hidden=8, noisy_updates=3,
    smoothing_window=7, num_delays=3, delay=2, delay_directions=2, num_sites=4, sites_hidden=8, sites_directions=4,
    sites_updates=3,
)  # fmt: skip


class LorenzReconstruction(rd.Result):
    """One row of every array for each network of the first task."""

    clean: Learned
    others: tuple[Learned, ...]
    """With noise, from one variable, and Lorenz 96 where that is asked for."""
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

    @property
    def has_wings(self) -> np.ndarray:
        """Whether all three equilibria of a network are certified with the right unstable directions."""
        return (self.certified & (self.num_unstable == TRUE_UNSTABLE)).all(axis=1)


def compute(config: Config) -> LorenzReconstruction:
    """Make the data of every task, train, and judge the networks before and after."""
    data_key, box_key, test_key, noise_key, ring_key, *keys = jax.random.split(jax.random.key(config.seed), 9)
    box = jax.random.uniform(box_key, (config.num_series, 3), minval=-1.0, maxval=1.0)
    starts = np.array([0.0, 0.0, 24.0]) + np.array([18.0, 24.0, 22.0]) * np.asarray(box, float)
    series = systems.sample_system(
        SYSTEM, config.num_samples, dt=config.dt, starts=starts, num_transient=0, key=data_key
    ).standardize()
    system = in_units_of(series, RungeKutta(SYSTEM, config.dt))
    # As many steps are left of the third task, where the first ones are lost to delays: equal sizes share programs.
    longer = runs_of(system, config.num_runs, config.num_judged + (config.num_delays - 1) * config.delay, test_key)
    truth = longer[:, : config.num_judged]
    clean = Task(
        name="clean", series=series, system=system, truth=truth, exponent=SYSTEM.published.exponents[0],
        num_hidden=config.num_hidden, num_directions=config.num_directions, ridge=config.ridge,
        num_updates=config.num_updates, learning_rate=config.learning_rate, strength=config.strength,
        num_networks=config.num_networks, **common(config),
    )  # fmt: skip
    noisy = clean._replace(
        name="noisy", series=smoothed(series.with_noise(config.noise, key=noise_key), config), num_networks=1,
        num_hidden=config.noisy_hidden, ridge=config.noisy_ridge, num_updates=config.noisy_updates,
        learning_rate=config.noisy_learning_rate,
    )  # fmt: skip
    seen = lambda part: part.in_units().observe([0]).embed(config.num_delays, config.delay)
    of_x = seen(series).standardize()
    assert series.scale is not None
    recorded = seen(systems.as_series(series.scale.invert(longer), dt=config.dt)).standardize(like=of_x).values
    from_x = clean._replace(
        name="from x alone", series=of_x, system=recorded, truth=recorded,
        num_directions=config.delay_directions, num_networks=1,
    )  # fmt: skip
    clean_networks, learned = learn(clean, keys[0])
    more = [noisy, from_x, *([ring(config, ring_key)] if config.with_sites else [])]
    others = [learn(task, key)[1] for task, key in zip(more, keys[1:])]
    true_points = series.scale.apply(np.asarray(SYSTEM.equilibria, float))
    found = [
        equilibria_near(cell, compared.copy_fixed_points, true_points)
        for cell, compared in zip(clean_networks, learned.trained)
    ]
    points, num_unstable, certified = (np.array(column) for column in zip(*found))
    return LorenzReconstruction(
        clean=learned,
        others=tuple(others),
        true_points=true_points,
        points=points,
        distances=np.linalg.norm(points - true_points, axis=2),
        num_unstable=num_unstable,
        certified=certified,
    )


def ring(config: Config, key: Any) -> Task:
    """Lorenz 96, with the largest exponent measured on the system itself."""
    system = systems.Lorenz96(config.num_sites)
    data_key, test_key = jax.random.split(key)
    series = systems.sample_system(
        system, config.num_samples, dt=config.sites_dt, num_series=config.num_series, num_transient=200, key=data_key
    ).standardize()
    # The step that Lorenz took himself.
    scaled = in_units_of(series, RungeKutta(system, config.sites_dt))
    # Between twenty variables, places are compared point by point.
    num_steps = max(config.num_judged // 20, 800)
    truth = runs_of(scaled, min(config.num_runs, 4), num_steps, test_key)
    with jax.enable_x64(True):
        spectrum = rd.lyapunov_spectrum(
            scaled, truth[0, 0], min(4000, config.num_judged), num_exponents=1, dt=config.sites_dt
        )
    return Task(
        name="Lorenz 96", series=series, system=scaled, truth=truth, exponent=float(spectrum.exponents[0]),
        num_hidden=config.sites_hidden, num_directions=config.sites_directions, directions="curvature",
        ridge=config.sites_ridge,
        num_updates=config.sites_updates, learning_rate=config.sites_learning_rate, strength=config.sites_strength,
        **common(config),
    )  # fmt: skip


def common(config: Config) -> dict[str, Any]:
    """What all tasks have in common."""
    names = ("window", "batch_size", "max_grad_norm", "num_starts", "horizon")
    return {name: getattr(config, name) for name in names}


def smoothed(series: Any, config: Config) -> Any:
    """Noisy series with a polynomial fitted to every window of samples (Savitzky & Golay 1964).

    A regression on noisy states is biased; what lies around a sample says where it was.
    """
    values = savgol_filter(series.values, config.smoothing_window, config.smoothing_order, axis=1)
    return eqx.tree_at(lambda part: part.values, series, values)


def equilibria_near(
    cell: Any, found: rd.FixedPoints | None, true_points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fixed point of the network nearest to each true equilibrium: where, how unstable, and whether proved."""
    f = rd.as_map(doubled(cell))
    points = np.full(true_points.shape, np.nan)
    num_unstable, certified = np.full(len(points), -1), np.zeros(len(points), bool)
    for row, true in enumerate(true_points):
        if found is None or not len(found.points):
            break
        nearest = int(np.argmin(np.linalg.norm(found.points - true, axis=1)))
        certificate = rd.certify_fixed_point(f, found.points[nearest])
        points[row] = found.points[nearest]
        certified[row] = certificate.certified and certificate.num_unstable >= 0
        # Where it is not proved, what the multipliers say.
        num_unstable[row] = certificate.num_unstable if certified[row] else found.num_unstable[nearest]
    return points, num_unstable, certified


def report(result: LorenzReconstruction) -> str:
    """The table of one network, all networks in a line each, and what was asked for."""
    clean, published = result.clean, SYSTEM.published
    lines = [
        f"Lorenz 63, published exponents {', '.join(f'{value:.3f}' for value in published.exponents)}, Kaplan-Yorke "
        f"dimension {published.kaplan_yorke_dimension:.3f} ({published.source})",
        f"network {clean.shown + 1} of {len(clean.trained)}, after training:",
        clean.trained[clean.shown].table(),
        "a line for each network:",
        "                     one step   D_stsp     D_H   valid time   exponents (+- of the first)           dimension",
        *(line for learned in (clean, *result.others) for line in judged_lines(learned)),
        "equilibria of the networks trained on clean samples: distance in standard deviations, unstable directions "
        "(1, 2, 2)",
    ]
    for row in range(len(result.distances)):
        marks = [
            f"{distance:.4f} / {count} {'proved' if proved else 'not proved'}"
            for distance, count, proved in zip(result.distances[row], result.num_unstable[row], result.certified[row])
        ]
        lines.append(f"  {row + 1:2d}  " + ", ".join(marks))
    close = lambda name, value, by: np.array([is_close(one[name], value, by) for one in clean.trained])
    null = clean.trained[0]["D_stsp"]
    alike = [bool(one["D_stsp"].result == rd.LikenessVerdict.identical) for one in clean.trained]
    wanted = {
        "D_stsp as good as identical": np.array(alike),
        f"D_stsp at most 0.3 (of the system against itself {null.shown('system')})": close("D_stsp", 0.0, 0.3),
        "largest exponent within 0.03 of 0.906": close("exponent 1", 0.906, 0.03),
        "dimension within 0.05 of 2.06": close("Kaplan-Yorke dimension", 2.06, 0.05),
        "valid for 4 Lyapunov times in the median": clean.valid_times(clean.trained)[0] >= 4,
        "three equilibria proved, with the right stability, within 0.3": result.has_wings
        & (result.distances <= 0.3).all(axis=1),
    }
    lines += [f"  {name}: {int(np.sum(held))} of {len(held)} networks" for name, held in wanted.items()]
    return "\n".join(lines)


def plot(result: LorenzReconstruction) -> Figure:
    """Attractors and predictions above; below all numbers, and the other tasks."""
    clean, shown = result.clean, result.clean.shown
    figure, axes = plt.subplots(2, 4, figsize=(plotting.PAGE_WIDTH, 3.7), layout="constrained")
    draw_attractor(axes[0, 0], clean.truth, result.true_points, np.ones(3, bool), "a  system")
    draw_attractor(axes[0, 1], clean.copy, result.points[shown], result.certified[shown], "b  network")
    noisy, from_x = result.others[:2]
    draw_attractor(axes[0, 2], noisy.copy, np.empty((0, 3)), np.empty(0, bool), "c  learned from noise")
    for panel in axes[0, 1:3]:
        panel.set(xlim=axes[0, 0].get_xlim(), ylim=axes[0, 0].get_ylim())
    draw_delays(axes[0, 3], from_x)
    draw_prediction(axes[1, 0], clean, "e  prediction")
    draw_prediction(axes[1, 1], noisy, "f  learned from noise")
    draw_times(axes[1, 2], result)
    draw_exponents(axes[1, 3], result)
    return figure


def draw_attractor(axes: Any, states: np.ndarray, points: np.ndarray, proved: np.ndarray, title: str) -> None:
    """States in the plane of x and z, and equilibria: filled where they are proved."""
    axes.plot(states[:, 0], states[:, 2], color=plotting.COLORS["blue"], linewidth=0.25)
    for point, is_proved in zip(points, proved):
        face = plotting.COLORS["orange"] if is_proved else "white"
        axes.plot(point[0], point[2], "o", color=plotting.COLORS["orange"], markerfacecolor=face, markersize=4)
    axes.set(xlabel="$x$ / s.d.", ylabel="$z$ / s.d.")
    axes.set_title(title)


def draw_delays(axes: Any, learned: Learned) -> None:
    """The delay vectors of the system, and those of the network over them."""
    for states, color, width in ((learned.truth, "grey", 0.6), (learned.copy, "blue", 0.25)):
        axes.plot(states[:, 0], states[:, -1], color=plotting.COLORS[color], linewidth=width)
    axes.set(xlabel="$x(t)$ / s.d.", ylabel=r"$x(t - 2\tau)$ / s.d.")
    axes.set_title("d  from $x$ alone")


def draw_prediction(axes: Any, learned: Learned, title: str) -> None:
    """One trajectory and its prediction, over time in Lyapunov times."""
    time = learned.dt * learned.exponent * np.arange(1, len(learned.run) + 1)
    stop = max(int(np.searchsorted(time, 10.0)), 2)
    axes.plot(time[:stop], learned.true_run[:stop], color="black", linewidth=1.0, label="system")
    axes.plot(time[:stop], learned.run[:stop], color=plotting.COLORS["orange"], linewidth=0.8, label="network")
    axes.set(xlabel="time / Lyapunov times", ylabel="$x$ / s.d.", ylim=(-3.0, 4.6), xlim=(0, time[stop - 1]))
    axes.set_yticks([-2, 0, 2])
    axes.legend(loc="upper right", ncols=2, fontsize=6.5, borderaxespad=0.1, columnspacing=0.8, handlelength=1)
    axes.set_title(title)


def draw_times(axes: Any, result: LorenzReconstruction) -> None:
    """Median valid times of all networks, and their spread over starts."""
    draw_networks(axes, result, lambda learned, compared: learned.valid_times(compared), half=0.5 * 1.349)
    axes.set(title="g  valid time", ylim=(0, None), ylabel="valid / Lyapunov times")


def draw_exponents(axes: Any, result: LorenzReconstruction) -> None:
    """Largest exponents over the true one, with two standard errors."""

    def values(learned: Learned, compared: tuple[rd.DynamicsComparison, ...]) -> tuple[np.ndarray, np.ndarray]:
        rows = [one["exponent 1"] if num_exponents(one) else None for one in compared]
        pairs = [(np.nan, np.nan) if row is None else (row.copy, row.copy_error) for row in rows]
        value, error = np.array(pairs, float).T
        return value / learned.exponent, error / learned.exponent

    draw_networks(axes, result, values, half=2.0)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(title="h  largest exponent", ylim=(0.3, 1.2), ylabel=r"$\lambda_1$ / true $\lambda_1$")


def draw_networks(axes: Any, result: LorenzReconstruction, values: Any, *, half: float) -> None:
    """A dot and a bar for each network of each task, before (grey) and after (blue) training."""
    for task, learned in enumerate((result.clean, *result.others)):
        for compared, color, shift in ((learned.regressed, "grey", -0.2), (learned.trained, "blue", 0.2)):
            value, error = values(learned, compared)
            x = task + shift + 0.3 * (np.arange(len(value)) - (len(value) - 1) / 2) / len(value)
            style = {"color": plotting.COLORS[color], "markersize": 2.5, "elinewidth": 0.8}
            axes.errorbar(x, value, half * error, fmt="o", **style)
    names = ["clean", "noisy", "$x$", "L96"][: 1 + len(result.others)]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
