"""Networks that learn a system from its samples, by a regression and then by forcing, and are judged beside it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd

systems = rd.tasks.dynamical_systems


class Task(NamedTuple):
    """What is to be learned, and how."""

    name: str
    series: Any
    """To learn from, standardised."""
    system: Any
    """What copies are compared with: a map in the same units, or series recorded of it (K, T, N)."""
    truth: np.ndarray
    """Runs of it (K, T, N)."""
    exponent: float
    """The largest exponent of the system."""
    num_hidden: int
    num_directions: int | None
    ridge: float
    num_updates: int
    learning_rate: float
    strength: float
    window: int
    """Samples of a training sequence."""
    batch_size: int
    max_grad_norm: float
    num_starts: int
    """Predictions of each network, of `horizon` steps."""
    horizon: int
    num_networks: int = 1
    directions: str = "spread"
    """Which the ReLUs share, as in `shallow_start`."""


class Learned(rd.Result):
    """The networks of one task, by regression alone and after training.

    - `regressed`, `trained`: each network beside the system.
    - `one_step`: root mean square error of one step, in standard deviations, (2, networks).
    """

    name: str
    regressed: tuple[rd.DynamicsComparison, ...]
    trained: tuple[rd.DynamicsComparison, ...]
    one_step: np.ndarray
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

    def valid_times(self, compared: tuple[rd.DynamicsComparison, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Median and spread over starts for each network, in Lyapunov times of the system."""
        rows = [one["valid prediction time"] for one in compared]
        # Of a recorded system no exponent is measured: its times come in units of time.
        units = [1.0 if one.spectrum is not None else self.exponent for one in compared]
        medians, spreads = np.array([(row.copy, row.copy_error) for row in rows], float).T
        return medians * units, spreads * units

    @property
    def shown(self) -> int:
        """The network in the figure: its valid time is the median of all."""
        return middle(self.valid_times(self.trained)[0])


def is_close(row: Any, value: float, by: float) -> bool:
    """Whether what is measured of the copy is this near to a value."""
    return row.copy is not None and abs(row.copy - value) <= by


def judged_lines(learned: Learned) -> list[str]:
    """A line for each network, before and after training, under what the system shows against itself."""
    first = learned.trained[0]
    lines = [f"{learned.name}: system {number(first['D_stsp'].system, 19)} {number(first['D_H'].system, 7)}"]
    for name, compared, errors in zip(
        ("regression", "trained"), (learned.regressed, learned.trained), learned.one_step
    ):
        times, _ = learned.valid_times(compared)
        for row, one in enumerate(compared):
            exponents = [number(one[f"exponent {k + 1}"].copy) for k in range(min(3, num_exponents(one)))]
            error = number(one["exponent 1"].copy_error, 0) if exponents else "-"
            lines.append(
                f"  {name:<15} {row + 1:2d}  {errors[row]:8.1e} {number(one['D_stsp'].copy)} "
                f"{number(one['D_H'].copy, 7)} {times[row]:9.2f}     {''.join(exponents)} (+- {error}) "
                f"{number(one['Kaplan-Yorke dimension'].copy) if exponents else '-'}"
            )
    return lines


def num_exponents(compared: rd.DynamicsComparison) -> int:
    """How many exponents of a copy were measured."""
    return sum(row.name.startswith("exponent") for row in compared.measurements)


def number(value: float | None, width: int = 8) -> str:
    """A number that may not have been measured."""
    return f"{'-' if value is None else f'{value:.3f}':>{width}}"


