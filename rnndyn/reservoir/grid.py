"""Hyper-parameters of echo state networks: every combination trained and judged in one batched call."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.networks.unroll import unroll
from rnndyn.reservoir.cells import ClosedLoopCell
from rnndyn.reservoir.reservoir import (
    RandomWeights,
    Reservoir,
    check_settings,
    prepare,
    random_weights,
    reservoir,
    scaled_cell,
)
from rnndyn.reservoir.ridge import check_ridge, gram, solve
from rnndyn.results import Result
from rnndyn.tasks.dynamical_systems.series import Series, as_series

SETTINGS = ("spectral_radius", "leak", "input_scaling", "bias_scaling")


def reservoir_grid(
    series: Any,
    validation: Any,
    num_units: int = 300,
    *,
    spectral_radius: Sequence[float] = (0.4, 0.8, 1.2),
    leak: Sequence[float] = (1.0,),
    input_scaling: Sequence[float] = (0.05, 0.1, 0.3),
    bias_scaling: Sequence[float] = (0.1,),
    ridge: Sequence[float] = (1e-8, 1e-6, 1e-4),
    num_connections: int = 6,
    squares: bool = True,
    num_washout: int = 100,
    num_starts: int = 20,
    num_free: int = 300,
    tolerance: float = 0.4,
    batch_size: int = 9,
    key: PRNGKeyArray,
) -> "ReservoirGrid":
    """Train an echo state network with every combination of settings and say how long each stays with the truth.

    One set of random weights serves all: it is scaled. Each network is driven by pieces of the validation series, then
    left alone; what counts is the median number of steps until its error exceeds the tolerance.

    **Arguments:**

    - `series`, `validation`: what to learn from, and what to judge by: as in `Reservoir.fit`, of the same variables.
        The validation is brought to the scale of `series`.
    - `num_units`, `num_connections`, `squares`, `key`: as in `reservoir`.
    - `spectral_radius`, `leak`, `input_scaling`, `bias_scaling`, `ridge`: the values to combine.
    - `num_washout`: samples that only drive, at the beginning of `series` and before every start.
    - `num_starts`: free runs for each combination, from equally spaced places.
    - `num_free`: the steps of a free run.
    - `tolerance`: the root mean square error, in standard deviations, at which a run counts as lost.
    - `batch_size`: combinations of everything but `ridge` that are computed at a time, for the memory.

    **Returns:** a `ReservoirGrid`: one row for each combination; `.best` are the settings of the best.

    **Raises:** `ValueError` for an empty list, values out of range, or a validation that is too short.
    """
    lists = {"spectral_radius": spectral_radius, "leak": leak, "input_scaling": input_scaling}
    lists |= {"bias_scaling": bias_scaling, "ridge": ridge}
    for name, values in lists.items():
        if len(values) == 0:
            raise ValueError(f"{name}: expected at least one value, got none.")
    check_settings(*(np.asarray(lists[name], float) for name in SETTINGS))
    check_ridge(np.asarray(ridge, float))
    for name, value in (("num_starts", num_starts), ("num_free", num_free), ("batch_size", batch_size)):
        check_at_least(name, value, 1)
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive error, got {tolerance}.")
    series = prepare(series, None, num_washout)
    judged = validation if isinstance(validation, Series) else as_series(validation)
    if judged.num_variables != series.num_variables:
        raise ValueError(
            f"validation: expected the {series.num_variables} variables of the series, got {judged.num_variables}."
        )
    judged = judged.in_units().standardize(series)
    pieces = _pieces(judged.values, num_starts, num_washout, num_free)
    weights = random_weights(series.num_variables, num_units, num_connections, key)
    combinations = np.array(list(itertools.product(*(lists[name] for name in SETTINGS))), float)
    with jax.enable_x64(True):
        program = lambda part: np.asarray(
            _judge(weights, jnp.asarray(part), jnp.asarray(ridge, "float64"), jnp.asarray(series.values),
                   jnp.asarray(pieces), num_washout, squares, tolerance)
        )  # fmt: skip
        times = np.concatenate(
            [program(combinations[i : i + batch_size]) for i in range(0, len(combinations), batch_size)]
        )
    rows = np.repeat(combinations, len(ridge), axis=0)
    columns = {name: rows[:, i] for i, name in enumerate(SETTINGS)}
    columns["ridge"] = np.tile(np.asarray(ridge, float), len(combinations))
    return ReservoirGrid(
        **columns,
        steps=times.reshape(len(rows), num_starts),
        num_free=num_free,
        num_units=num_units,
        num_connections=num_connections,
        squares=squares,
    )


class ReservoirGrid(Result):
    """Every combination of settings that was tried, a row each, and how its free runs went.

    Returned by `reservoir_grid`; times are steps. What becomes NaN counts as lost there; a free run that was never lost
    has `num_free` steps.

    Reference: M. Lukosevicius (2012), *A practical guide to applying echo state networks*.
    """

    spectral_radius: np.ndarray
    """(rows,), as the other settings."""
    leak: np.ndarray
    input_scaling: np.ndarray
    bias_scaling: np.ndarray
    ridge: np.ndarray
    """The penalty of the readout."""
    steps: np.ndarray
    """(rows, starts): steps until each free run was lost."""
    num_free: int
    """The steps of a free run: one that is as long was never lost."""
    num_units: int
    num_connections: int
    squares: bool

    def __len__(self) -> int:
        return len(self.ridge)

    @property
    def median_steps(self) -> np.ndarray:
        """The median over the starts, for each row."""
        return np.median(self.steps, axis=1)

    @property
    def best_row(self) -> int:
        """The row with the largest median; of several, the one with the larger mean."""
        return int(np.lexsort((self.steps.mean(axis=1), self.median_steps))[-1])

    @property
    def best(self) -> dict[str, float]:
        """The settings of the best row."""
        return {name: float(getattr(self, name)[self.best_row]) for name in (*SETTINGS, "ridge")}

    def best_reservoir(self, input_size: int, *, key: PRNGKeyArray) -> Reservoir:
        """The network of the best row, untrained, with the weights of `key`: the key of the grid gives the same."""
        settings = {name: value for name, value in self.best.items() if name != "ridge"}
        return reservoir(
            input_size, self.num_units, num_connections=self.num_connections, squares=self.squares, key=key, **settings
        )

    def table(self) -> str:
        """The five best rows."""
        lines = [
            f"ReservoirGrid: {len(self)} combinations, {self.steps.shape[1]} free runs each",
            "  radius   leak  input   bias    ridge  median steps (quartiles)",
        ]
        for row in np.argsort(-self.median_steps, kind="stable")[:5]:
            low, middle, high = np.quantile(self.steps[row], [0.25, 0.5, 0.75])
            lines.append(
                f"  {self.spectral_radius[row]:6.3g} {self.leak[row]:6.3g} {self.input_scaling[row]:6.3g} "
                f"{self.bias_scaling[row]:6.3g} {self.ridge[row]:8.2g}  "
                f"{middle:.0f} ({low:.0f}, {high:.0f})"
            )
        return "\n".join(lines)


def _pieces(values: np.ndarray, num_starts: int, num_washout: int, num_free: int) -> np.ndarray:
    """Pieces (S, washout + free, I) from equally spaced places of the series."""
    length = num_washout + num_free
    last = values.shape[1] - length
    if last < 0:
        raise ValueError(
            f"validation: a washout of {num_washout} and a free run of {num_free} need {length} samples, got "
            f"{values.shape[1]}."
        )
    flat = [(k, int(place)) for k in range(len(values)) for place in np.linspace(0, last, num_starts)]
    chosen = [flat[i] for i in np.linspace(0, len(flat) - 1, num_starts).astype(int)]
    return np.stack([values[k, place : place + length] for k, place in chosen])


@compiled
def _judge(
    weights: RandomWeights,
    settings: Array,
    ridges: Array,
    values: Array,
    pieces: Array,
    num_washout: int,
    squares: bool,
    tolerance: float,
) -> Array:
    """Steps until each free run is lost: (combinations, ridges, starts)."""
    before, after = pieces[:, :num_washout], pieces[:, num_washout:]

    def one(setting: Array) -> Array:
        cell = scaled_cell(weights, *setting)
        sums = gram(cell, values, num_washout, squares)
        states = jax.vmap(lambda signal: unroll(cell, signal)[-1])(before)

        def with_ridge(ridge: Array) -> Array:
            weight, bias, _ = solve(sums, ridge)
            loop = ClosedLoopCell(cell, weight, bias, squares)

            def free(state: Array, truth: Array) -> Array:
                step = lambda state, _: (loop(state, jnp.zeros(0, state.dtype)), loop.output(state))
                outputs = jax.lax.scan(step, state, length=len(truth))[1]
                error = jnp.sqrt(jnp.mean((outputs - truth) ** 2, axis=1))
                # NaN counts as lost.
                lost = ~(error <= tolerance)
                return jnp.where(lost.any(), jnp.argmax(lost), len(truth))

            return jax.vmap(free)(states, after)

        return jax.vmap(with_ridge)(ridges)

    return jax.vmap(one)(settings)
