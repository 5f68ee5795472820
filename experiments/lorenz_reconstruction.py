"""The Lorenz system learned from samples, and its copy judged (Hess, Monfared, Brenner & Durstewitz 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.
What they learned is judged by what nobody trained them for: where their states lie, their spectrum of frequencies,
Lyapunov exponents and dimension, how long they stay with a true trajectory, and their equilibria, which are certified.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._settings import Fraction, Seed, at_least, check, check_order
from rnndyn import plotting

CAPTION = """The Lorenz system learned from samples (Hess et al. 2023).

Shallow piecewise-linear networks start from a regression of one step and are trained by generalised teacher forcing.

- **a, b** states of the system and of a network that runs by itself; orange dots, equilibria, of the network filled
  where existence and the number of unstable directions are proved.
- **c** a network that was trained on samples with noise of 5 % of a standard deviation.
- **d** a network that has seen x alone, by delay vectors: grey, of the system; blue, of the network.
- **e, f** a trajectory (black) and what a network makes of its start (orange): the prediction whose valid time is the
  median, of the networks of b and of c.
- **g** for how long predictions stay valid (error below 0.4 standard deviations): medians and quartiles over starts,
  a dot for each network, before (grey) and after (blue) training.
- **h** their largest exponents over those of the systems, with two standard errors over several runs.