def learn(task: Task, key: Any) -> tuple[list[Any], Learned]:
    """Networks of a task by regression and by forcing, both judged."""
    start_key, fit_key = jax.random.split(key)
    cells = [
        rd.training.shallow_start(
            task.series, task.num_hidden, num_directions=task.num_directions, directions=task.directions,
            ridge=task.ridge, dtype=np.float32, key=key,
        )
        for key in jax.random.split(start_key, task.num_networks)
    ]  # fmt: skip
    models = [rd.RNN(cell, identity_readout(task.truth.shape[-1])) for cell in cells]
    loss = rd.training.forced_loss(task.strength, fixed_readout=True)
    schedule = optax.cosine_decay_schedule(task.learning_rate, task.num_updates, alpha=0.01)
    fitted = rd.fit_ensemble(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *models),
        loss,
        systems.SeriesWindows(task.series, task.window, task.batch_size, dtype=np.float32),
        optax.adam(schedule),
        num_steps=task.num_updates,
        max_grad_norm=task.max_grad_norm,
        carry=loss.first_carry(),
        key=fit_key,
    )
    trained = [jax.tree.map(lambda leaf, i=i: leaf[i], fitted.last_models.cell) for i in range(task.num_networks)]
    regressed, judged = (tuple(compare(cell, task) for cell in some) for some in (cells, trained))
    medians = [one["valid prediction time"].copy for one in judged]
    shown = doubled(trained[middle(np.array(medians, float))])
    with jax.enable_x64(True):
        # Of its predictions, the one that stays valid for the median time.
        truth = task.truth[0]
        first = np.linspace(0, len(truth) - task.horizon - 1, task.num_starts).astype(int)
        future = np.stack([truth[i + 1 : i + 1 + task.horizon] for i in first])
        predicted = np.asarray(trajectories(rd.as_map(shown), truth[first], task.horizon + 1))[:, 1:]
        start = middle(np.asarray(rd.valid_prediction_time(future, predicted).times))
        copy = np.asarray(trajectories(rd.as_map(shown), truth[:1], min(8000, len(truth)), 500))[0]
    return trained, Learned(
        name=task.name,
        regressed=regressed,
        trained=judged,
        one_step=np.array([[one_step_error(cell, truth) for cell in some] for some in (cells, trained)]),
        truth=truth[: len(copy)],
        copy=copy,
        true_run=future[start, :, 0],
        run=predicted[start, :, 0],
        dt=task.series.dt,
        exponent=task.exponent,
    )


def compare(cell: Any, task: Task) -> rd.DynamicsComparison:
    """A network beside the system: every measure, with what the system shows against itself."""
    is_map = callable(task.system)
    return rd.compare_dynamics(
        task.system,
        rd.as_map(doubled(cell)),
        task.truth[:, 0] if is_map else None,
        num_steps=task.truth.shape[1],
        dt=task.series.dt,
        num_starts=task.num_starts,
        horizon=task.horizon,
    )


def one_step_error(cell: Any, truth: np.ndarray) -> float:
    """Root mean square error of one step, of every tenth."""
    with jax.enable_x64(True):
        steps = jax.vmap(rd.as_map(doubled(cell)))(jnp.asarray(truth[:-1:10]))
    return float(np.sqrt(np.mean((np.asarray(steps) - truth[1::10]) ** 2)))


def identity_readout(size: int) -> eqx.nn.Linear:
    """The variables themselves."""
    readout = eqx.nn.Linear(size, size, use_bias=False, key=jax.random.key(0))
    return eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(size))


def doubled(cell: Any) -> Any:
    """The network with exactly these weights, to be computed in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), cell)


def middle(values: np.ndarray) -> int:
    """The index of the median, of an even number the lower of the two."""
    return int(np.argsort(values)[(len(values) - 1) // 2])


class Scaled(eqx.Module):
    """A map in the units of a standardised series."""

    step: Any
    mean: np.ndarray
    deviation: np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        return (self.step(x * self.deviation + self.mean) - self.mean) / self.deviation


def in_units_of(series: Any, step: Any) -> Scaled:
    """A map of the system in the units of a standardised series."""
    return Scaled(step, series.scale.mean, series.scale.deviation)


def runs_of(system: Scaled, num_runs: int, num_steps: int, key: Any) -> np.ndarray:
    """Runs on the attractor (K, T, N)."""
    with jax.enable_x64(True):
        starts = jax.random.normal(key, (num_runs, system.mean.size))
        return np.asarray(trajectories(system, starts, num_steps, 1000))


@eqx.filter_jit
def trajectories(f: Any, starts: Any, num_steps: int, num_transient: int = 0) -> jax.Array:
    """Runs from several states (K, T, N)."""
    return jax.vmap(lambda x: rd.trajectory(f, x, num_steps, num_transient=num_transient))(jnp.asarray(starts))
