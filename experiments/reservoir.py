"""Echo state networks continue chaotic series, and have their exponents (Pathak, Lu, Hunt, Girvan & Ott 2017).

Three hundred random units are driven by a series, and one linear regression reads the next sample off them. Closed over
its own predictions the network is an autonomous map: its trajectories stay with the true ones for some Lyapunov times,
its largest exponents are those of the system, and its most negative ones are its own.
"""

import dataclasses
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import rnndyn as rd
from experiments._runge_kutta import RungeKutta
from experiments._settings import NotNegative, Seed, check
from rnndyn import plotting

CAPTION = """Echo state networks continue chaos (Pathak et al. 2017).

Five random networks of 300 units, of which one linear regression is learned, run on their own predictions.
Settings were chosen once, on another series of Lorenz; the five are different draws of the random weights.

- **a** the Lorenz system (black) and a network (orange) from the same past.
- **b** for how long each network's predictions stay valid: dots, starts; bars, medians.
- **c** the four largest exponents of the five closed loops (orange dots) and the three of the system (black): the
  first two agree, the others are those of the network.
- **d** the Mackey-Glass equation (black) and a network that sees one value of it (orange).
"""

systems = rd.tasks.dynamical_systems

PUBLISHED = (0.90, 0.00, -10.5)
"""The three largest exponents of the one network of 300 units that Pathak et al. (2017) call R1, which learned Lorenz:
quoted from memory, not compared with the paper's table. Nothing is judged by these numbers."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    num_units: int = 300
    num_networks: int = 5
    """From different random weights."""
    num_samples: int = 8000
    """To learn from; of Lorenz every `dt`."""
    dt: float = 0.02
    spectral_radii: tuple[float, ...] = (0.4, 0.8, 1.2)
    input_scalings: tuple[float, ...] = (0.05, 0.1, 0.2)
    ridges: tuple[float, ...] = (1e-10, 1e-8, 1e-6)
    """Every combination is tried, on a series of its own; the networks have the best."""
    bias_scaling: NotNegative = 1.0
    num_validation: int = 3000
    num_starts: int = 20
    horizon: int = 700
    """Steps of a prediction."""
    num_judged: int = 10_000
    """Steps of the runs that are compared."""
    num_runs: int = 8
    """Of the system, and of each network."""
    num_candidates: int = 16
    """Starting points of the searches for fixed points: each step of one takes a Jacobian of all units."""
    num_mackey_glass: int = 4000
    """Samples of the delay equation, one for each unit of time."""
    mackey_glass_horizon: int = 800
    num_washout: int = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(
    num_units=12, num_networks=2, num_samples=120, spectral_radii=(0.8,), input_scalings=(0.1,), ridges=(1e-4,),
    num_validation=80, num_starts=2, horizon=20, num_judged=400, num_runs=4, num_mackey_glass=150,
    mackey_glass_horizon=20, num_washout=20, num_candidates=4,
)  # fmt: skip


class ReservoirStudy(rd.Result):
    """One row of every array for each network."""

    grid: rd.ReservoirGrid
    """The settings tried, on Lorenz."""
    valid_times: np.ndarray
    """(networks, starts), in Lyapunov times."""
    compared: tuple[rd.DynamicsComparison, ...]
    """The closed loop of each network beside the system."""
    training_error: np.ndarray
    """Root mean square error of one step, in standard deviations, mean of the variables."""
    truth: np.ndarray
    """Some true states, (T, 3)."""
    run: np.ndarray
    """What the first network makes of it."""
    dt: float
    delay_truth: np.ndarray
    """Mackey-Glass, (T,)."""
    delay_run: np.ndarray
    """Its prediction by the first network, of the start with the median valid time."""
    delay_valid: np.ndarray
    """(networks, starts), in units of time."""
    delay_lasted: np.ndarray
    """Which of these were valid to the end."""

    @property
    def exponents(self) -> np.ndarray:
        """(networks, 4), of the closed loops, per unit of time."""
        return np.array([one.copy_spectrum.exponents for one in self.compared if one.copy_spectrum is not None])


def compute(config: Config) -> ReservoirStudy:
    """Choose settings on a validation series, train, predict, and measure exponents."""
    data_key, grid_key, network_key, delay_key = jax.random.split(jax.random.key(config.seed), 4)
    lorenz = systems.Lorenz63()
    num_test = config.num_washout + 2 * config.horizon + 40 * config.num_starts
    total = config.num_samples + config.num_validation + num_test
    series = systems.sample_system(lorenz, total, dt=config.dt, key=data_key)
    train, rest = series.cut(config.num_samples)
    validation, test = rest.cut(config.num_validation)
    train = train.standardize()
    grid = rd.reservoir_grid(
        train,
        validation,
        config.num_units,
        spectral_radius=config.spectral_radii,
        input_scaling=config.input_scalings,
        bias_scaling=(config.bias_scaling,),
        ridge=config.ridges,
        num_connections=min(6, config.num_units),
        num_washout=config.num_washout,
        num_starts=config.num_starts,
        num_free=min(config.horizon, config.num_validation - config.num_washout),
        key=grid_key,
    )
    networks = [
        grid.best_reservoir(3, key=key).fit(train, ridge=grid.best["ridge"], num_washout=config.num_washout)
        for key in jax.random.split(network_key, config.num_networks)
    ]
    exponent = lorenz.published.exponents[0]
    valid, compared, runs = [], [], []
    for network in networks:
        times, run, truth = predictions(network, test.values[0], config, config.horizon, exponent)
        valid.append(np.asarray(times.times))
        runs.append((run, truth))
        compared.append(compare(network, lorenz, test.values[0], config))
    delay = mackey_glass(config, delay_key)
    run, truth = runs[0]
    return ReservoirStudy(
        grid=grid,
        valid_times=np.array(valid),
        compared=tuple(compared),
        training_error=np.array([network.training_error.mean() for network in networks]),
        truth=truth,
        run=run,
        dt=config.dt,
        **delay,
    )


def predictions(network: Any, test: np.ndarray, config: Config, horizon: int, exponent: float | None) -> Any:
    """How long predictions from equally spaced starts stay valid, and the one of them that does so for the median."""
    first = np.linspace(config.num_washout, len(test) - horizon, config.num_starts).astype(int)
    before = np.stack([test[i - config.num_washout : i] for i in first])
    truth = np.stack([test[i : i + horizon] for i in first])
    runs = network.predict(before, horizon)
    # Deviations of the training series, not those of a few starts.
    scaled = (network.scale.apply(truth), network.scale.apply(runs))
    times = rd.valid_prediction_time(*scaled, lyapunov_exponent=exponent, dt=network.dt)
    shown = int(np.argsort(np.asarray(times.times))[(len(first) - 1) // 2])
    return times, runs[shown], truth[shown]


def compare(network: Any, system: Any, seen: np.ndarray, config: Config) -> rd.DynamicsComparison:
    """The closed loop beside the system, both from what a network has seen of it, through its readout."""
    first = np.linspace(config.num_washout, len(seen) - 1, config.num_runs).astype(int)
    states = network.synchronize(np.stack([seen[i - config.num_washout : i] for i in first]))
    scale = network.scale
    return rd.compare_dynamics(
        RungeKutta(system, config.dt),
        network.map,
        seen[first],
        copy_states=states,
        observation=scale.apply,
        copy_observation=network.cell.output,
        num_steps=config.num_judged,
        dt=config.dt,
        num_exponents=4,
        num_candidates=config.num_candidates,
    )


def mackey_glass(config: Config, key: Any) -> dict[str, np.ndarray]:
    """The same of a delay equation, of which one value is seen at a time, every unit of time."""
    sample_key, network_key = jax.random.split(key)
    system = systems.MackeyGlass()
    horizon = config.mackey_glass_horizon
    num_test = config.num_washout + 2 * horizon + 40 * config.num_starts
    per_sample = round(1 / system.time_step)
    series = systems.sample_system(
        rd.iterate(system, per_sample),
        config.num_mackey_glass + num_test,
        starts=np.asarray(system.start(sample_key), float)[None],
        observe=[-1],
        key=sample_key,
    )
    train, test = series.cut(config.num_mackey_glass)
    train = train.standardize()
    valid, lasted, shown = [], [], None
    for network_seed in jax.random.split(network_key, config.num_networks):
        untrained = rd.reservoir(
            1, config.num_units, spectral_radius=1.0, leak=0.4, input_scaling=0.5, bias_scaling=0.3,
            num_connections=min(6, config.num_units), key=network_seed,
        )  # fmt: skip
        network = untrained.fit(train, ridge=1e-10, num_washout=config.num_washout)
        times, run, truth = predictions(network, test.values[0], config, horizon, None)
        valid.append(np.asarray(times.times))
        lasted.append(np.asarray(times.lasted))
        shown = (run, truth) if shown is None else shown
    run, truth = shown or (np.zeros((0, 1)), np.zeros((0, 1)))
    return {
        "delay_truth": truth[:, 0],
        "delay_run": run[:, 0],
        "delay_valid": np.array(valid),
        "delay_lasted": np.array(lasted),
    }


def report(result: ReservoirStudy) -> str:
    """Exponents beside those of the system and the published ones, and valid times."""
    published = systems.Lorenz63().published
    true = published.exponents
    lines = [
        str(result.grid),
        "Lorenz 63, network 1:",
        result.compared[0].table(),
        "                  valid time (quartiles)    exponents",
        f"  system          {'':24}  " + "  ".join(f"{value:8.3f}" for value in true) + f"   ({published.source})",
        f"  one of theirs     {'':24}  "
        + "  ".join(f"{value:8.3f}" for value in PUBLISHED)
        + "   (R1 of Pathak et al. 2017, quoted from memory)",
    ]
    for row, times in enumerate(result.valid_times):
        low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
        values = "  ".join(f"{value:8.3f}" for value in result.exponents[row])
        lines.append(f"  network {row + 1}       {middle:6.2f} ({low:5.2f}, {high:5.2f})      {values}")
    number = len(result.valid_times)
    wanted = {
        f"largest exponent within 0.05 of {true[0]:.3f}": np.abs(result.exponents[:, 0] - true[0]) <= 0.05,
        "second exponent within 0.05 of 0": np.abs(result.exponents[:, 1]) <= 0.05,
        "valid for 5 Lyapunov times in the median": np.median(result.valid_times, axis=1) >= 5,
    }
    lines += [f"  {name}: {int(np.sum(held))} of {number} networks" for name, held in wanted.items()]
    lines.append(f"  range of {number} draws of the random weights, with the standard deviation:")
    medians = np.median(result.valid_times, axis=1)
    named = {"valid time, median": medians} | {f"exponent {k + 1}": result.exponents[:, k] for k in range(4)}
    for name, values in named.items():
        lines.append(f"    {name:<20} {values.min():8.3f} to {values.max():8.3f}   {np.std(values, ddof=1):7.3f}")
    for row, times in enumerate(result.delay_valid):
        lines.append(
            f"Mackey-Glass, network {row + 1}: valid for {np.median(times):.0f} units of time in the median of "
            f"{len(times)} starts, {int(result.delay_lasted[row].sum())} to the end"
        )
    return "\n".join(lines)


def plot(result: ReservoirStudy) -> Figure:
    """A prediction of Lorenz, valid times, exponents, and a prediction of Mackey-Glass."""
    figure, axes = plt.subplots(
        1, 4, figsize=(plotting.PAGE_WIDTH, 2.0), width_ratios=[1.3, 0.9, 1.0, 1.3], layout="constrained"
    )
    draw_run(axes[0], result)
    draw_times(axes[1], result)
    draw_exponents(axes[2], result)
    draw_delay(axes[3], result)
    return figure


def draw_run(axes: Any, result: ReservoirStudy) -> None:
    """The first variable of Lorenz and its prediction."""
    time = result.dt * systems.Lorenz63().published.exponents[0] * np.arange(len(result.run))
    axes.plot(time, result.truth[:, 0], color="black", linewidth=1.0, label="system")
    axes.plot(time, result.run[:, 0], color=plotting.COLORS["orange"], linewidth=0.8, label="network")
    axes.set(xlabel="time / Lyapunov times", ylabel="$x$", xlim=(0, time[-1]), ylim=(-21, 32))
    axes.set_yticks([-20, 0, 20])
    axes.legend(loc="upper right", ncols=2, fontsize=6.5, borderaxespad=0.1, columnspacing=0.8, handlelength=1)
    axes.set_title("a  Lorenz")


def draw_times(axes: Any, result: ReservoirStudy) -> None:
    """Valid times of all starts, and their medians."""
    for row, times in enumerate(result.valid_times):
        axes.plot(np.full(len(times), row + 1), times, ".", color=plotting.COLORS["sky"], markersize=3)
        axes.plot([row + 0.75, row + 1.25], [np.median(times)] * 2, color=plotting.COLORS["blue"], linewidth=1.5)
    number = len(result.valid_times)
    axes.set(xlabel="network", ylabel="valid / Lyapunov times", xlim=(0.4, number + 0.6), ylim=(0, None))
    axes.set_xticks(range(1, number + 1))
    axes.set_title("b  valid time")


def draw_exponents(axes: Any, result: ReservoirStudy) -> None:
    """Exponents of the networks and of the system."""
    true = systems.Lorenz63().published.exponents
    for number, value in enumerate(true, 1):
        axes.plot([number - 0.3, number + 0.3], [value] * 2, color="black", linewidth=1.2,
                  label="system" if number == 1 else None)  # fmt: skip
    # Side by side, in the order of the networks, so that none hides another.
    beside = np.linspace(-0.2, 0.2, len(result.exponents))
    for row, values in enumerate(result.exponents):
        axes.plot(np.arange(1, len(values) + 1) + beside[row], values, "o", color=plotting.COLORS["orange"],
                  markersize=2, label="networks" if row == 0 else None)  # fmt: skip
    axes.set(xlabel="index", ylabel=r"exponent / time", xlim=(0.5, result.exponents.shape[1] + 0.5))
    axes.set_xticks(range(1, result.exponents.shape[1] + 1))
    axes.legend(loc="center left", fontsize=6.5, borderaxespad=0.1, handlelength=1)
    axes.set_title("c  exponents")


def draw_delay(axes: Any, result: ReservoirStudy) -> None:
    """Mackey-Glass and its prediction."""
    time = np.arange(len(result.delay_run))
    axes.plot(time, result.delay_truth, color="black", linewidth=0.9)
    axes.plot(time, result.delay_run, color=plotting.COLORS["orange"], linewidth=0.7)
    axes.set(xlabel="time", ylabel="$x$", xlim=(0, max(1, len(time) - 1)))
    axes.set_title("d  Mackey-Glass")