What makes the copies good is where their kinks are: a thousand ReLUs that share ten directions miss a step by a
few hundred-thousandths, and exponents, dimension and predictions follow. From clean samples forcing has nothing left to
mend; from noisy ones, where the regression is biased, predictions last longer after it, and the copy is still not that
of the system. Training amplifies rounding, so that two machines differ by about as much as two seeds.
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
    noisy_hidden: int = 100
    noisy_ridge: float = 1e-4
    noisy_updates: int = 3000
    noisy_learning_rate: float = 1e-3
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
    sites_ridge: float = 1e-4
    sites_updates: int = 1500
    sites_learning_rate: float = 1e-3
    sites_strength: Fraction = 0.1
    num_starts: int = 50
    """Predictions of each network."""
    horizon: int = 1000
    """Steps of a prediction."""
    num_judged: int = 40_000
    """Steps of the long runs that say where states lie."""
    num_exponent_runs: int = 12
    num_exponent_steps: int = 10_000
    """Of each of them: 1200 units of time have a standard error below 0.01. A quarter of the runs before training; a
    fifth of the steps, five times as long, of Lorenz 96."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        check_order(self, "window", "num_samples")
        check_order(self, "horizon", "num_judged")
        check_order(self, "num_directions", "num_hidden")


SMOKE = Config(
    num_series=3, num_samples=60, num_hidden=8, num_directions=2, window=6, num_updates=3, batch_size=3, num_networks=1,
    num_starts=3, horizon=20, num_judged=800, ridge=1e-3, noisy_hidden=8, noisy_updates=3, num_delays=3, delay=2,
    delay_directions=2, num_sites=4, sites_hidden=8, sites_updates=3, num_exponent_runs=2, num_exponent_steps=64,
)  # fmt: skip


class Task(NamedTuple):
    """What is to be learned, and how."""

    name: str
    series: Any
    """To learn from, standardised."""
    truth: np.ndarray
    """A long run (T, N), standardised like the series, without noise."""
    other: np.ndarray
    """Another one."""
    exponent: float
    """The largest exponent of the system."""
    num_hidden: int
    num_directions: int | None
    ridge: float
    num_updates: int
    learning_rate: float
    strength: float
    num_exponent_steps: int
    num_networks: int = 1


class Judgement(rd.Result):
    """Measures of some networks, a row each."""

    valid_times: np.ndarray
    """(networks, starts), in Lyapunov times of the system."""
    exponents: np.ndarray
    """(networks, N), per unit of time, mean of several runs; NaN where a run does not stay finite."""
    stderr: np.ndarray
    """Of the exponents, from the spread of the runs."""
    dimension: np.ndarray
    """Kaplan-Yorke dimension, mean of the runs."""
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


class Learned(rd.Result):
    """The networks of one task."""

    name: str
    regressed: Judgement
    """What the regression alone is worth."""
    trained: Judgement
    null: np.ndarray
    """D_stsp and D_H of the true system against itself, from another start."""
    truth: np.ndarray
    """Some true states, for the figure."""
    copy: np.ndarray
    """As many of the network whose predictions stay valid for the median time."""
    true_run: np.ndarray
    """One true trajectory, first variable, for the figure."""
    run: np.ndarray
    """Its prediction by that network."""
    dt: float
    exponent: float

    @property
    def shown(self) -> int:
        """The network in the figure: its valid time is the median of all."""
        return middle(self.trained.valid_time)


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


def middle(values: np.ndarray) -> int:
    """The index of the median, of an even number the lower of the two."""
    return int(np.argsort(values)[(len(values) - 1) // 2])


def compute(config: Config) -> LorenzReconstruction:
    """Make the data of every task, train, and judge the networks before and after."""
    data_key, box_key, test_key, noise_key, ring_key, *keys = jax.random.split(jax.random.key(config.seed), 9)
    box = jax.random.uniform(box_key, (config.num_series, 3), minval=-1.0, maxval=1.0)
    starts = np.array([0.0, 0.0, 24.0]) + np.array([18.0, 24.0, 22.0]) * np.asarray(box, float)
    sample = lambda num_steps, **options: systems.sample_system(SYSTEM, num_steps, dt=config.dt, **options)
    series = sample(config.num_samples, starts=starts, num_transient=0, key=data_key).standardize()
    test = sample(config.num_judged, num_series=2, key=test_key).standardize(like=series)
    exponent = SYSTEM.published.exponents[0]
    clean = Task(
        "clean", series, *test.values, exponent, config.num_hidden, config.num_directions, config.ridge,  # pyright: ignore[reportCallIssue]
        config.num_updates, config.learning_rate, config.strength, config.num_exponent_steps, config.num_networks,  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    noisy = clean._replace(
        name="noisy", series=series.with_noise(config.noise, key=noise_key), num_hidden=config.noisy_hidden,
        ridge=config.noisy_ridge, num_updates=config.noisy_updates, learning_rate=config.noisy_learning_rate,
        num_networks=1,
    )  # fmt: skip
    seen = lambda part: part.in_units().observe([0]).embed(config.num_delays, config.delay)
    of_x = seen(series).standardize()
    from_x = clean._replace(
        name="from x alone", series=of_x, truth=seen(test).standardize(like=of_x).values[0],
        other=seen(test).standardize(like=of_x).values[1], num_directions=config.delay_directions, num_networks=1,
    )  # fmt: skip
    clean_networks, learned = learn(clean, config, keys[0])
    more = [noisy, from_x, *([ring(config, ring_key)] if config.with_sites else [])]
    others = [learn(task, config, key)[1] for task, key in zip(more, keys[1:])]
    assert series.scale is not None
    true_points = series.scale.apply(np.asarray(SYSTEM.equilibria, float))
    found = [equilibria_near(cell, true_points) for cell in clean_networks]
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
    sample = lambda num_steps, **options: systems.sample_system(
        system, num_steps, dt=config.sites_dt, num_transient=200, **options
    )
    series = sample(config.num_samples, num_series=config.num_series, key=data_key).standardize()
    test = sample(max(config.num_judged // 4, config.horizon), num_series=2, key=test_key)
    with jax.enable_x64(True):
        flow = rd.time_map(system, config.sites_dt)
        num_steps = min(4000, config.num_judged)
        spectrum = rd.lyapunov_spectrum(flow, test.values[0, 0], num_steps, num_exponents=1, dt=config.sites_dt)
    return Task(
        "Lorenz 96", series, *test.standardize(like=series).values, float(spectrum.exponents[0]), config.sites_hidden,  # pyright: ignore[reportCallIssue]
        None, config.sites_ridge, config.sites_updates, config.sites_learning_rate, config.sites_strength,  # pyright: ignore[reportCallIssue]
        max(config.num_exponent_steps // 5, 64),  # pyright: ignore[reportCallIssue]
    )  # fmt: skip


def learn(task: Task, config: Config, key: Any) -> tuple[list[Any], Learned]:
    """Networks of a task by regression and by forcing, both judged."""
    start_key, fit_key = jax.random.split(key)
    cells = [
        rd.training.shallow_start(
            task.series, task.num_hidden, num_directions=task.num_directions, ridge=task.ridge, dtype=np.float32,
            key=key,
        )
        for key in jax.random.split(start_key, task.num_networks)
    ]  # fmt: skip
    models = [rd.RNN(cell, identity_readout(task.truth.shape[1])) for cell in cells]
    loss = rd.training.forced_loss(task.strength, fixed_readout=True)
    schedule = optax.cosine_decay_schedule(task.learning_rate, task.num_updates, alpha=0.01)
    fitted = rd.fit_ensemble(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *models),
        loss,
        systems.SeriesWindows(task.series, config.window, config.batch_size, dtype=np.float32),
        optax.adam(schedule),
        num_steps=task.num_updates,
        max_grad_norm=config.max_grad_norm,
        carry=loss.first_carry(),
        key=fit_key,
    )
    trained = [jax.tree.map(lambda leaf, i=i: leaf[i], fitted.last_models.cell) for i in range(task.num_networks)]
    regressed, _ = judge(cells, task, config, max(config.num_exponent_runs // 4, 2))
    judged, runs = judge(trained, task, config, config.num_exponent_runs)
    shown = middle(judged.valid_time)
    # Of its predictions, the one that stays valid for the median time.
    start = first_rows(task, config)[middle(judged.valid_times[shown])]
    with jax.enable_x64(True):
        run = rd.trajectory(rd.as_map(doubled(trained[shown])), task.truth[start], config.horizon)
    num_shown = min(8000, len(task.truth))
    null = rd.state_space_divergence(task.truth, task.other), rd.spectrum_distance(task.truth, task.other)
    return trained, Learned(
        name=task.name,
        regressed=regressed,
        trained=judged,
        null=np.array([float(value) for value in null]),
        truth=task.truth[:num_shown],
        copy=runs[shown][:num_shown],
        true_run=task.truth[start + 1 : start + 1 + config.horizon, 0],
        run=np.asarray(run)[:, 0],
        dt=task.series.dt,
        exponent=task.exponent,
    )


def identity_readout(size: int) -> eqx.nn.Linear:
    """The variables themselves."""
    readout = eqx.nn.Linear(size, size, use_bias=False, key=jax.random.key(0))
    return eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(size))


def doubled(cell: Any) -> Any:
    """The network with exactly these weights, to be computed in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), cell)


