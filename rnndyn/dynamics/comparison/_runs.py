"""Runs of what is compared: a map that is iterated, or a series that was recorded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnndyn._programs import Program
from rnndyn._validation import check_states
from rnndyn.dynamics.comparison._series import check_values, is_constant
from rnndyn.dynamics.comparison.verdicts import CopyVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.trajectory import trajectory

FAR = 100.0
"""A copy has left when it is this many ranges of its system away: further than any state that could still return to
the grid, and early enough that squares are in range."""


class Runs(NamedTuple):
    """Several runs of one system, as they are observed, and the states behind them where it is a map."""

    observed: np.ndarray
    """`(K, T, n)`."""
    states: np.ndarray | None
    """`(K, T, N)`, or `None` for a recorded series."""
    map: Program | None
    observation: Callable | None

    def observe(self, states: np.ndarray) -> np.ndarray:
        """What is seen of states `(K, T, N)`: `(K, T, n)`."""
        return observe(self.observation, states)

    def segment_length(self, least: int) -> int:
        """Rows of each piece, of at least so many; 0 where the runs are too short."""
        return self.observed.shape[1] // -(-least // len(self.observed))

    def segments(self, least: int) -> np.ndarray:
        """The runs cut into at least so many pieces of one length, `(R, L, n)`."""
        per_run, length = -(-least // len(self.observed)), self.segment_length(least)
        return self.observed[:, : per_run * length].reshape(-1, length, self.observed.shape[2])


def make_runs(
    name: str,
    system: Any,
    initial_states: Any,
    observation: Callable | None,
    *,
    num_steps: int,
    num_transient: int,
    states_name: str,
) -> Runs:
    """The runs of a map from its initial states, or the series themselves (call inside `double_precision`)."""
    if not callable(system):
        observed = np.asarray(system, np.float64)
        if observed.ndim not in (2, 3) or 0 in observed.shape:
            raise ValueError(
                f"{name}: expected a map, or series of shape (T, N) or (K, T, N), got shape {observed.shape}."
            )
        return Runs(observe(observation, observed.reshape(-1, *observed.shape[-2:])), None, None, observation)
    if initial_states is None:
        raise ValueError(f"{states_name}: {name} is a map, so it needs states to start from, (K, N).")
    starts = np.asarray(initial_states, np.float64)
    starts = starts[None] if starts.ndim == 1 else starts
    check_states(states_name, starts)
    program = let_in(system, starts[0], name=name)
    states = np.asarray(iterate_from(program, starts, num_steps, num_transient))
    return Runs(observe(observation, states), states, program, observation)


def iterate_from(program: Program, starts: np.ndarray, num_steps: int, num_transient: int = 0) -> jax.Array:
    """The trajectories of several states, `(K, T, N)`."""
    run = lambda x: trajectory(program, x, num_steps, num_transient=num_transient)
    return jax.vmap(run)(jnp.asarray(starts))


def observe(observation: Callable | None, states: np.ndarray) -> np.ndarray:
    """An observation of every state `(K, T, N)`; the states themselves where there is none."""
    if observation is None:
        return states
    observed = np.asarray(jax.vmap(jax.vmap(observation))(jnp.asarray(states)))
    if observed.ndim != 3:
        raise ValueError(
            f"observation: expected a vector (n,) for each state (N,), got an array of shape {observed.shape[2:]}."
        )
    return observed


def check_system(name: str, runs: Runs) -> None:
    """The system itself has to be fit to be compared with."""
    check_values(name, runs.observed.reshape(-1, runs.observed.shape[2]), varies=True)


def check_gaps(name: str, runs: Runs) -> None:
    """Raise where a recorded run is lost and goes on: samples are missing. Lost for good, it diverged."""
    if runs.map is not None:
        return
    finite = np.isfinite(runs.observed).all(axis=2)
    goes_on = np.flip(np.maximum.accumulate(np.flip(finite, axis=1), axis=1), axis=1)
    gaps = ~finite & goes_on
    if gaps.any():
        run, row = np.argwhere(gaps)[0]
        raise ValueError(
            f"{name}: {int(gaps.sum())} rows hold NaN or infinity and finite rows come after them (the first is row "
            f"{row} of run {run}): samples are missing. Interpolate them, or cut the series there."
        )


def judge_copy(system: Runs, copy: Runs) -> tuple[Any, Runs]:
    """What became of the copy; and its runs, NaN from where they left the system by more than `FAR` of its ranges."""
    rows = system.observed.reshape(-1, system.observed.shape[2])
    middle, size = (rows.max(0) + rows.min(0)) / 2, rows.max(0) - rows.min(0)
    near = np.all(np.abs(copy.observed - middle) <= FAR * size, axis=2)
    near = np.logical_and.accumulate(near, axis=1)
    if not near.all():
        cut = lambda rows: None if rows is None else np.where(near[..., None], rows, np.nan)
        return CopyVerdict.diverges, copy._replace(observed=cut(copy.observed), states=cut(copy.states))
    # Standing still to a millionth of the range of the system, in the second half of every run.
    half = copy.observed[:, copy.observed.shape[1] // 2 :]
    stands = np.all(half.max(1) - half.min(1) <= 1e-6 * size)
    return (CopyVerdict.settles if stands else CopyVerdict.in_range), copy


def varies(segments: np.ndarray) -> bool:
    """Whether every channel of every segment varies."""
    return not any(is_constant(segment).any() for segment in segments)