def first_rows(task: Task, config: Config) -> np.ndarray:
    """Where predictions start."""
    return np.linspace(0, len(task.truth) - config.horizon - 1, config.num_starts).astype(int)


@eqx.filter_jit
def measure(
    cells: Any, truth: Any, starts: Any, exponent_starts: Any, horizon: int, num_steps: int, dt: float
) -> tuple[Any, ...]:
    """Spectra, predictions, single steps and a long run of several networks."""

    def one(cell: Any) -> tuple[Any, ...]:
        f = rd.as_map(cell)
        spectrum = lambda x: rd.lyapunov_spectrum(f, x, num_steps, num_transient=500, dt=dt)
        spectra = jax.vmap(spectrum)(exponent_starts)
        predictions = jax.vmap(lambda x: rd.trajectory(f, x, horizon))(starts)
        step = jax.vmap(f)(truth[:-1:10])
        run = rd.trajectory(f, starts[0], len(truth), num_transient=500)
        return spectra.exponents, spectra.kaplan_yorke_dimension, predictions, step, run

    return jax.lax.map(one, cells)


def judge(cells: list[Any], task: Task, config: Config, num_runs: int) -> tuple[Judgement, np.ndarray]:
    """All measures of the networks, and their long runs (networks, steps, N)."""
    truth, first = task.truth, first_rows(task, config)
    future = np.stack([truth[i + 1 : i + 1 + config.horizon] for i in first])
    places = np.linspace(0, len(truth) - 1, num_runs).astype(int)
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(doubled, cells))
        measured = measure(
            stacked,
            jnp.asarray(truth),
            jnp.asarray(truth[first]),
            jnp.asarray(truth[places]),
            config.horizon,
            task.num_exponent_steps,
            task.series.dt,
        )
        exponents, dimension, predictions, steps, runs = (np.asarray(value) for value in measured)
        times = [
            np.asarray(rd.valid_prediction_time(future, p, lyapunov_exponent=task.exponent, dt=task.series.dt).times)
            for p in predictions
        ]
        # A network that leaves for infinity has no place and no spectrum, one that settles no spectrum.
        bounded = [bool(np.isfinite(run).all() and np.abs(run).max() < 1e3) for run in runs]
        moves = [stays and bool((np.std(run, axis=0) > 1e-9).all()) for run, stays in zip(runs, bounded)]
        divergence = [float(rd.state_space_divergence(truth, r)) if ok else np.nan for r, ok in zip(runs, bounded)]
        spectral = [float(rd.spectrum_distance(truth, r)) if ok else np.nan for r, ok in zip(runs, moves)]
    finite = np.isfinite(exponents).all(axis=(1, 2)) & np.array(bounded)
    root = np.sqrt(exponents.shape[1])
    return (
        Judgement(
            valid_times=np.array(times),
            exponents=np.where(finite[:, None], exponents.mean(axis=1), np.nan),
            stderr=np.where(finite[:, None], exponents.std(axis=1, ddof=1) / root, np.nan),
            dimension=np.where(finite, dimension.mean(axis=1), np.nan),
            divergence=np.array(divergence),
            spectral=np.array(spectral),
            one_step=np.sqrt(np.mean((steps - truth[1::10]) ** 2, axis=(1, 2))),
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
    clean = result.clean
    lines = [
        "                     one step   D_stsp     D_H   valid time   exponents                    dimension",
        f"  system                       {clean.null[0]:7.3f} {clean.null[1]:7.3f}                "
        f"{published.exponents[0]:7.3f} {published.exponents[1]:7.3f} {published.exponents[2]:8.3f}  "
        f"{published.kaplan_yorke_dimension:8.3f}   (exponents: {published.source}; D: against itself)",
        *judged_lines(clean),
        f"  standard errors of the trained networks' largest exponents: {clean.trained.stderr[:, 0].max():.3f} at most",
        "equilibria of the trained networks: distance in standard deviations, unstable directions (1, 2, 2)",
    ]
    for row in range(len(result.distances)):
        marks = [
            f"{distance:.4f} / {count} {'proved' if proved else 'not proved'}"
            for distance, count, proved in zip(result.distances[row], result.num_unstable[row], result.certified[row])
        ]
        lines.append(f"  {row + 1:2d}  " + ", ".join(marks))
    judged, number = clean.trained, len(result.distances)
    wanted = {
        "D_stsp at most 0.3": judged.divergence <= 0.3,
        "largest exponent within 0.03 of 0.906": np.abs(judged.exponents[:, 0] - 0.906) <= 0.03,
        "dimension within 0.05 of 2.06": np.abs(judged.dimension - 2.06) <= 0.05,
        "valid for 4 Lyapunov times in the median": judged.valid_time >= 4,
        "three equilibria proved, with the right stability, within 0.3": result.has_wings
        & (result.distances <= 0.3).all(axis=1),
    }
    lines += [f"  {name}: {int(np.sum(held))} of {number} networks" for name, held in wanted.items()]
    for learned in result.others:
        lines.append(
            f"{learned.name}: D_stsp and D_H of the system against itself {learned.null[0]:.3f} {learned.null[1]:.3f}, "
            f"its largest exponent {learned.exponent:.3f}"
        )
        lines += judged_lines(learned)
    return "\n".join(lines)


def judged_lines(learned: Learned) -> list[str]:
    """A line for each network, before and after training."""
    lines = []
    for name, judged in (("regression", learned.regressed), ("trained", learned.trained)):
        for row in range(len(judged.dimension)):
            values = "".join(f"{value:8.3f}" for value in judged.exponents[row][:3])
            lines.append(
                f"  {name:<15} {row + 1:2d}  {judged.one_step[row]:8.1e} {judged.divergence[row]:8.3f} "
                f"{judged.spectral[row]:7.3f} {judged.valid_time[row]:9.2f}     {values}  {judged.dimension[row]:8.3f}"
            )
    return lines


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
    axes.set_title(title, loc="left")


def draw_delays(axes: Any, learned: Learned) -> None:
    """The delay vectors of the system, and those of the network over them."""
    for states, color, width in ((learned.truth, "grey", 0.6), (learned.copy, "blue", 0.25)):
        axes.plot(states[:, 0], states[:, -1], color=plotting.COLORS[color], linewidth=width)
    axes.set(xlabel="$x(t)$ / s.d.", ylabel=r"$x(t - 2\tau)$ / s.d.")
    axes.set_title("d  from $x$ alone", loc="left")


def draw_prediction(axes: Any, learned: Learned, title: str) -> None:
    """One trajectory and its prediction, over time in Lyapunov times."""
    time = learned.dt * learned.exponent * np.arange(1, len(learned.run) + 1)
    stop = max(int(np.searchsorted(time, 10.0)), 2)
    axes.plot(time[:stop], learned.true_run[:stop], color="black", linewidth=1.0, label="system")
    axes.plot(time[:stop], learned.run[:stop], color=plotting.COLORS["orange"], linewidth=0.8, label="network")
    axes.set(xlabel="time / Lyapunov times", ylabel="$x$ / s.d.", ylim=(-3.0, 4.6), xlim=(0, time[stop - 1]))
    axes.set_yticks([-2, 0, 2])
    axes.legend(loc="upper right", ncols=2, fontsize=6.5, borderaxespad=0.1, columnspacing=0.8, handlelength=1)
    axes.set_title(title, loc="left")


def name_tasks(axes: Any, result: LorenzReconstruction) -> None:
    """A tick for each task."""
    names = ["clean", "noisy", "$x$", "L96"][: 1 + len(result.others)]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


def draw_times(axes: Any, result: LorenzReconstruction) -> None:
    """Median valid times of all networks and their quartiles, before and after training."""
    for task, learned in enumerate((result.clean, *result.others)):
        for judged, color, shift in ((learned.regressed, "grey", -0.2), (learned.trained, "blue", 0.2)):
            number = len(judged.valid_time)
            x = task + shift + 0.3 * (np.arange(number) - (number - 1) / 2) / max(number, 1)
            low, high = np.quantile(judged.valid_times, [0.25, 0.75], axis=1)
            axes.vlines(x, low, high, color=plotting.COLORS[color], linewidth=0.8)
            axes.plot(x, judged.valid_time, "o", color=plotting.COLORS[color], markersize=2.5)
    name_tasks(axes, result)
    axes.set(ylim=(0, None), ylabel="valid / Lyapunov times")
    axes.set_title("g  valid time", loc="left")


def draw_exponents(axes: Any, result: LorenzReconstruction) -> None:
    """Largest exponents over the true one, with two standard errors."""
    for task, learned in enumerate((result.clean, *result.others)):
        for judged, color, shift in ((learned.regressed, "grey", -0.2), (learned.trained, "blue", 0.2)):
            number = len(judged.valid_time)
            x = task + shift + 0.3 * (np.arange(number) - (number - 1) / 2) / max(number, 1)
            axes.errorbar(
                x, judged.exponents[:, 0] / learned.exponent, 2 * judged.stderr[:, 0] / learned.exponent, fmt="o",
                color=plotting.COLORS[color], markersize=2.5, elinewidth=0.8,
            )  # fmt: skip
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    name_tasks(axes, result)
    axes.set(ylim=(0.3, 1.2), ylabel=r"$\lambda_1$ / true $\lambda_1$")
    axes.set_title("h  largest exponent", loc="left")
